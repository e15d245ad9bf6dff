/* vmm/virtio_internal.h: what the files of the virtio core share. */
#ifndef VMM_VIRTIO_INTERNAL_H
#define VMM_VIRTIO_INTERNAL_H

#include "vmm/virtio.h"

/* Bits of the ISR register, section 4.1.4.5. */
#define VIRTIO_ISR_QUEUE  0x01
#define VIRTIO_ISR_CONFIG 0x02

/* virtio.c */

/* The worker is asked to leave the rings. Worker. */
bool virtio_shall_stop(const struct virtio_device *v);
/* Any thread. */
void virtio_interrupt_queue(struct virtio_queue *q);
void virtio_interrupt_config(struct virtio_device *v);
/* Everything the driver set is gone. Stopped, device lock. */
void virtio_reset(struct virtio_device *v);

/* virtqueue.c */

/*
 * Finds the rings of an enabled queue in RAM; touches none of them. -EINVAL for a
 * size or an alignment that section 2.7 forbids, -EFAULT outside RAM.
 */
int virtqueue_start(struct virtio_queue *q);
/* As the driver finds it after a reset. */
void virtqueue_reset(struct virtio_queue *q);

/* virtio_pci.c: v's identity, capabilities, BARs and registers. */
int virtio_pci_init(struct virtio_device *v);
void virtio_pci_fini(struct virtio_device *v);
/* The selectors of the registers, for state. Device lock. */
struct virtio_pci_selects {
	uint32_t device_feature, driver_feature;
	uint16_t queue;
};
struct virtio_pci_selects *virtio_pci_selects(struct virtio_device *v);

/* virtio_state.c: fills in the part of device_ops that is about state. */
int virtio_state_init(struct virtio_device *v);
void virtio_state_fini(struct virtio_device *v);

#endif
