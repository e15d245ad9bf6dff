#include "migrate/source_internal.h"

/*
 * What the guest writes while it is sent has to be sent again, so the first round
 * sends last what the guest is writing: a guest that writes a part of its memory all
 * the time has then written little of it again when the round ends.
 *
 * Where that is, a sample tells: of each 64 pages one is watched from the beginning
 * (manual; the others watch all of them), and a stripe in which one was written is
 * hot. Huge pages of KVM's are split by that, as they would be a little later.
 *
 * This is about order, and must lose nothing: manual is only peeked at, and what the
 * others report of pages that were sent already goes to later.
 */

int mig_source_hot_begin(struct mig_source *s)
{
	bool repeats = mig_tracker_repeats(s->tracker);
	size_t i, end = 0;

	while (mig_source_next_live(s, &i, &end)) {
		for (; i < end; i++)
			s->window[i] = repeats ? s->todo[i] & -s->todo[i]
					       : s->todo[i];
	}
	return mig_source_rearm(s, s->window);
}

static int fetch(struct mig_source *s)
{
	int ret = mig_source_fetch(s);
	size_t i, end = 0;

	while (ret == 0 && mig_source_next_live(s, &i, &end)) {
		for (; i < end; i++)
			s->later[i] |= s->dirty[i] & ~s->todo[i];
	}
	return ret;
}

int mig_source_hot_look(struct mig_source *s)
{
	size_t i, end = 0;
	int ret;

	ret = mig_tracker_repeats(s->tracker)
		      ? mig_tracker_peek(s->tracker, s->dirty)
		      : fetch(s);
	while (ret == 0 && mig_source_next_live(s, &i, &end)) {
		for (; i < end; i++) {
			if (s->dirty[i] & s->window[i])
				bitmap_set(s->hot, i * 64 / MIG_STRIPE_PAGES);
		}
	}
	return ret;
}
