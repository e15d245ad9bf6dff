#include "migrate/rate.h"

#include <time.h>

#include "migrate/clock.h"

#define SLICE_NS UINT64_C(100000000)

void mig_rate_init(struct mig_rate *r, uint64_t bytes_per_s)
{
	r->bytes_per_s = bytes_per_s;
	atomic_store(&r->free_ns, 0);
}

void mig_rate_wait(struct mig_rate *r, bool (*keep_going)(void *ctx), void *ctx)
{
	uint64_t now, free_ns;

	if (r->bytes_per_s == 0)
		return;
	while ((now = mig_now_ns()) < (free_ns = atomic_load(&r->free_ns)) &&
	       keep_going(ctx)) {
		uint64_t left = free_ns - now;
		struct timespec ts = {
			.tv_nsec = (long)(left < SLICE_NS ? left : SLICE_NS),
		};

		nanosleep(&ts, NULL);
	}
}

/* An idle line saves up nothing. */
void mig_rate_charge(struct mig_rate *r, uint64_t bytes)
{
	uint64_t old = atomic_load(&r->free_ns);
	uint64_t cost_ns, start;

	if (r->bytes_per_s == 0)
		return;
	cost_ns = (uint64_t)((double)bytes * 1e9 / (double)r->bytes_per_s);
	do {
		uint64_t now = mig_now_ns();

		start = old > now ? old : now;
	} while (!atomic_compare_exchange_weak(&r->free_ns, &old,
					       start + cost_ns));
}
