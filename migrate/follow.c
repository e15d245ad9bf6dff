#include "migrate/follow.h"

#include <stdbool.h>

static bool is_near(uint64_t stripe, uint64_t behind)
{
	return behind > 0 && (stripe + 1 == behind || stripe == behind);
}

void mig_follow_fault(struct mig_follow *f, uint64_t stripe)
{
	unsigned int i;

	for (i = 0; i < MIG_FOLLOW_FAULTS; i++) {
		if (is_near(stripe, atomic_load(&f->behind[i]))) {
			atomic_store(&f->behind[i], stripe + 1);
			atomic_store(&f->at, stripe);
			return;
		}
	}
	i = atomic_fetch_add(&f->turn, 1) % MIG_FOLLOW_FAULTS;
	atomic_store(&f->behind[i], stripe + 1);
}

uint64_t mig_follow_at(const struct mig_follow *f)
{
	return atomic_load(&f->at);
}
