/*
 * migrate/collapse.h: memory that is there in small pages becomes huge pages.
 *
 * RAM wants no huge pages of itself (vmm/mem.h), so that what is never touched costs
 * nothing: what a guest fills, and what arrives one page at a time while it runs, are
 * small pages, and stay so. A thread goes over RAM block by block and makes huge what is
 * wholly populated, so that no memory is added, and rests between two blocks, since
 * others wait while one is copied. It looks once a second, and the later the less it
 * found; only once where others see to it, or it could not tell what is huge already
 * (vm_mem_stays_small()).
 * Nothing depends on it.
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
	/* Under lock, which is held while blocks are being copied: 1 ms, or one. */
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
/* The guest lives here. Once; later calls do nothing. */
void mig_collapse_start(struct mig_collapse *c);
/*
 * While anybody holds it no block is touched: hold waits for the current one. By
 * whoever follows what RAM holds: a migration, a snapshot, a fill.
 */
void mig_collapse_hold(struct mig_collapse *c);
void mig_collapse_release(struct mig_collapse *c);

#endif
