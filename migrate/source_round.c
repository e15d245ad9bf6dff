#include "migrate/source_internal.h"

#include <string.h>

#include "migrate/clock.h"

/*
 * A round over a slow network takes seconds, and what is written in these before it
 * was sent would only have to be sent again. So now and then the crew rests, and
 * what the dirty log has of todo is left to the next round, which had to send it
 * anyway. It also tells how much of that is written again and again.
 *
 * Invariant: a page that leaves todo unsent is in later. One that was reported and
 * stays in todo is read after that report and after a rearm (tracker.h).
 */

/* A look costs a sync and a batch cut short: rounds shorter than this have none. */
#define LOOK_EVERY_US 500000

/* What of todo was written since it is watched goes to later. */
static void defer_written(struct mig_source *s)
{
	size_t i, words = bitmap_words(s->ram_pages);
	uint64_t pages = 0;

	for (i = 0; i < words; i++) {
		pages += (uint64_t)__builtin_popcountll(s->todo[i] &
							s->dirty[i]);
		s->todo[i] &= ~s->dirty[i];
		s->later[i] |= s->dirty[i];
		s->window[i] |= s->dirty[i];
	}
	atomic_fetch_sub(&s->left_pages, pages);
	pthread_mutex_lock(&s->lock);
	s->stats.pages_deferred += pages;
	pthread_mutex_unlock(&s->lock);
}

static void begin_window(struct mig_source *s)
{
	memset(s->window, 0, bitmap_words(s->ram_pages) * sizeof(*s->window));
	s->window_begin_us = mig_now_us();
}

/*
 * Until the first look nobody knew which pages of todo are written: manual reports
 * them all until they are watched, the others what was written before.
 */
static int first_look(struct mig_source *s)
{
	size_t i, words = bitmap_words(s->ram_pages);
	int ret;

	ret = mig_source_sync(s);
	if (ret < 0)
		return ret;
	for (i = 0; i < words; i++)
		s->later[i] |= s->dirty[i] & ~s->todo[i];
	begin_window(s);
	ret = mig_tracker_rearm(s->tracker, s->todo, 0, s->ram_pages);
	if (ret < 0)
		return ret;
	return mig_tracker_rearm(s->tracker, s->later, 0, s->ram_pages);
}

/* Watched again although it is not read yet: is it written all the time? */
static int look_again(struct mig_source *s)
{
	int ret = mig_source_sync(s);

	if (ret < 0)
		return ret;
	defer_written(s);
	if (mig_converge_window(&s->converge,
				bitmap_count(s->window, s->ram_pages),
				mig_now_us() - s->window_begin_us,
				bitmap_count(s->later, s->ram_pages)))
		begin_window(s);
	return mig_tracker_rearm(s->tracker, s->dirty, 0, s->ram_pages);
}

/* The crew sends until it is through, or it is time to look (*ret_look). */
static int send_for_a_while(struct mig_source *s, bool *ret_look)
{
	uint64_t begin_us = mig_now_us();
	uint64_t begin_bytes = atomic_load(&s->bytes_sent);
	uint64_t us;
	int ret;

	mig_source_send_todo(s);
	*ret_look = mig_phase(&s->phases) == MIG_PRECOPY &&
		    !mig_crew_wait_us(s->crew, LOOK_EVERY_US);
	atomic_store(&s->look_now, *ret_look);
	ret = mig_crew_wait(s->crew);
	atomic_store(&s->look_now, false);
	us = mig_now_us() - begin_us;
	mig_converge_flow(&s->converge,
			  atomic_load(&s->bytes_sent) - begin_bytes, us);
	s->flow_us += us;
	return ret;
}

/* By the limit that it was told. */
static bool takes_long(const struct mig_source *s, uint64_t pages)
{
	uint64_t limit = atomic_load(&s->converge.max_bandwidth);

	return limit != 0 && (double)(pages * VM_PAGE_BYTES) / (double)limit >
				     4e-6 * LOOK_EVERY_US;
}

int mig_source_round(struct mig_source *s, uint64_t pages)
{
	bool look = mig_phase(&s->phases) == MIG_PRECOPY &&
		    takes_long(s, pages);
	bool watched = false;
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	s->stats.rounds++;
	s->stats.total_pages = pages;
	pthread_mutex_unlock(&s->lock);
	atomic_store(&s->left_pages, pages);
	do {
		if (look) {
			ret = watched ? look_again(s) : first_look(s);
			watched = true;
		}
		if (ret == 0)
			ret = send_for_a_while(s, &look);
	} while (ret == 0 && look && !atomic_load(&s->postcopy_now));
	if (s->flow_us > 0)
		MIG_SOURCE_STAT(s, throughput_bytes_per_s,
				atomic_load(&s->bytes_sent) * 1000000 /
					s->flow_us);
	return ret;
}
