/*
 * migrate/follow.h: which of a postcopy's faults the bulk goes to.
 *
 * Whoever works his way through memory soon wants what lies behind the page that he
 * asked for, so the bulk goes on from there. Who jumps about does not, and a block of
 * which a page was asked for does not arrive whole any more (block.h): for him the
 * bulk goes on as it was, and finds more blocks that nobody has asked for yet.
 *
 * So a fault is followed that lies in the stripe of one of the last
 * MIG_FOLLOW_FAULTS readers' last ones, or in the next; not the same page once more,
 * which is asked for as often as somebody meets it.
 *
 * Threads: init, fini: nobody uses it. The rest: any. Errors: none.
 */
#ifndef MIGRATE_FOLLOW_H
#define MIGRATE_FOLLOW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "uffd/uffd.h"

/* As many readers as have a lane of their own. */
#define MIG_FOLLOW_FAULTS UFFD_LANES_MAX

struct mig_follow {
	uint64_t stripe_pages; /* constant */
	pthread_mutex_t lock;
	/* Under lock. page + 1; 0: none. The last one comes first. */
	uint64_t faults[MIG_FOLLOW_FAULTS];
	_Atomic uint64_t at;
};

void mig_follow_init(struct mig_follow *f, uint64_t stripe_pages);
void mig_follow_fini(struct mig_follow *f);
void mig_follow_fault(struct mig_follow *f, uint64_t page);
/* The stripe from which the bulk is to go on; the first to begin with. */
uint64_t mig_follow_at(const struct mig_follow *f);

#endif
