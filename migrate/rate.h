/*
 * migrate/rate.h: keep all channels together below a number of bytes a second.
 *
 * One shared time line: what was sent occupies it for as long as it should have
 * taken, and whoever wants to send waits until it is free. Waiting comes before
 * anything is claimed for sending, so nothing is ever held back half-way.
 * Threads: wait, charge: any; init: before the threads start.
 */
#ifndef MIGRATE_RATE_H
#define MIGRATE_RATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct mig_rate {
	uint64_t bytes_per_s;     /* 0: no limit */
	_Atomic uint64_t free_ns; /* when the line is free again */
};

void mig_rate_init(struct mig_rate *r, uint64_t bytes_per_s);
/* keep_going is asked at least every 100 ms; false ends the wait. */
void mig_rate_wait(struct mig_rate *r, bool (*keep_going)(void *ctx),
		   void *ctx);
/* These bytes were sent. */
void mig_rate_charge(struct mig_rate *r, uint64_t bytes);

#endif
