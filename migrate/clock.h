/*
 * migrate/clock.h: the one clock that everything here is measured and waited by,
 * but for pthread_timedjoin_np(), which knows only the other.
 */
#ifndef MIGRATE_CLOCK_H
#define MIGRATE_CLOCK_H

#include <pthread.h>
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

/* So long from now, by the clock that is waited by. */
static inline struct timespec mig_deadline(clockid_t clock, uint64_t us)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	ts.tv_sec += (time_t)(us / 1000000);
	ts.tv_nsec += (long)(us % 1000000) * 1000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	return ts;
}

/* A condition whose deadlines are CLOCK_MONOTONIC's. */
static inline void mig_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

#endif
