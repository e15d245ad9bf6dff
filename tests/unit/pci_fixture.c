#include "pci_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc

struct fake_kvm fake_kvm;

static int set_doorbell(const struct kvm_ioeventfd *io)
{
	struct fake_kvm *k = &fake_kvm;
	unsigned int i = 0;

	while (i < k->nr_doorbells && (k->doorbells[i].gpa != io->addr ||
				       k->doorbells[i].fd != io->fd))
		i++;
	if (io->flags & KVM_IOEVENTFD_FLAG_DEASSIGN) {
		if (i == k->nr_doorbells) {
			k->nr_errors++;
			return -ENOENT;
		}
		k->doorbells[i] = k->doorbells[--k->nr_doorbells];
		return 0;
	}
	if (i < k->nr_doorbells || i == DOORBELLS_MAX)
		return -EEXIST;
	k->doorbells[i].gpa = io->addr;
	k->doorbells[i].fd = io->fd;
	k->nr_doorbells++;
	return 0;
}

static int set_routes(const struct kvm_irq_routing *r)
{
	struct fake_kvm *k = &fake_kvm;

	if (r->nr > sizeof(k->routes) / sizeof(k->routes[0]))
		return -EINVAL;
	memcpy(k->routes, r->entries, r->nr * sizeof(r->entries[0]));
	k->nr_routes = r->nr;
	k->nr_tables++;
	return 0;
}

int __wrap_vm_ioctl(int fd, unsigned long request, void *arg);

int __wrap_vm_ioctl(int fd, unsigned long request, void *arg)
{
	(void)fd;
	switch (request) {
	case KVM_IOEVENTFD:
		return set_doorbell(arg);
	case KVM_SET_GSI_ROUTING:
		return set_routes(arg);
	case KVM_IRQFD:
		fake_kvm.nr_irqfds++;
		return 0;
	default:
		return -ENOTTY;
	}
}

struct vm *pci_machine(uint64_t ram_bytes)
{
	struct vm *vm = vdrv_machine(ram_bytes);

	memset(&fake_kvm, 0, sizeof(fake_kvm));
	assert_int_equal(vm_pci_host_new(vm, &vm->pci), 0);
	assert_int_equal(vm_device_add(vm, vm->pci), 0);
	return vm;
}

uint32_t pci_in(struct vm *vm, uint16_t port, unsigned int bytes)
{
	uint32_t value = 0;

	vm_bus_access(vm, VM_BUS_PIO, port, (uint8_t *)&value, bytes, false);
	return value;
}

void pci_out(struct vm *vm, uint16_t port, unsigned int bytes, uint32_t value)
{
	vm_bus_access(vm, VM_BUS_PIO, port, (uint8_t *)&value, bytes, true);
}

static uint16_t select_register(struct vm *vm, unsigned int slot,
				unsigned int reg)
{
	pci_out(vm, CONFIG_ADDRESS, 4, 0x80000000u | slot << 11 | (reg & 0xfc));
	return (uint16_t)(CONFIG_DATA + reg % 4);
}

uint32_t pci_cfg_read(struct vm *vm, unsigned int slot, unsigned int reg,
		      unsigned int bytes)
{
	return pci_in(vm, select_register(vm, slot, reg), bytes);
}

void pci_cfg_write(struct vm *vm, unsigned int slot, unsigned int reg,
		   unsigned int bytes, uint32_t value)
{
	pci_out(vm, select_register(vm, slot, reg), bytes, value);
}

uint64_t pci_mmio_read(struct vm *vm, uint64_t gpa, unsigned int bytes)
{
	uint64_t value = 0;

	vm_bus_access(vm, VM_BUS_MMIO, gpa, (uint8_t *)&value, bytes, false);
	return value;
}

void pci_mmio_write(struct vm *vm, uint64_t gpa, unsigned int bytes,
		    uint64_t value)
{
	vm_bus_access(vm, VM_BUS_MMIO, gpa, (uint8_t *)&value, bytes, true);
}

const struct kvm_irq_routing_msi *pci_route(unsigned int gsi)
{
	for (unsigned int i = 0; i < fake_kvm.nr_routes; i++) {
		const struct kvm_irq_routing_entry *e = &fake_kvm.routes[i];

		if (e->gsi == gsi && e->type == KVM_IRQ_ROUTING_MSI)
			return &e->u.msi;
	}
	return NULL;
}

bool pci_has_doorbell(uint64_t gpa)
{
	for (unsigned int i = 0; i < fake_kvm.nr_doorbells; i++) {
		if (fake_kvm.doorbells[i].gpa == gpa)
			return true;
	}
	return false;
}
