/*
 * migrate/source_internal.h: what the files of the source share.
 *
 * source.c	the thread: what happens in which order, and what undoes it
 * source_setup.c	connections, the SETUP conversation, rejoining
 * source_hot.c	which parts of RAM the guest is writing
 * source_live.c	which parts of RAM hold anything
 * source_precopy.c	rounds over the dirty set, until it is time to switch
 * source_round.c	one of them, with looks at the dirty log when it takes long
 * source_switch.c	the pause: last pages, state, the run token
 * source_back.c	the guest that was to leave goes on here
 * source_send.c	pages onto the wire: rounds, barriers
 * source_postcopy.c	pages that stayed behind: pushed and on demand
 */
#ifndef MIGRATE_SOURCE_INTERNAL_H
#define MIGRATE_SOURCE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/converge.h"
#include "migrate/crew.h"
#include "migrate/follow.h"
#include "migrate/net.h"
#include "migrate/phase.h"
#include "migrate/rate.h"
#include "migrate/session.h"
#include "migrate/source.h"
#include "migrate/tracker.h"
#include "vmm/bitmap.h"

/*
 * RAM is dealt out to the data channels in stripes of 2 MiB, always the same
 * way. A page therefore always travels on the same channel, in order, and no
 * round needs a barrier before the next: a newer copy cannot be overtaken.
 */
#define MIG_STRIPE_PAGES UINT64_C(512)

struct mig_source {
	/* Set by mig_source_start(), constant after: any thread. */
	struct mig_guest *guest; /* borrowed */
	struct vm *vm;           /* guest's */
	struct vm_mem *mem;      /* guest's */
	uint64_t ram_pages;
	struct mig_source_config
		cfg; /* not used after start: uri, tracker, limits */
	const struct mig_source_ops *ops;
	void *ctx;
	bool was_running; /* so it shall run again when we fail */
	uint64_t begin_us;

	/* Main thread. */
	pthread_t thread;
	bool joined;

	/* Under lock. */
	pthread_mutex_t lock;
	struct mig_addr addr;
	char error[MIG_ERROR_BYTES];
	struct mig_stats stats;
	bool cancelled;
	bool ending; /* mig_source_free() */
	struct mig_session
		*session; /* pointer; the thread may read it freely */

	/* Written by mig_phase_step() on the source thread; read by any. */
	struct mig_phases phases;

	/* Source thread; while a job runs its crew's, each its own stripes. */
	struct mig_tracker *tracker;
	uint64_t *todo;  /* what this round has yet to send */
	uint64_t *later; /* what looks left to the next: no job changes it */
	uint64_t *sent;  /* ever sent: those need no populated check */

	/* Source thread. */
	struct mig_crew *crew; /* one member per data channel */
	uint64_t *dirty;       /* what the last sync reported */
	uint64_t *window; /* written since window_begin_us; 0: the sample */
	uint64_t window_begin_us;
	uint64_t *hot; /* a bit per stripe: sent last; no job changes it */
	/* source_live.c: of a scan; which chunks of RAM hold anything. */
	uint64_t *scratch, *live;
	uint64_t barrier;
	bool sends_ahead; /* the receiver understands AHEAD */
	bool sends_marks; /* and answers MARK */
	uint64_t mark;    /* the last one sent */
	uint64_t marked;  /* and answered */
	bool gave_disks;  /* their locks: the receiver may have them */
	uint8_t *state;   /* packed, of the instant saved_ns */
	size_t state_bytes;
	uint64_t saved_ns;
	uint64_t stopped_us; /* when the vCPUs were told to stop */
	uint64_t flow_us;    /* time in which pages were flowing */
	struct mig_converge converge;

	/* Asked for by any thread under lock, never unset. Atomic. */
	_Atomic bool postcopy_now;
	/* The source thread wants the crew to rest: it goes on afterwards. Atomic. */
	_Atomic bool look_now;

	/* Postcopy: who clears a bit sends the page. Atomic. */
	uint64_t *pending;
	struct mig_responder {
		struct mig_source *s;
		int fd; /* the session's: requests come, answers go */
		pthread_t thread;
	} responders[PROTO_CHANNELS_MAX];
	unsigned int nr_responders; /* that run */
	struct mig_follow follow;   /* any thread */

	struct mig_rate rate;
	/* Counters of all channels. Atomic, relaxed. */
	_Atomic uint64_t bytes_sent;
	_Atomic uint64_t pages_sent;
	_Atomic uint64_t pages_zero;
	_Atomic uint64_t left_pages;
};

#define MIG_SOURCE_STAT(s, member, value)                                      \
	do {                                                                   \
		pthread_mutex_lock(&(s)->lock);                                \
		(s)->stats.member = (value);                                   \
		pthread_mutex_unlock(&(s)->lock);                              \
	} while (0)

/*
 * source.c. new_maps: all bitmaps, for ram_pages; -ENOMEM, and then there may be some:
 * free_maps either way.
 */
int mig_source_new_maps(struct mig_source *s);
void mig_source_free_maps(struct mig_source *s);
/* step: source thread; tells the owner. */
int mig_source_step(struct mig_source *s, enum mig_event ev);
void mig_source_say(struct mig_source *s, const char *why);
/* All that was sent until now took so long. */
void mig_source_note_throughput(struct mig_source *s, uint64_t us);
/* For want of a better reason. */
void mig_source_say_errno(struct mig_source *s, int ret);
/* One more sentence behind the first reason. */
void mig_source_add(struct mig_source *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Not cancelled, session whole; any thread. */
bool mig_source_may_go_on(void *s);

/* source_setup.c: 0 or -errno with the reason said (mig_source_say). */
int mig_source_connect(struct mig_source *s);
int mig_source_agree(struct mig_source *s);
int mig_source_open_channels(struct mig_source *s);
/* Back into the session; *ret_never_ran: the receiver gave it up for good. */
int mig_source_rejoin(struct mig_source *s, bool *ret_never_ran);
/* The link broke before the token: tell a receiver that may wait for it. */
void mig_source_abort_peer(struct mig_source *s);

/* source_live.c; new: NULL without memory. */
uint64_t *mig_source_new_live(const struct mig_source *s);
void mig_source_free_live(struct mig_source *s);
/* Sets the bits of all pages that are populated in map, which is clear. */
int mig_source_scan_all(struct mig_source *s, uint64_t *map);
/* Clears in dirty what was neither populated nor sent. After a scan of all. */
int mig_source_drop_unpopulated(struct mig_source *s);
/*
 * The next run of words from *end (first 0) on in which any of the bitmaps may hold a
 * bit; false: there is none.
 */
bool mig_source_next_live(const struct mig_source *s, size_t *first,
			  size_t *end);

/* source_precopy.c */
int mig_source_first_round(struct mig_source *s);
/*
 * Rounds until the rest fits into the downtime, or (*ret_postcopy) never will or
 * postcopy was asked for.
 */
int mig_source_precopy(struct mig_source *s, bool *ret_postcopy);
/* What was written since the last sync into dirty. */
int mig_source_fetch(struct mig_source *s);
/* The same, as a pause would: its time is what a pause is reckoned with. */
int mig_source_sync(struct mig_source *s);
/* Joins dirty and later to what todo still holds; how many pages that makes. */
uint64_t mig_source_next_todo(struct mig_source *s);

/*
 * source_round.c: send todo, which has so many pages; measures how fast they flow.
 * A mark follows in precopy.
 * In precopy some of it may be left: in later what was written meanwhile, in todo
 * the rest when postcopy was asked for.
 */
int mig_source_round(struct mig_source *s, uint64_t pages);
/* Watches again what is set in map. */
int mig_source_rearm(struct mig_source *s, const uint64_t *map);
/* The sync after the round: what it reported belongs to what looks have seen. */
void mig_source_note_last_window(struct mig_source *s);

/*
 * source_hot.c: where the guest writes during the first round. look: the crew rests;
 * what was found so far is in hot. window is theirs until a look of the round's.
 */
int mig_source_hot_begin(struct mig_source *s);
int mig_source_hot_look(struct mig_source *s);

/* source_switch.c: *ret_done false: the guest was revived, precopy goes on. */
int mig_source_switchover(struct mig_source *s, bool postcopy, bool *ret_done);
/* The receiver runs the guest: the downtime is over, if it was not before. */
void mig_source_note_running(struct mig_source *s);
bool mig_source_was_told_running(struct mig_source *s);

/*
 * source_back.c: before the token, or when the receiver has proved that it never
 * ran the guest: it goes on here as if nothing had happened. stopped: the
 * receiver may wait for a token that cannot come any more. What keeps the guest
 * from going on is said.
 */
void mig_source_take_back(struct mig_source *s, bool stopped);
void mig_source_run_again(struct mig_source *s);

/*
 * source_send.c: one channel's outgoing batch. Runs and pages are collected and
 * written when full or at flush; zero pages go to a batch of their own.
 */
struct mig_sender;
enum mig_lane {
	MIG_LANE_BULK,  /* full batches: precopy */
	MIG_LANE_PUSH,  /* short ones: a page in one may be waited for */
	MIG_LANE_FAULT, /* at once, ahead of the bandwidth limit */
};
int mig_sender_new(struct mig_source *s, int fd, enum mig_lane lane,
		   struct mig_sender **ret);
void mig_sender_free(struct mig_sender *x);
/* Sums the page now; its bytes are read when its batch is written. */
int mig_sender_page(struct mig_sender *x, uint64_t page);
int mig_sender_flush(struct mig_sender *x);
uint64_t mig_sender_holds(const struct mig_sender *x); /* pages not yet sent */
struct mig_source *mig_sender_source(const struct mig_sender *x);
/* share on one data channel, then flush; trouble breaks the session. */
typedef int mig_share(struct mig_sender *x, unsigned int channel);
int mig_source_on_channel(struct mig_source *s, unsigned int channel,
			  enum mig_lane lane, mig_share *share);

/*
 * The crew begins to send todo on all channels. When it is through, all of it is
 * written, or the rest still there because of postcopy_now or look_now.
 */
void mig_source_send_todo(struct mig_source *s);
/* The next barrier on every data channel. */
int mig_source_send_barrier(struct mig_source *s);
/*
 * The next mark likewise, to a receiver that answers them; is_marked: it has read all
 * that was sent before the last one; await: until it has.
 */
int mig_source_send_mark(struct mig_source *s);
bool mig_source_is_marked(const struct mig_source *s);
int mig_source_await_mark(struct mig_source *s);

/* source_postcopy.c */
int mig_source_send_pending(struct mig_source *s);
int mig_source_start_responders(struct mig_source *s);
void mig_source_stop_responders(struct mig_source *s);
/* Push what is pending; back when nothing is left to send. */
int mig_source_push(struct mig_source *s);

#endif
