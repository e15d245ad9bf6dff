/*
 * vmm/irq.c: interrupts and doorbells as eventfds: KVM's table of GSIs, irqfds,
 * ioeventfds.
 *
 *	GSI 0 to 23	the pins of the I/O APIC, 0 to 15 those of the PICs too
 *	GSI 24 and up	messages (MSIs), as many as devices asked for
 *
 * KVM takes the table only whole, so it is kept here. Until the first message is
 * set, KVM's own table, which has the same pins, stays in force.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdlib.h>

#define PINS_IOAPIC 24
#define PINS_PIC    8 /* of each of the two */
#define FIRST_MSI   PINS_IOAPIC
/* Entries of the table in front of the messages. */
#define PIN_ENTRIES (PINS_IOAPIC + 2 * PINS_PIC)

/* KVM_MAX_IRQ_ROUTES in the kernel's kvm_host.h. */
#define ENTRIES_MAX 4096

int vm_irq_init(struct vm *vm)
{
	return -pthread_mutex_init(&vm->msi_lock, NULL);
}

void vm_irq_fini(struct vm *vm)
{
	free(vm->routes);
	pthread_mutex_destroy(&vm->msi_lock);
}

static void add_pin(struct kvm_irq_routing *r, uint32_t gsi, uint32_t chip,
		    uint32_t pin)
{
	struct kvm_irq_routing_entry *e = &r->entries[r->nr++];

	*e = (struct kvm_irq_routing_entry){ .gsi = gsi,
					     .type = KVM_IRQ_ROUTING_IRQCHIP };
	e->u.irqchip.irqchip = chip;
	e->u.irqchip.pin = pin;
}

/* The pins as KVM_CREATE_IRQCHIP connects them. */
static void add_pins(struct kvm_irq_routing *r)
{
	for (uint32_t gsi = 0; gsi < PINS_IOAPIC; gsi++)
		add_pin(r, gsi, KVM_IRQCHIP_IOAPIC, gsi);
	for (uint32_t gsi = 0; gsi < PINS_PIC; gsi++) {
		add_pin(r, gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
		add_pin(r, PINS_PIC + gsi, KVM_IRQCHIP_PIC_SLAVE, gsi);
	}
}

int vm_msi_alloc(struct vm *vm, unsigned int nr, unsigned int *ret_first_gsi)
{
	size_t used = vm->routes ? vm->routes->nr : PIN_ENTRIES;
	struct kvm_irq_routing *r;

	if (nr > ENTRIES_MAX - used)
		return -ENOSPC;
	r = realloc(vm->routes,
		    sizeof(*r) + (used + nr) * sizeof(r->entries[0]));
	if (!r)
		return -ENOMEM;
	if (!vm->routes) {
		r->nr = r->flags = 0;
		add_pins(r);
	}
	vm->routes = r;
	*ret_first_gsi = (unsigned int)(FIRST_MSI + used - PIN_ENTRIES);
	for (unsigned int i = 0; i < nr; i++)
		r->entries[r->nr++] = (struct kvm_irq_routing_entry){
			.gsi = *ret_first_gsi + i, .type = KVM_IRQ_ROUTING_MSI
		};
	return 0;
}

int vm_msi_attach(struct vm *vm, unsigned int gsi, int fd)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = gsi };

	return vm_ioctl(vm->fd, KVM_IRQFD, &irqfd);
}

int vm_msi_route(struct vm *vm, unsigned int gsi, uint64_t address,
		 uint32_t data)
{
	struct kvm_irq_routing_entry *e;
	int ret = 0;

	pthread_mutex_lock(&vm->msi_lock);
	e = &vm->routes->entries[PIN_ENTRIES + gsi - FIRST_MSI];
	if (e->u.msi.address_lo != (uint32_t)address ||
	    e->u.msi.address_hi != (uint32_t)(address >> 32) ||
	    e->u.msi.data != data) {
		e->u.msi.address_lo = (uint32_t)address;
		e->u.msi.address_hi = (uint32_t)(address >> 32);
		e->u.msi.data = data;
		ret = vm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, vm->routes);
	}
	pthread_mutex_unlock(&vm->msi_lock);
	return ret;
}

int vm_doorbell(struct vm *vm, uint64_t gpa, int fd, bool on)
{
	struct kvm_ioeventfd io = {
		.addr = gpa,
		.len = 2,
		.fd = fd,
		.flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	return vm_ioctl(vm->fd, KVM_IOEVENTFD, &io);
}
