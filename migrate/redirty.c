#include "migrate/redirty.h"

void mig_redirty_reset(struct mig_redirty *r)
{
	r->nr = 0;
	r->seen = 0;
	r->step = 1;
}

/* The longer a round, the less closely it is looked at. */
static void thin_out(struct mig_redirty *r)
{
	unsigned int i;

	for (i = 0; 2 * i < r->nr; i++) {
		r->us[i] = r->us[2 * i];
		r->pages[i] = r->pages[2 * i];
	}
	r->nr = i;
	r->step *= 2;
}

void mig_redirty_sample(struct mig_redirty *r, uint64_t us, uint64_t pages)
{
	if (r->seen++ % r->step != 0)
		return;
	if (r->nr == MIG_REDIRTY_SAMPLES_MAX)
		thin_out(r);
	r->us[r->nr] = us;
	r->pages[r->nr] = pages;
	r->nr++;
}

/* Between two samples as if it grew evenly; behind the last as it is there. */
static uint64_t pages_at(const struct mig_redirty *r, unsigned int i,
			 uint64_t us)
{
	double share;

	while (i + 1 < r->nr && r->us[i + 1] <= us)
		i++;
	if (i + 1 == r->nr || r->pages[i + 1] <= r->pages[i])
		return r->pages[i];
	share = (double)(us - r->us[i]) / (double)(r->us[i + 1] - r->us[i]);
	return r->pages[i] +
	       (uint64_t)((double)(r->pages[i + 1] - r->pages[i]) * share);
}

uint64_t mig_redirty_within(const struct mig_redirty *r, uint64_t us)
{
	uint64_t most = 0;
	unsigned int i;

	for (i = 0; i < r->nr; i++) {
		uint64_t end = pages_at(r, i, r->us[i] + us);

		if (end > r->pages[i] && end - r->pages[i] > most)
			most = end - r->pages[i];
	}
	return most;
}
