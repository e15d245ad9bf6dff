/*
 * migrate/latency.h: how long faults took, as a small log-linear histogram.
 *
 * 16 buckets to every power of two, so a percentile is at most 1/16 too high;
 * the maximum is exact. About 4 KiB, nothing allocated.
 * Threads: any, both add and read; a read during adds may miss the newest.
 */
#ifndef MIGRATE_LATENCY_H
#define MIGRATE_LATENCY_H

#include <stdatomic.h>

#include "migrate/stats.h"

#define MIG_LATENCY_BUCKETS 512 /* enough for 2^35 us */

/* All zero is empty. */
struct mig_histogram {
	_Atomic uint64_t max_us;
	_Atomic uint64_t buckets[MIG_LATENCY_BUCKETS];
};

void mig_histogram_add(struct mig_histogram *h, uint64_t us);
void mig_histogram_read(const struct mig_histogram *h,
			struct mig_latency *ret_latency);

#endif
