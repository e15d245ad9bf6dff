/*
 * virtio_driver.h: the driver's side of a virtio device, for unit tests: a machine
 * with RAM and without KVM, rings in that RAM, and a device started without PCI.
 *
 *	struct vm *vm = vdrv_machine(16 << 20);
 *	virtio_rng_new(vm, &v, NULL);
 *	vdrv_init(&d, vm, v, VIRTIO_F_EVENT_IDX);
 *	vdrv_queue(&d, 0, 8);
 *	vdrv_start(&d);
 *	buf = vdrv_alloc(&d, 64);
 *	head = vdrv_add(&d, 0, &(struct vdrv_piece){ buf, 64, true }, 1);
 *	vdrv_kick(&d, 0);
 *	bytes = vdrv_wait(&d, 0, head);
 *	vdrv_fini(&d);	the device, and then the machine
 *
 * What goes wrong in the driver itself fails the test (cmocka). Guest memory is
 * never given back: take a machine large enough. One thread.
 */
#ifndef TESTS_UNIT_VIRTIO_DRIVER_H
#define TESTS_UNIT_VIRTIO_DRIVER_H

#include "vmm/virtio_devices.h"
#include "vmm/vm_internal.h"

/* Seconds to wait for what has to come. */
#define VDRV_PATIENCE_S 60

struct vdrv_piece {
	uint64_t gpa;
	uint32_t bytes;
	bool is_writable; /* by the device */
};

struct vdrv_queue {
	uint16_t entries;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	uint16_t avail_idx; /* next to be filled */
	uint16_t used_idx;  /* next to be looked at */
	uint16_t nr_used;   /* seen in all */
	bool is_free[VIRTIO_QUEUE_ENTRIES_MAX];
	uint16_t next[VIRTIO_QUEUE_ENTRIES_MAX]; /* own copy of the chains */
	bool goes_on[VIRTIO_QUEUE_ENTRIES_MAX];
};

struct vdrv {
	struct vm *vm;
	struct virtio_device *dev;
	uint64_t next_gpa;
	struct vdrv_queue queues[VIRTIO_QUEUES_MAX];
};

/* RAM and devices only: vm->fd is -1. ops and ctx may be set in it. */
struct vm *vdrv_machine(uint64_t ram_bytes);
/* Its devices too. */
void vdrv_machine_free(struct vm *vm);

/*
 * Lends v to the machine and agrees to `features` and VERSION_1; vectors are
 * unmasked: 0 of configuration, 1 + i of queue i.
 */
void vdrv_init(struct vdrv *d, struct vm *vm, struct virtio_device *v,
	       uint64_t features);
void vdrv_fini(struct vdrv *d);
/* Zeroed guest memory, page aligned. */
uint64_t vdrv_alloc(struct vdrv *d, uint64_t bytes);
uint8_t *vdrv_hva(struct vdrv *d, uint64_t gpa);

/* Rings in guest memory, enabled. Before vdrv_start(). */
void vdrv_queue(struct vdrv *d, unsigned int queue, uint16_t entries);
/* DRIVER_OK, and the machine runs. */
void vdrv_start(struct vdrv *d);
/* As vm_pause() and vm_resume() do. */
void vdrv_pause(struct vdrv *d);
void vdrv_resume(struct vdrv *d);
/*
 * Resets the device as writing 0 to its status does; vdrv_agree() and
 * vdrv_queue() come next.
 */
void vdrv_reset(struct vdrv *d);
void vdrv_agree(struct vdrv *d, uint64_t features);
/*
 * The state of d's device into `to`'s, which has the same shape, stopped and never
 * started, and the memory with it; d is of no use afterwards but to be freed.
 */
void vdrv_move(struct vdrv *d, struct vdrv *to);

/* Makes a chain available. Returns its head; fails when descriptors are out. */
uint16_t vdrv_add(struct vdrv *d, unsigned int queue,
		  const struct vdrv_piece *pieces, unsigned int nr);
/* The same by way of an indirect table in guest memory. */
uint16_t vdrv_add_indirect(struct vdrv *d, unsigned int queue,
			   const struct vdrv_piece *pieces, unsigned int nr);
void vdrv_kick(struct vdrv *d, unsigned int queue);
/* Kicks if the device wants it (EVENT_IDX), as a real driver would. */
bool vdrv_kick_if_wanted(struct vdrv *d, unsigned int queue);
/* The next used entry, if there is one. */
bool vdrv_used(struct vdrv *d, unsigned int queue, uint16_t *ret_head,
	       uint32_t *ret_bytes);
/* Waits for the next used entry, which has to be `head`: its bytes. */
uint32_t vdrv_wait(struct vdrv *d, unsigned int queue, uint16_t head);
/* How often vector was raised since the last call. */
uint64_t vdrv_interrupts(struct vdrv *d, unsigned int vector);
/* Waits until there is at least one. */
void vdrv_wait_interrupt(struct vdrv *d, unsigned int vector);
/* Waits until the device says that it needs a reset: why. */
const char *vdrv_wait_broken(struct vdrv *d);
bool vdrv_is_broken(struct vdrv *d);

/* Ring memory as it is, for tests that spoil it. */
void vdrv_set_desc(struct vdrv *d, unsigned int queue, uint16_t i, uint64_t gpa,
		   uint32_t bytes, uint16_t flags, uint16_t next);
/* avail.ring[avail_idx] = head; avail.idx moves on by `step`. */
void vdrv_publish(struct vdrv *d, unsigned int queue, uint16_t head,
		  uint16_t step);
/* EVENT_IDX: interrupt me when you use entry `idx`. */
void vdrv_set_used_event(struct vdrv *d, unsigned int queue, uint16_t idx);
/* avail.flags: 1 for no interrupts (without EVENT_IDX). */
void vdrv_set_avail_flags(struct vdrv *d, unsigned int queue, uint16_t flags);
uint16_t vdrv_avail_event(struct vdrv *d, unsigned int queue);

#endif
