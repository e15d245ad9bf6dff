/*
 * vmm/virtio_devices.h: the virtio devices a machine can have, how to make them
 * (vm.c's side) and what the outside says to them. Private to vmm/.
 *
 * Life:    _new allocates (calls virtio_device_init()); then vm_pci_add(), and
 *          from then on it is the vm's. A _new that fails leaves nothing behind
 *          and one line in *err (vm_err()).
 */
#ifndef VMM_VIRTIO_DEVICES_H
#define VMM_VIRTIO_DEVICES_H

#include "vmm/virtio.h"
#include "vmm/vm.h"

int virtio_blk_new(struct vm *vm, unsigned int index,
		   const struct vm_disk_config *cfg,
		   struct virtio_device **ret_device, char **err);
/* Takes (releases) the disk's OFD lock: one side at a time may have it. */
int virtio_blk_lock(struct virtio_device *v, char **err);
void virtio_blk_unlock(struct virtio_device *v);
/* path (borrowed), bytes, read_only and direct; the rest is the core's. */
void virtio_blk_info(struct virtio_device *v, struct vm_disk_info *ret_info);

int virtio_net_new(struct vm *vm, unsigned int index,
		   const struct vm_net_config *cfg,
		   struct virtio_device **ret_device, char **err);
/* tap (borrowed) and mac; the rest is the core's. */
void virtio_net_info(struct virtio_device *v, struct vm_net_info *ret_info);

int virtio_console_new(struct vm *vm, struct virtio_device **ret_device,
		       char **err);
size_t virtio_console_input(struct virtio_device *v, const uint8_t *data,
			    size_t bytes);
void virtio_console_output_ready(struct virtio_device *v);

int virtio_rng_new(struct vm *vm, struct virtio_device **ret_device,
		   char **err);
int virtio_vsock_new(struct vm *vm, const struct vm_vsock_config *cfg,
		     struct virtio_device **ret_device, char **err);
/* As it was made; borrowed. */
const struct vm_vsock_config *virtio_vsock_info(struct virtio_device *v);
int virtio_balloon_new(struct vm *vm, struct virtio_device **ret_device,
		       char **err);
/* How much the guest shall give back, in bytes; see vm_balloon_set(). */
void virtio_balloon_set(struct virtio_device *v, uint64_t bytes);
uint64_t virtio_balloon_actual(struct virtio_device *v);

#endif
