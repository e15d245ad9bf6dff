/* migrate/clock.h: the one clock that everything here is measured with. */
#ifndef MIGRATE_CLOCK_H
#define MIGRATE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t mig_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t mig_now_us(void)
{
	return mig_now_ns() / 1000;
}

#endif
