/*
 * disk.h: work on the disk: runs of blocks go to it and come from it, and both
 * sides are known to the last bit.
 *
 * A block is as large as a page. Blocks are dealt out to the vCPUs that have a
 * queue, and so are the test pages, into which nothing is put but by reads of the
 * disk: the CPU writes from buffers of its own. A page's record says which block
 * it holds (touches: its number plus one) and of which version. So a page can be
 * checked at any time, and if what the device stored into it got lost, it fails.
 */
#ifndef GUEST_DISK_H
#define GUEST_DISK_H

#include <stdbool.h>

#include "cpu.h"
#include "page.h"

/* The first vCPU, in this order; init before the test memory is placed. */
bool disk_init(const char **ret_why);
uint64_t disk_blocks(void); /* in use; 0: no disk */
uint32_t disk_nr_cpus(void);
void disk_deal(void); /* after the pages were */

/* The rest on a vCPU of its own. Requests that are done; first in each turn. */
void disk_poll(struct cpu *c);
/* Until all pages are filled: fills the disk, then memory from it. */
void disk_first_turn(struct cpu *c);
/* Starts a request if one can be. False: there is nothing to do for now. */
bool disk_step(struct cpu *c);
/* Reads all blocks back; the sum of their versions goes to c->pass_sum. */
void disk_check_start(struct cpu *c);
bool disk_check_turn(struct cpu *c); /* false: done */
/* The page against its record; while it is being read into, it is right. */
bool disk_page_verify(uint64_t page, struct page_error *ret_error);

#endif
