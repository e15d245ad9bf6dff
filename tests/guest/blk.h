/*
 * blk.h: a driver for one virtio block device (virtio 1.2, modern, PCI), polled.
 *
 * Each of the first vCPUs has a queue of its own, with BLK_SLOTS requests in
 * flight at most. Nothing here is shared between them once blk_init() is done.
 * The used rings are written by the device alone.
 */
#ifndef GUEST_BLK_H
#define GUEST_BLK_H

#include <stdbool.h>
#include <stdint.h>

#define BLK_QUEUES_MAX   4
#define BLK_SLOTS        4
#define BLK_SECTOR_BYTES 512

enum blk_type { BLK_READ = 0, BLK_WRITE = 1, BLK_FLUSH = 4 };

struct blk {
	uint64_t bytes;
	uint32_t nr_queues;
	bool read_only;
};
extern struct blk blk;

/* The first vCPU, at CPL 3. On failure *ret_why is a word. */
bool blk_init(uint32_t queues_wanted, const char **ret_why);
/* A queue's own vCPU. The slot is free; gpa and bytes: one piece of memory. */
void blk_submit(uint32_t queue, uint32_t slot, enum blk_type type,
		uint64_t sector, uint64_t gpa, uint32_t bytes);
/*
 * One that is done: its slot and the device's status byte. A slot out of range
 * stands for a used ring that makes no sense.
 */
bool blk_poll(uint32_t queue, uint32_t *ret_slot, uint8_t *ret_status);

#endif
