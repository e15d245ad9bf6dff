#include "migrate/follow.h"

#include <stdbool.h>
#include <string.h>

void mig_follow_init(struct mig_follow *f, uint64_t stripe_pages)
{
	f->stripe_pages = stripe_pages;
	pthread_mutex_init(&f->lock, NULL);
	memset(f->faults, 0, sizeof(f->faults));
	atomic_init(&f->at, 0);
}

void mig_follow_fini(struct mig_follow *f)
{
	pthread_mutex_destroy(&f->lock);
}

/* In the stripe of that fault or in the next. */
static bool is_near(const struct mig_follow *f, uint64_t page, uint64_t fault)
{
	uint64_t stripe = page / f->stripe_pages;

	return fault > 0 && stripe - (fault - 1) / f->stripe_pages <= 1;
}

void mig_follow_fault(struct mig_follow *f, uint64_t page)
{
	unsigned int i = 0;

	pthread_mutex_lock(&f->lock);
	while (i < MIG_FOLLOW_FAULTS - 1 && !is_near(f, page, f->faults[i]))
		i++;
	if (is_near(f, page, f->faults[i]) && f->faults[i] != page + 1)
		atomic_store(&f->at, page / f->stripe_pages);
	/* It takes the place of the one behind it, or of the oldest. */
	memmove(&f->faults[1], f->faults, i * sizeof(*f->faults));
	f->faults[0] = page + 1;
	pthread_mutex_unlock(&f->lock);
}

uint64_t mig_follow_at(const struct mig_follow *f)
{
	return atomic_load(&f->at);
}
