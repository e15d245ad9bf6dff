/*
 * migrate/follow.h: which of a postcopy's faults the bulk goes to.
 *
 * Whoever works his way through memory soon wants what lies behind the page that he
 * asked for, so the bulk goes on from there. Who jumps about does not, and a block of
 * which a page was asked for does not arrive whole any more (block.h): for him the
 * bulk goes on as it was, and finds more blocks that nobody has asked for yet.
 *
 * So a fault is followed that lies in the stripe of one of the last
 * MIG_FOLLOW_FAULTS ones, or in the next. That is as many readers as have a lane of
 * their own (uffd/).
 *
 * Threads: any. Errors: none. Two faults at a time may make it forget one: then the
 *          next one there is the first again.
 */
#ifndef MIGRATE_FOLLOW_H
#define MIGRATE_FOLLOW_H

#include <stdatomic.h>
#include <stdint.h>

#define MIG_FOLLOW_FAULTS 8

/* All zero to begin with: at stripe 0. */
struct mig_follow {
	_Atomic uint64_t at;
	_Atomic uint64_t behind[MIG_FOLLOW_FAULTS]; /* stripe + 1; 0: none */
	atomic_uint turn; /* which of them goes next */
};

void mig_follow_fault(struct mig_follow *f, uint64_t stripe);
/* The stripe from which the bulk is to go on. */
uint64_t mig_follow_at(const struct mig_follow *f);

#endif
