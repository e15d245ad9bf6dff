/*
 * migrate/redirty.h: how fast what a round has sent is written again.
 *
 * Looked at from time to time while a round is under way, for what the round
 * itself cannot tell: a guest that writes a small part of its memory all the time
 * and one that writes much of it slowly leave the same number of dirty pages
 * behind a long round, but not behind the shorter one that would follow.
 *
 * Pure arithmetic. Threads: the migration thread.
 */
#ifndef MIGRATE_REDIRTY_H
#define MIGRATE_REDIRTY_H

#include <stdint.h>

#define MIG_REDIRTY_SAMPLES_MAX 64

struct mig_redirty {
	uint64_t us[MIG_REDIRTY_SAMPLES_MAX]; /* rising */
	uint64_t pages[MIG_REDIRTY_SAMPLES_MAX];
	unsigned int nr;
	unsigned int seen, step; /* every step-th sample is kept */
};

void mig_redirty_reset(struct mig_redirty *r); /* a round begins */
/*
 * At this time (from any beginning, rising) so many pages were dirty again (from
 * any number: only what is added counts). May fall a little: counts of what
 * moves are not exact.
 */
void mig_redirty_sample(struct mig_redirty *r, uint64_t us, uint64_t pages);
/* The most that any stretch of so many us has added; 0 when nothing is known. */
uint64_t mig_redirty_within(const struct mig_redirty *r, uint64_t us);

#endif
