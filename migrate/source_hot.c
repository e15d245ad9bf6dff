#include "migrate/source_internal.h"

/*
 * What the guest writes while it is sent has to be sent again, so the first round
 * sends last what the guest is writing: a guest that writes a part of its memory all
 * the time has then written little of it again when the round ends.
 *
 * Where that is, a sample tells: of each 64 pages one is watched from the beginning
 * (manual; the others watch all of them), and a stripe in which one was written is
 * hot. Watching costs the guest a fault for each of these at most.
 *
 * This is about order, and must lose nothing. What was sent and is reported now goes to
 * later; what todo still has is read later anyway; and the rest was never watched, so
 * manual will report it again.
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

static void note(struct mig_source *s, size_t i, uint64_t written)
{
	s->later[i] |= written & ~s->todo[i];
	if (s->dirty[i] & s->window[i])
		bitmap_set(s->hot, i * 64 / MIG_STRIPE_PAGES);
}

int mig_source_hot_look(struct mig_source *s)
{
	bool repeats = mig_tracker_repeats(s->tracker);
	size_t i, end = 0;
	int ret;

	/* Of what manual reports most was not written. */
	ret = repeats ? mig_tracker_sync(s->tracker, s->dirty)
		      : mig_source_fetch(s);
	while (ret == 0 && mig_source_next_live(s, &i, &end)) {
		for (; i < end; i++)
			note(s, i,
			     repeats ? s->dirty[i] & s->sent[i] : s->dirty[i]);
	}
	return ret;
}
