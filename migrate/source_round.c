#include "migrate/source_internal.h"

#include <math.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"

/*
 * A round over a slow network takes seconds, and what is written in these before it
 * was sent would only have to be sent again. So now and then the crew rests, and
 * what the dirty log has of todo is left to the next round, which had to send it
 * anyway. It also tells how much of that is written again and again.
 *
 * Invariant: a page that leaves todo unsent is in later. One that was reported and
 * stays in todo is read after that report and after a rearm (tracker.h).
 */

/*
 * A look costs a sync and a batch cut short: rounds shorter than this have none, but
 * for those at which the first one finds out what to send last (source_hot.c).
 */
#define LOOK_EVERY_US UINT64_C(500000)
/* And the guest a fault for each page that it writes again: a twentieth at most. */
#define LOOK_SHARE 20
/* The first round's first, for where the guest writes at all; the next come later. */
#define HOT_LOOK_US     UINT64_C(8000)
#define HOT_LOOK_GROWTH 3
/* Told to take as long as so many looks, a round is watched from its beginning. */
#define LONG_LOOKS 4
/* What KVM watches again in one go, under its MMU lock: 64 MiB. */
#define PIECE_PAGES UINT64_C(16384)

/* The round that goes on; the source thread's. */
struct round {
	uint64_t begin_us;
	uint64_t begin_bytes;
	uint64_t look_every_us;
	enum { WATCHED_NOTHING, WATCHED_SAMPLE, WATCHED_ALL } watched;
};

int mig_source_rearm(struct mig_source *s, const uint64_t *map)
{
	uint64_t first, end;
	int ret = 0;

	for (first = 0; ret == 0 && first < s->ram_pages; first = end) {
		end = first + PIECE_PAGES;
		if (end > s->ram_pages)
			end = s->ram_pages;
		if (bitmap_next_set(map, first, end) < end)
			ret = mig_tracker_rearm(s->tracker, map, first,
						end - first);
	}
	return ret;
}

static void begin_window(struct mig_source *s)
{
	memset(s->window, 0, bitmap_words(s->ram_pages) * sizeof(*s->window));
	s->window_begin_us = mig_now_us();
}

/* What was written since the window began, with what was just reported. */
static uint64_t window_pages(struct mig_source *s)
{
	size_t i, words = bitmap_words(s->ram_pages);

	for (i = 0; i < words; i++)
		s->window[i] |= s->dirty[i];
	return bitmap_count(s->window, s->ram_pages);
}

/* The window ends when it is as long as the next round would be by now. */
static void note_window(struct mig_source *s, const struct round *r)
{
	uint64_t now_us = mig_now_us();
	uint64_t bytes = atomic_load(&s->bytes_sent) - r->begin_bytes;
	double left = (double)bitmap_count(s->later, s->ram_pages) *
		      VM_PAGE_BYTES;
	double next_us = left * (double)(now_us - r->begin_us) /
			 (double)(bytes + 1);

	if (mig_converge_window(&s->converge, window_pages(s),
				now_us - s->window_begin_us, next_us))
		begin_window(s);
}

void mig_source_note_last_window(struct mig_source *s)
{
	if (s->window_begin_us == 0)
		return;
	mig_converge_window(&s->converge, window_pages(s),
			    mig_now_us() - s->window_begin_us, INFINITY);
	s->window_begin_us = 0;
}

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
	}
	atomic_fetch_sub(&s->left_pages, pages);
	pthread_mutex_lock(&s->lock);
	s->stats.pages_deferred += pages;
	pthread_mutex_unlock(&s->lock);
}

/*
 * Until the first look nobody knew which pages of todo are written: manual reports
 * them all until they are watched, the others what was written before.
 */
static int first_look(struct mig_source *s)
{
	size_t i, words = bitmap_words(s->ram_pages);

	for (i = 0; i < words; i++)
		s->later[i] |= s->dirty[i] & ~s->todo[i];
	begin_window(s);
	return mig_source_rearm(s, s->todo);
}

static int look_for_hot(struct mig_source *s, struct round *r)
{
	int ret = mig_source_hot_look(s);

	r->look_every_us *= HOT_LOOK_GROWTH;
	if (r->look_every_us >= LOOK_EVERY_US) {
		r->look_every_us = LOOK_EVERY_US;
		r->watched = WATCHED_NOTHING;
	}
	mig_fault_point(s->session, "hot");
	return ret;
}

/* A report is of a store since the look before, if that watched all of todo. */
static int look_for_written(struct mig_source *s, struct round *r)
{
	bool again = r->watched == WATCHED_ALL;
	uint64_t begin_us = mig_now_us(), us;
	int ret;

	ret = mig_source_fetch(s);
	if (ret < 0)
		return ret;
	if (again) {
		defer_written(s);
		note_window(s, r);
		mig_fault_point(s->session, "look");
	} else {
		ret = first_look(s);
		r->watched = WATCHED_ALL;
	}
	/* Is it written all the time? Nobody else wants to know. */
	if (ret == 0 && s->cfg.mode == MIG_MODE_HYBRID)
		ret = mig_source_rearm(s, again ? s->dirty : s->later);
	us = (mig_now_us() - begin_us) * LOOK_SHARE;
	r->look_every_us = us > LOOK_EVERY_US ? us : LOOK_EVERY_US;
	return ret;
}

static int look(struct mig_source *s, struct round *r)
{
	return r->watched == WATCHED_SAMPLE ? look_for_hot(s, r)
					    : look_for_written(s, r);
}

/* The crew sends until it is through, or it is time to look (*ret_look). */
static int send_for_a_while(struct mig_source *s, const struct round *r,
			    bool *ret_look)
{
	bool in_time;
	int ret;

	mig_source_send_todo(s);
	in_time = mig_phase(&s->phases) != MIG_PRECOPY ||
		  mig_crew_wait_us(s->crew, r->look_every_us);
	atomic_store(&s->look_now, !in_time);
	ret = mig_crew_wait(s->crew);
	atomic_store(&s->look_now, false);
	*ret_look = !in_time && atomic_load(&s->left_pages) > 0 &&
		    !atomic_load(&s->postcopy_now);
	return ret;
}

/* By the limit that it was told. */
static bool takes_long(const struct mig_source *s, uint64_t pages)
{
	double limit = (double)atomic_load(&s->converge.max_bandwidth);
	double bytes = (double)pages * VM_PAGE_BYTES;

	return limit > 0 && bytes / limit * 1e6 > LONG_LOOKS * LOOK_EVERY_US;
}

static int send_all(struct mig_source *s, struct round *r, uint64_t pages)
{
	bool precopy = mig_phase(&s->phases) == MIG_PRECOPY;
	bool look_now = precopy && takes_long(s, pages);
	int ret = 0;

	if (precopy && !look_now && s->flow_us == 0) {
		r->watched = WATCHED_SAMPLE;
		r->look_every_us = HOT_LOOK_US;
		ret = mig_source_hot_begin(s);
	}
	do {
		if (ret == 0 && look_now)
			ret = look(s, r);
		if (ret == 0)
			ret = send_for_a_while(s, r, &look_now);
	} while (ret == 0 && look_now);
	return ret;
}

int mig_source_round(struct mig_source *s, uint64_t pages)
{
	struct round r = {
		.begin_us = mig_now_us(),
		.begin_bytes = atomic_load(&s->bytes_sent),
		.look_every_us = LOOK_EVERY_US,
	};
	uint64_t us;
	int ret;

	pthread_mutex_lock(&s->lock);
	s->stats.rounds++;
	s->stats.total_pages = pages;
	pthread_mutex_unlock(&s->lock);
	atomic_store(&s->left_pages, pages);
	ret = send_all(s, &r, pages);
	us = mig_now_us() - r.begin_us;
	mig_converge_flow(&s->converge,
			  atomic_load(&s->bytes_sent) - r.begin_bytes, us);
	s->flow_us += us;
	mig_source_note_throughput(s, s->flow_us);
	if (ret == 0 && mig_phase(&s->phases) == MIG_PRECOPY)
		ret = mig_source_send_mark(s);
	return ret;
}
