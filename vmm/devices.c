/*
 * vmm/devices.c: the virtio devices of a machine: making them, and what the
 * outside asks of them.
 *
 * Threads: new and fini with vm_new() and vm_free(); lists are constant between,
 *          so that the rest may be called from any thread unless vm.h says else.
 */
#include "vmm/virtio_devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vm_internal.h"

/* What was made is the machine's, or gone. */
static int adopt(struct vm *vm, struct virtio_device *v, char **err)
{
	int ret = vm_pci_add(vm, &v->pci);

	if (ret < 0) {
		vm_err(err, ret, "%s: no place on the PCI bus: %s", v->name,
		       strerror(-ret));
		v->device_ops.free(&v->pci.device);
	}
	return ret;
}

static int new_lists(struct vm_virtio_devices *d, const struct vm_config *cfg,
		     char **err)
{
	d->disks = calloc(cfg->nr_disks + 1, sizeof(struct virtio_device *));
	d->nets = calloc(cfg->nr_nets + 1, sizeof(struct virtio_device *));
	if (!d->disks || !d->nets)
		return vm_err(err, -ENOMEM, "out of memory");
	return 0;
}

static int add_disks(struct vm *vm, const struct vm_config *cfg, char **err)
{
	struct vm_virtio_devices *d = &vm->virtio;
	int ret = 0;

	for (unsigned int i = 0; i < cfg->nr_disks && ret == 0; i++) {
		struct virtio_device *v;

		ret = virtio_blk_new(vm, i, &cfg->disks[i], &v, err);
		if (ret == 0)
			ret = adopt(vm, v, err);
		if (ret == 0)
			d->disks[d->nr_disks++] = v;
	}
	return ret;
}

static int add_nets(struct vm *vm, const struct vm_config *cfg, char **err)
{
	struct vm_virtio_devices *d = &vm->virtio;
	int ret = 0;

	for (unsigned int i = 0; i < cfg->nr_nets && ret == 0; i++) {
		struct virtio_device *v;

		ret = virtio_net_new(vm, i, &cfg->nets[i], &v, err);
		if (ret == 0)
			ret = adopt(vm, v, err);
		if (ret == 0)
			d->nets[d->nr_nets++] = v;
	}
	return ret;
}

static int add_one(struct vm *vm,
		   int (*new)(struct vm *vm, struct virtio_device **ret_device,
			      char **err),
		   struct virtio_device **ret_device, char **err)
{
	struct virtio_device *v;
	int ret = new (vm, &v, err);

	if (ret == 0)
		ret = adopt(vm, v, err);
	if (ret == 0)
		*ret_device = v;
	return ret;
}

static int add_vsock(struct vm *vm, const struct vm_config *cfg, char **err)
{
	struct virtio_device *v;
	int ret = virtio_vsock_new(vm, cfg->vsock, &v, err);

	if (ret == 0)
		ret = adopt(vm, v, err);
	if (ret == 0)
		vm->virtio.vsock = v;
	return ret;
}

/* A slot is part of what the guest sees: this order never changes. */
int vm_virtio_new(struct vm *vm, const struct vm_config *cfg, char **err)
{
	struct vm_virtio_devices *d = &vm->virtio;
	int ret = new_lists(d, cfg, err);

	if (ret == 0)
		ret = add_disks(vm, cfg, err);
	if (ret == 0)
		ret = add_nets(vm, cfg, err);
	if (ret == 0 && cfg->console)
		ret = add_one(vm, virtio_console_new, &d->console, err);
	if (ret == 0 && cfg->rng)
		ret = add_one(vm, virtio_rng_new, &d->rng, err);
	if (ret == 0 && cfg->vsock)
		ret = add_vsock(vm, cfg, err);
	if (ret == 0 && cfg->balloon)
		ret = add_one(vm, virtio_balloon_new, &d->balloon, err);
	return ret;
}

void vm_virtio_fini(struct vm *vm)
{
	free(vm->virtio.disks);
	free(vm->virtio.nets);
	vm->virtio = (struct vm_virtio_devices){ 0 };
}

int vm_disks_lock(struct vm *vm, char **err)
{
	const struct vm_virtio_devices *d = &vm->virtio;

	if (err)
		*err = NULL;
	for (size_t i = 0; i < d->nr_disks; i++) {
		int ret = virtio_blk_lock(d->disks[i], err);

		if (ret < 0) {
			while (i > 0)
				virtio_blk_unlock(d->disks[--i]);
			return ret;
		}
	}
	return 0;
}

void vm_disks_unlock(struct vm *vm)
{
	for (size_t i = 0; i < vm->virtio.nr_disks; i++)
		virtio_blk_unlock(vm->virtio.disks[i]);
}

size_t vm_nr_disks(struct vm *vm)
{
	return vm->virtio.nr_disks;
}

void vm_disk_info(struct vm *vm, size_t i, struct vm_disk_info *ret_info)
{
	struct virtio_device *v = vm->virtio.disks[i];

	*ret_info = (struct vm_disk_info){ 0 };
	virtio_blk_info(v, ret_info);
	ret_info->features = v->offered;
	ret_info->nr_queues = v->nr_queues;
}

size_t vm_nr_nets(struct vm *vm)
{
	return vm->virtio.nr_nets;
}

void vm_net_info(struct vm *vm, size_t i, struct vm_net_info *ret_info)
{
	struct virtio_device *v = vm->virtio.nets[i];

	*ret_info = (struct vm_net_info){ 0 };
	virtio_net_info(v, ret_info);
	ret_info->features = v->offered;
	ret_info->nr_queues = v->nr_queues;
}

const struct vm_vsock_config *vm_vsock_info(struct vm *vm)
{
	return vm->virtio.vsock ? virtio_vsock_info(vm->virtio.vsock) : NULL;
}

bool vm_has_console(struct vm *vm)
{
	return vm->virtio.console != NULL;
}

bool vm_has_rng(struct vm *vm)
{
	return vm->virtio.rng != NULL;
}

bool vm_has_balloon(struct vm *vm)
{
	return vm->virtio.balloon != NULL;
}

size_t vm_console_input(struct vm *vm, const uint8_t *data, size_t bytes)
{
	struct virtio_device *v = vm->virtio.console;

	return v ? virtio_console_input(v, data, bytes) : bytes;
}

void vm_console_output_ready(struct vm *vm)
{
	if (vm->virtio.console)
		virtio_console_output_ready(vm->virtio.console);
}

int vm_balloon_set(struct vm *vm, uint64_t bytes)
{
	if (!vm->virtio.balloon)
		return -ENODEV;
	virtio_balloon_set(vm->virtio.balloon, bytes);
	return 0;
}

uint64_t vm_balloon_actual(struct vm *vm)
{
	struct virtio_device *v = vm->virtio.balloon;

	return v ? virtio_balloon_actual(v) : 0;
}
