/* vmm/bus.c: which device answers at an address, and interrupt lines. */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <string.h>

static bool ranges_overlap(const struct vm_device_range *a,
			   const struct vm_device_range *b)
{
	return a->bus == b->bus && a->base < b->base + b->bytes &&
	       b->base < a->base + a->bytes;
}

static bool devices_clash(const struct vm_device *a, const struct vm_device *b)
{
	if (strcmp(a->ops->name, b->ops->name) == 0)
		return true;
	for (unsigned int i = 0; i < a->nr_ranges; i++) {
		for (unsigned int j = 0; j < b->nr_ranges; j++) {
			if (ranges_overlap(&a->ranges[i], &b->ranges[j]))
				return true;
		}
	}
	return false;
}

int vm_device_add(struct vm *vm, struct vm_device *d)
{
	int ret;

	if (vm->nr_devices == VM_DEVICES_MAX)
		return -ENOSPC;
	for (size_t i = 0; i < vm->nr_devices; i++) {
		if (devices_clash(vm->devices[i], d))
			return -EBUSY;
	}
	ret = pthread_mutex_init(&d->lock, NULL);
	if (ret != 0)
		return -ret;
	d->vm = vm;
	vm->devices[vm->nr_devices++] = d;
	return 0;
}

size_t vm_devices(struct vm *vm, struct vm_device *const **ret_devices)
{
	*ret_devices = vm->devices;
	return vm->nr_devices;
}

int vm_irq_set(struct vm *vm, unsigned int gsi, int level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = (uint32_t)level };

	return vm_ioctl(vm->fd, KVM_IRQ_LINE, &irq);
}

/*
 * An access that sticks out of a range belongs to nobody: no device then has to
 * check its offsets.
 */
static struct vm_device *find(struct vm *vm, enum vm_bus bus, uint64_t addr,
			      unsigned int bytes, unsigned int *ret_range)
{
	for (size_t i = 0; i < vm->nr_devices; i++) {
		struct vm_device *d = vm->devices[i];

		for (unsigned int r = 0; r < d->nr_ranges; r++) {
			const struct vm_device_range *range = &d->ranges[r];

			if (range->bus != bus || addr < range->base ||
			    bytes > range->bytes ||
			    addr - range->base > range->bytes - bytes)
				continue;
			*ret_range = r;
			return d;
		}
	}
	return NULL;
}

void vm_bus_access(struct vm *vm, enum vm_bus bus, uint64_t addr, uint8_t *data,
		   unsigned int bytes, bool is_write)
{
	unsigned int r;
	struct vm_device *d = find(vm, bus, addr, bytes, &r);

	if (!d) {
		if (!is_write)
			memset(data, 0xff, bytes);
		return;
	}
	pthread_mutex_lock(&d->lock);
	if (is_write)
		d->ops->write(d, r, addr - d->ranges[r].base, data, bytes);
	else
		d->ops->read(d, r, addr - d->ranges[r].base, data, bytes);
	pthread_mutex_unlock(&d->lock);
}

void vm_bus_reset(struct vm *vm)
{
	for (size_t i = 0; i < vm->nr_devices; i++) {
		struct vm_device *d = vm->devices[i];

		pthread_mutex_lock(&d->lock);
		d->ops->reset(d);
		pthread_mutex_unlock(&d->lock);
	}
}

void vm_bus_fini(struct vm *vm)
{
	while (vm->nr_devices > 0) {
		struct vm_device *d = vm->devices[--vm->nr_devices];

		pthread_mutex_destroy(&d->lock);
		d->ops->free(d);
	}
}
