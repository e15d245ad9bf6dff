#include "migrate/rate.h"

#include <time.h>

#include "migrate/clock.h"

#define SLICE_NS UINT64_C(100000000)
/* On a host with work a sleep of 10 ms may well take 20. */
#define SAVED_S 0.05

void mig_rate_init(struct mig_rate *r, uint64_t bytes_per_s)
{
	pthread_mutex_init(&r->lock, NULL);
	r->bytes_per_s = bytes_per_s;
	r->owed_bytes = 0;
	r->at_ns = mig_now_ns();
}

void mig_rate_fini(struct mig_rate *r)
{
	pthread_mutex_destroy(&r->lock);
}

/* Under lock. Whoever wakes up late catches up; an idle line saves up no more. */
static void work_off(struct mig_rate *r)
{
	uint64_t now_ns = mig_now_ns();
	double rate = (double)r->bytes_per_s;
	double saved = rate * SAVED_S;

	r->owed_bytes -= (double)(now_ns - r->at_ns) * rate / 1e9;
	if (r->owed_bytes < -saved)
		r->owed_bytes = -saved;
	if (r->bytes_per_s == 0)
		r->owed_bytes = 0;
	r->at_ns = now_ns;
}

void mig_rate_set(struct mig_rate *r, uint64_t bytes_per_s)
{
	pthread_mutex_lock(&r->lock);
	work_off(r);
	if (r->owed_bytes < 0)
		r->owed_bytes = 0; /* it was much of the old rate */
	r->bytes_per_s = bytes_per_s;
	pthread_mutex_unlock(&r->lock);
}

/* Until nothing is owed, or the time to look again. */
static uint64_t left_ns(struct mig_rate *r)
{
	double ns = 0;

	pthread_mutex_lock(&r->lock);
	work_off(r);
	if (r->owed_bytes > 0)
		ns = r->owed_bytes * 1e9 / (double)r->bytes_per_s;
	pthread_mutex_unlock(&r->lock);
	return ns < (double)SLICE_NS ? (uint64_t)ns : SLICE_NS;
}

void mig_rate_wait(struct mig_rate *r, bool (*keep_going)(void *ctx), void *ctx)
{
	struct timespec ts = { 0 };

	while ((ts.tv_nsec = (long)left_ns(r)) > 0 && keep_going(ctx))
		nanosleep(&ts, NULL);
}

void mig_rate_charge(struct mig_rate *r, uint64_t bytes)
{
	pthread_mutex_lock(&r->lock);
	work_off(r);
	if (r->bytes_per_s != 0)
		r->owed_bytes += (double)bytes;
	pthread_mutex_unlock(&r->lock);
}
