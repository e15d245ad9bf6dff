/* work.h: what is done to a vCPU's share of the test memory, page by page. */
#ifndef GUEST_WORK_H
#define GUEST_WORK_H

#include <stdbool.h>

#include "cpu.h"

/* The first vCPU, before the others run: deal out the pages. */
void work_init(void);
/* One page's worth. False: there is nothing to do for now. */
bool work_turn(struct cpu *c);
/* All vCPUs have been through their memory once. */
bool work_ready(void);
/* Have every vCPU verify all it has written; the first vCPU. */
void work_pass_start(void);
bool work_pass_done(void);
/* For the disk's part of the work. */
void work_verify(struct cpu *c, uint64_t page);
uint64_t work_random(struct cpu *c);
/* The next page that this vCPU verifies. */
void work_verify_next_is(struct cpu *c, uint64_t page);

#endif
