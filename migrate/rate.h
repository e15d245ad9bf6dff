/*
 * migrate/rate.h: keep all channels together below a number of bytes a second.
 *
 * Each sender reserves its bytes on one shared time line and sleeps until its
 * turn. Threads: take: any; the rest: before the threads start.
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
void mig_rate_take(struct mig_rate *r, uint64_t bytes,
		   bool (*keep_going)(void *ctx), void *ctx);

#endif
