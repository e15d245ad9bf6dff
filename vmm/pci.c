/*
 * vmm/pci.c: the host bridge: configuration mechanism 1 (PCI Local Bus 3.0
 * section 3.2.2.3.2) and the window in which the BARs of functions lie.
 *
 *	0xcf8	configuration address: takes whole 4 bytes only. Smaller accesses
 *		in its place pass by it: 0xcf9 is the reset control (platform.c).
 *	0xcfc	configuration data: 1, 2 or 4 bytes of the addressed register
 *
 * Threads: everything under the bridge's lock, which the bus takes; then the lock
 * of the function that is meant.
 */
#include "vmm/pci_internal.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vm_internal.h"

enum { RANGE_PORTS, RANGE_WINDOW };

#define PORT_ADDRESS    0xcf8
#define PORTS           8
#define RESET_CONTROL   1 /* 0xcf9, from the first of the ports */
#define DATA            4 /* 0xcfc */
#define ADDRESS_ENABLE  UINT32_C(0x80000000)
#define ADDRESS_BITS    UINT32_C(0x80fffffc)
#define ADDRESS_BUS_FN  UINT32_C(0x00ff0700)
#define ADDRESS_SLOT(a) ((a) >> 11 & 0x1f)
#define ADDRESS_REG(a)  ((a) & 0xfc)

/* A bridge that drivers leave alone: Red Hat's id of QEMU's generic one. */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS  0x060000

struct pci_host_state {
	uint32_t address;
};

struct pci_host {
	struct vm_device device;
	/* Constant after the last vm_pci_add(). */
	struct vm_pci_function *slots[VM_PCI_SLOTS];
	uint64_t next_gpa; /* where the window is free from */
	/* Device lock. */
	struct pci_host_state s;
	/* Slot 0: configuration space that only reads; on no list of devices. */
	struct vm_pci_function bridge;
};

static struct pci_host *to_host(struct vm_device *d)
{
	return (struct pci_host *)d;
}

static struct vm_pci_function *addressed(struct pci_host *h)
{
	uint32_t a = h->s.address;

	if (!(a & ADDRESS_ENABLE) || (a & ADDRESS_BUS_FN))
		return NULL;
	return h->slots[ADDRESS_SLOT(a)];
}

static void read_data(struct pci_host *h, unsigned int byte, uint8_t *data,
		      unsigned int bytes)
{
	struct vm_pci_function *f = addressed(h);

	memset(data, 0xff, bytes);
	if (!f)
		return;
	pthread_mutex_lock(&f->device.lock);
	pci_config_read(f, ADDRESS_REG(h->s.address) + byte, data, bytes);
	pthread_mutex_unlock(&f->device.lock);
}

static void write_data(struct pci_host *h, unsigned int byte,
		       const uint8_t *data, unsigned int bytes)
{
	struct vm_pci_function *f = addressed(h);

	if (!f)
		return;
	pthread_mutex_lock(&f->device.lock);
	pci_config_write(f, ADDRESS_REG(h->s.address) + byte, data, bytes);
	pthread_mutex_unlock(&f->device.lock);
}

static void read_ports(struct pci_host *h, uint64_t port, uint8_t *data,
		       unsigned int bytes)
{
	if (port >= DATA)
		read_data(h, (unsigned int)(port - DATA), data, bytes);
	else if (port == 0 && bytes == 4)
		memcpy(data, &h->s.address, bytes);
	else if (port == RESET_CONTROL && bytes == 1)
		data[0] = vm_platform_cf9_read(h->device.vm);
	else
		memset(data, 0xff, bytes);
}

static void write_ports(struct pci_host *h, uint64_t port, const uint8_t *data,
			unsigned int bytes)
{
	if (port >= DATA) {
		write_data(h, (unsigned int)(port - DATA), data, bytes);
	} else if (port == 0 && bytes == 4) {
		memcpy(&h->s.address, data, bytes);
		h->s.address &= ADDRESS_BITS;
	} else if (port == RESET_CONTROL && bytes == 1) {
		vm_platform_cf9_write(h->device.vm, data[0]);
	}
}

/* The function that answers at gpa, its lock taken; NULL: none. */
static struct vm_pci_function *lock_target(struct pci_host *h, uint64_t gpa,
					   unsigned int bytes,
					   unsigned int *ret_bar,
					   uint64_t *ret_offset)
{
	for (unsigned int i = 1; i < VM_PCI_SLOTS; i++) {
		struct vm_pci_function *f = h->slots[i];

		if (!f || !pci_find_bar(f, gpa, bytes, ret_bar, ret_offset))
			continue;
		pthread_mutex_lock(&f->device.lock);
		return f;
	}
	return NULL;
}

static void host_read(struct vm_device *d, unsigned int range, uint64_t offset,
		      uint8_t *data, unsigned int bytes)
{
	struct pci_host *h = to_host(d);
	struct vm_pci_function *f;
	unsigned int bar;

	if (range == RANGE_PORTS) {
		read_ports(h, offset, data, bytes);
		return;
	}
	f = lock_target(h, VM_PCI_MMIO_GPA + offset, bytes, &bar, &offset);
	if (!f) {
		memset(data, 0xff, bytes);
		return;
	}
	pci_bar_read(f, bar, offset, data, bytes);
	pthread_mutex_unlock(&f->device.lock);
}

static void host_write(struct vm_device *d, unsigned int range, uint64_t offset,
		       const uint8_t *data, unsigned int bytes)
{
	struct pci_host *h = to_host(d);
	struct vm_pci_function *f;
	unsigned int bar;

	if (range == RANGE_PORTS) {
		write_ports(h, offset, data, bytes);
		return;
	}
	f = lock_target(h, VM_PCI_MMIO_GPA + offset, bytes, &bar, &offset);
	if (!f)
		return;
	pci_bar_write(f, bar, offset, data, bytes);
	pthread_mutex_unlock(&f->device.lock);
}

static void host_reset(struct vm_device *d)
{
	to_host(d)->s = (struct pci_host_state){ 0 };
}

static const struct vm_field host_fields[] = {
	VM_FIELD(1, VM_FIELD_UINT, struct pci_host_state, address),
};

static void host_save(struct vm_device *d, void *state)
{
	*(struct pci_host_state *)state = to_host(d)->s;
}

static int host_load(struct vm_device *d, const void *state)
{
	const struct pci_host_state *s = state;

	if (s->address & ~ADDRESS_BITS)
		return -EINVAL;
	to_host(d)->s = *s;
	return 0;
}

static void host_free(struct vm_device *d)
{
	struct pci_host *h = to_host(d);

	pthread_mutex_destroy(&h->bridge.device.lock);
	free(h);
}

static const struct vm_device_ops host_ops = {
	.name = "pci",
	.read = host_read,
	.write = host_write,
	.reset = host_reset,
	.fields = host_fields,
	.nr_fields = sizeof(host_fields) / sizeof(host_fields[0]),
	.state_bytes = sizeof(struct pci_host_state),
	.save = host_save,
	.load = host_load,
	.free = host_free,
};

int vm_pci_host_new(struct vm *vm, struct vm_device **ret_device)
{
	struct pci_host *h = calloc(1, sizeof(*h));
	int ret;

	(void)vm;
	if (!h)
		return -ENOMEM;
	ret = -pthread_mutex_init(&h->bridge.device.lock, NULL);
	if (ret < 0) {
		free(h);
		return ret;
	}
	vm_pci_function_init(&h->bridge, BRIDGE_VENDOR, BRIDGE_DEVICE, 0,
			     BRIDGE_CLASS, 0, 0);
	memset(h->bridge.write_mask, 0, sizeof(h->bridge.write_mask));
	h->slots[0] = &h->bridge;
	h->next_gpa = VM_PCI_MMIO_GPA;
	h->device.ops = &host_ops;
	h->device.ranges[RANGE_PORTS] =
		(struct vm_device_range){ VM_BUS_PIO, PORT_ADDRESS, PORTS };
	h->device.ranges[RANGE_WINDOW] = (struct vm_device_range){
		VM_BUS_MMIO, VM_PCI_MMIO_GPA, VM_PCI_MMIO_BYTES
	};
	h->device.nr_ranges = 2;
	*ret_device = &h->device;
	return 0;
}

static int free_slot(const struct pci_host *h, unsigned int *ret_slot)
{
	for (unsigned int i = 1; i < VM_PCI_SLOTS; i++) {
		if (!h->slots[i]) {
			*ret_slot = i;
			return 0;
		}
	}
	return -ENOSPC;
}

/* BARs one behind the other, each aligned to its size. */
static int assign_bars(struct vm_pci_function *f, uint64_t *next_gpa)
{
	uint64_t gpa = *next_gpa;

	for (unsigned int i = 0; i < VM_PCI_BARS; i++) {
		uint64_t bytes = f->bar_bytes[i];
		uint32_t value;

		if (bytes == 0)
			continue;
		gpa = (gpa + bytes - 1) & ~(bytes - 1);
		if (gpa - VM_PCI_MMIO_GPA > VM_PCI_MMIO_BYTES - bytes)
			return -ENOSPC;
		value = (uint32_t)gpa;
		memcpy(f->power_on + PCI_BASE_ADDRESS_0 + (size_t)4 * i, &value,
		       sizeof(value));
		gpa += bytes;
	}
	memcpy(f->config, f->power_on, sizeof(f->config));
	*next_gpa = gpa;
	return 0;
}

int vm_pci_add(struct vm *vm, struct vm_pci_function *f)
{
	struct pci_host *h = to_host(vm->pci);
	uint64_t next_gpa = h->next_gpa;
	unsigned int slot;
	int ret;

	assert(f->device.nr_ranges == 0);
	ret = free_slot(h, &slot);
	if (ret == 0)
		ret = assign_bars(f, &next_gpa);
	if (ret == 0)
		ret = pci_msix_attach(vm, f);
	if (ret == 0)
		ret = vm_device_add(vm, &f->device);
	if (ret < 0)
		return ret;
	h->next_gpa = next_gpa;
	h->slots[slot] = f;
	f->slot = slot;
	return 0;
}
