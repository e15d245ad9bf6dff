#include "migrate/source_internal.h"

#include <errno.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"

static void note_sync(struct mig_source *s, uint64_t us)
{
	pthread_mutex_lock(&s->lock);
	s->stats.syncs.count++;
	s->stats.syncs.sum_us += us;
	if (us > s->stats.syncs.max_us)
		s->stats.syncs.max_us = us;
	pthread_mutex_unlock(&s->lock);
}

int mig_source_fetch(struct mig_source *s)
{
	uint64_t begin_us = mig_now_us();
	int ret;

	ret = mig_tracker_sync(s->tracker, s->dirty);
	note_sync(s, mig_now_us() - begin_us);
	return ret < 0 ? ret : mig_source_drop_unpopulated(s);
}

int mig_source_sync(struct mig_source *s)
{
	uint64_t begin_us = mig_now_us();
	int ret = mig_source_fetch(s);

	mig_converge_cost(&s->converge, MIG_COST_SYNC, mig_now_us() - begin_us);
	return ret;
}

/*
 * Everything that was ever populated, after tracking has begun: what gets
 * populated later is dirty by then.
 */
int mig_source_first_round(struct mig_source *s)
{
	uint64_t pages;
	int ret;

	ret = mig_source_scan_all(s, s->todo);
	if (ret < 0)
		return ret;
	pages = bitmap_count(s->todo, s->ram_pages);
	MIG_SOURCE_STAT(s, pages_skipped, s->ram_pages - pages);
	mig_fault_point(s->session, "round1");
	return s->cfg.mode == MIG_MODE_POSTCOPY ? 0
						: mig_source_round(s, pages);
}

/* A round that was cut short left something of the old todo. */
uint64_t mig_source_next_todo(struct mig_source *s)
{
	size_t i, end = 0;
	uint64_t pages = 0;

	while (mig_source_next_live(s, &i, &end)) {
		for (; i < end; i++) {
			s->todo[i] |= s->dirty[i] | s->later[i];
			s->later[i] = 0;
			pages += bitmap_count_word(s->todo[i]);
		}
	}
	return pages;
}

/* Rounds until the rest fits into the downtime, or never will. */
int mig_source_precopy(struct mig_source *s, bool *ret_postcopy)
{
	int ret;

	for (;;) {
		uint64_t dirty_pages, rtt_us;

		ret = mig_source_sync(s);
		if (ret < 0)
			return ret;
		mig_source_note_last_window(s);
		dirty_pages = mig_source_next_todo(s);
		if (mig_session_broken(s->session))
			return -ECANCELED;
		if (vm_event_peek(s->vm) != VM_EVENT_NONE) {
			mig_source_say(s, "the guest shut itself down first");
			return -ECANCELED;
		}
		ret = mig_link_rtt(s->session->link, &rtt_us);
		if (ret < 0)
			return ret;
		mig_converge_cost(&s->converge, MIG_COST_RTT, rtt_us);
		if (atomic_load(&s->postcopy_now)) {
			*ret_postcopy = true;
			return 0;
		}
		switch (mig_converge_next(&s->converge, dirty_pages)) {
		case MIG_SWITCH_PRECOPY:
			if (mig_source_is_marked(s)) {
				*ret_postcopy = false;
				return 0;
			}
			/* And then it is time to look again. */
			ret = mig_source_await_mark(s);
			if (ret < 0)
				return ret;
			continue;
		case MIG_SWITCH_POSTCOPY:
			*ret_postcopy = true;
			return 0;
		case MIG_ANOTHER_ROUND:
			break;
		}
		mig_fault_point(s->session, "round2");
		ret = mig_source_round(s, dirty_pages);
		if (ret < 0)
			return ret;
	}
}
