/*
 * migrate/collapse.h: memory that arrived in small pages becomes huge pages again.
 *
 * Pages that arrive one by one, while the guest runs, are small ones, and stay
 * so: RAM wants no huge pages of itself (vmm/mem.h). Once all are there a thread
 * goes over RAM block by block, and rests between two of them, since others wait
 * while one is copied. Blocks that are not wholly populated are left alone, so no
 * memory is added. Nothing depends on it.
 *
 * Threads: init, fini: the guest's owner. The rest: any.
 */
#ifndef MIGRATE_COLLAPSE_H
#define MIGRATE_COLLAPSE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/mem.h"

struct mig_collapse {
	struct vm_mem *mem; /* borrowed; constant */
	/* Under lock, which is held while a block is being copied. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool started;
	bool ending;
	unsigned int nr_holds;
};

void mig_collapse_init(struct mig_collapse *c, struct vm_mem *mem);
/* While the memory is still there; held or not. */
void mig_collapse_fini(struct mig_collapse *c);
/* All pages are in. Once; later calls do nothing. */
void mig_collapse_start(struct mig_collapse *c);
/* While anybody holds it no block is touched: hold waits for the current one. */
void mig_collapse_hold(struct mig_collapse *c);
void mig_collapse_release(struct mig_collapse *c);

#endif
