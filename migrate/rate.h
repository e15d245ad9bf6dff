/*
 * migrate/rate.h: keep all channels together below a number of bytes a second.
 *
 * What was sent is owed, and worked off as time passes; whoever wants to send
 * waits until nothing is. In postcopy waiting comes before a page is claimed, so
 * that none which may be waited for is held back.
 * Threads: wait, charge, set: any; init, fini: while no other does.
 */
#ifndef MIGRATE_RATE_H
#define MIGRATE_RATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct mig_rate {
	/* Under lock. */
	pthread_mutex_t lock;
	uint64_t bytes_per_s; /* 0: no limit */
	double owed_bytes;    /* at at_ns; negative: a little was saved up */
	uint64_t at_ns;
};

void mig_rate_init(struct mig_rate *r, uint64_t bytes_per_s);
void mig_rate_fini(struct mig_rate *r);
/* From now on; who waits has to wait for the rest at this rate. */
void mig_rate_set(struct mig_rate *r, uint64_t bytes_per_s);
/* keep_going is asked at least every 100 ms; false ends the wait. */
void mig_rate_wait(struct mig_rate *r, bool (*keep_going)(void *ctx),
		   void *ctx);
/* These bytes were sent. */
void mig_rate_charge(struct mig_rate *r, uint64_t bytes);

#endif
