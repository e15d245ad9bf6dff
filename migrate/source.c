#include "migrate/source_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/converge.h"
#include "migrate/faultpoint.h"
#include "migrate/fill.h"
#include "migrate/say.h"
#include "migrate/state_codec.h"
#include "proto/control.pb-c.h"

/* ---- small things ---- */

/* The first reason is the one people see. Any thread. */
void mig_source_say(struct mig_source *s, const char *why)
{
	pthread_mutex_lock(&s->lock);
	if (s->error[0] == '\0')
		snprintf(s->error, sizeof(s->error), "%s", why);
	pthread_mutex_unlock(&s->lock);
}

bool mig_source_may_go_on(void *ctx)
{
	struct mig_source *s = ctx;

	return !mig_session_broken(s->session);
}

static int step(struct mig_source *s, enum mig_event ev)
{
	int ret;

	pthread_mutex_lock(&s->lock);
	ret = mig_phase_step(&s->phases, ev);
	pthread_mutex_unlock(&s->lock);
	s->ops->changed(s->ctx);
	return ret;
}

/*
 * The point of no return, decided under the lock that mig_source_cancel() takes:
 * a cancel comes before the token or not at all.
 */
static int step_token(struct mig_source *s)
{
	int ret;

	pthread_mutex_lock(&s->lock);
	if (s->cancelled || mig_session_broken(s->session))
		ret = -ECANCELED;
	else
		ret = mig_phase_step(&s->phases, ON_TOKEN);
	pthread_mutex_unlock(&s->lock);
	return ret;
}

#define SET_STAT(s, member, value)                                             \
	do {                                                                   \
		pthread_mutex_lock(&(s)->lock);                                \
		(s)->stats.member = (value);                                   \
		pthread_mutex_unlock(&(s)->lock);                              \
	} while (0)

/* ---- precopy ---- */

/* Pages that were dirtied but never populated hold nothing: not even read. */
static int drop_unpopulated(struct mig_source *s)
{
	size_t words = bitmap_words(s->ram_pages);
	size_t i, first;
	int ret;

	for (first = 0; first < words; first = i) {
		for (i = first; i < words && (s->dirty[i] & ~s->sent[i]); i++)
			s->scratch[i] = 0;
		if (i == first) {
			i++;
			continue;
		}
		ret = vm_mem_scan_populated(
			s->mem, first * 64 * VM_PAGE_BYTES,
			(i < words ? (i - first) * 64 * VM_PAGE_BYTES
				   : vm_mem_bytes(s->mem) -
					     first * 64 * VM_PAGE_BYTES),
			s->scratch);
		if (ret < 0)
			return ret;
		for (; first < i; first++)
			s->dirty[first] &= s->sent[first] | s->scratch[first];
	}
	return 0;
}

static int sync_dirty(struct mig_source *s)
{
	size_t words = bitmap_words(s->ram_pages);
	int ret;

	memset(s->dirty, 0, words * sizeof(*s->dirty));
	ret = mig_tracker_sync(s->tracker, s->dirty);
	return ret < 0 ? ret : drop_unpopulated(s);
}

/* Sends todo; measures how fast pages flow. */
static int run_round(struct mig_source *s, uint64_t pages)
{
	uint64_t begin_us = mig_now_us();
	uint64_t begin_bytes = atomic_load(&s->bytes_sent);
	int ret;

	pthread_mutex_lock(&s->lock);
	s->stats.rounds++;
	s->stats.total_pages = pages;
	pthread_mutex_unlock(&s->lock);
	atomic_store(&s->left_pages, pages);
	ret = mig_source_send_round(s);
	s->flow_us += mig_now_us() - begin_us;
	s->flow_bytes += atomic_load(&s->bytes_sent) - begin_bytes;
	if (s->flow_us > 0)
		SET_STAT(s, throughput_bytes_per_s,
			 s->flow_bytes * 1000000 / s->flow_us);
	return ret;
}

/*
 * Everything that was ever populated, after tracking has begun: what gets
 * populated later is dirty by then.
 */
static int first_round(struct mig_source *s)
{
	uint64_t pages;
	int ret;

	ret = vm_mem_scan_populated(s->mem, 0, vm_mem_bytes(s->mem), s->todo);
	if (ret < 0)
		return ret;
	pages = bitmap_count(s->todo, s->ram_pages);
	SET_STAT(s, pages_skipped, s->ram_pages - pages);
	mig_fault_point(s->session, "round1");
	return s->cfg.mode == MIG_MODE_POSTCOPY ? 0 : run_round(s, pages);
}

static void swap_todo(struct mig_source *s)
{
	uint64_t *t = s->todo;

	s->todo = s->dirty;
	s->dirty = t;
}

/* Rounds until the rest fits into the downtime, or never will. */
static int precopy(struct mig_source *s, bool *ret_postcopy)
{
	struct mig_converge c;
	int ret;

	mig_converge_init(&c, &s->cfg);
	for (;;) {
		uint64_t dirty_pages;

		ret = sync_dirty(s);
		if (ret < 0)
			return ret;
		dirty_pages = bitmap_count(s->dirty, s->ram_pages);
		swap_todo(s);
		if (mig_session_broken(s->session))
			return -ECANCELED;
		if (vm_event_peek(s->vm) != VM_EVENT_NONE) {
			mig_source_say(s, "the guest shut itself down first");
			return -ECANCELED;
		}
		switch (mig_converge_next(&c, dirty_pages, s->flow_bytes,
					  s->flow_us)) {
		case MIG_SWITCH_PRECOPY:
			*ret_postcopy = false;
			return 0;
		case MIG_SWITCH_POSTCOPY:
			*ret_postcopy = true;
			return 0;
		case MIG_ANOTHER_ROUND:
			break;
		}
		mig_fault_point(s->session, "round2");
		ret = run_round(s, dirty_pages);
		if (ret < 0)
			return ret;
	}
}

/* ---- switchover ---- */

static int save_state(struct mig_source *s)
{
	struct vm_state state;
	char *err = NULL;
	int ret;

	ret = vm_state_save(s->vm, &state, &err);
	if (ret < 0) {
		mig_source_say(s, err ? err : "cannot save the vCPU state");
		free(err);
		return ret;
	}
	s->saved_ns = mig_now_ns();
	free(s->state);
	s->state = NULL;
	ret = mig_state_pack(&state, &s->state, &s->state_bytes);
	vm_state_fini(&state);
	return ret;
}

static int send_state(struct mig_source *s, uint64_t pending_pages)
{
	Vmmd__State msg = VMMD__STATE__INIT;

	msg.vm.data = s->state;
	msg.vm.len = s->state_bytes;
	msg.pending_pages = pending_pages;
	msg.barrier = s->barrier;
	msg.paused = !s->was_running;
	msg.stopped_ns = mig_now_ns() - s->saved_ns;
	return mig_link_send(s->session->link, PROTO_STATE, &msg.base);
}

/*
 * The rest of the pages leaves, or (postcopy) the word about which stay. In
 * postcopy the responder serves from here on: loading the state over there may
 * already touch a page that is still ours.
 */
static int send_rest(struct mig_source *s, uint64_t pages, bool postcopy)
{
	int ret;

	if (postcopy) {
		atomic_store(&s->left_pages, pages);
		SET_STAT(s, total_pages, pages);
		SET_STAT(s, postcopied, true);
		ret = mig_source_send_pending(s);
		if (ret == 0)
			ret = mig_source_start_responder(s);
	} else {
		ret = run_round(s, pages);
	}
	return ret < 0 ? ret : mig_source_send_barrier(s);
}

static int await_ready(struct mig_source *s)
{
	ProtobufCMessage *msg;
	int ret = mig_link_recv(s->session->link, PROTO_READY, &msg);

	if (ret == 0)
		protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

/* Nothing after this line may let the guest run here, but ON_NEVER_RAN. */
static int commit(struct mig_source *s, uint64_t *ret_start_us)
{
	Vmmd__Commit msg = VMMD__COMMIT__INIT;
	ProtobufCMessage *answer;
	int ret;

	mig_fault_point(s->session, "before-token");
	ret = step_token(s);
	if (ret < 0)
		return ret;
	msg.token.data = s->session->id;
	msg.token.len = sizeof(s->session->id);
	ret = mig_link_send(s->session->link, PROTO_COMMIT, &msg.base);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "after-token");
	ret = mig_link_recv(s->session->link, PROTO_RUNNING, &answer);
	if (ret < 0)
		return ret;
	*ret_start_us = ((Vmmd__Running *)answer)->start_us;
	protobuf_c_message_free_unpacked(answer, NULL);
	return step(s, ON_RUNNING);
}

static uint64_t lap_us(uint64_t *mark_us)
{
	uint64_t last = *mark_us;

	*mark_us = mig_now_us();
	return *mark_us - last;
}

/*
 * State before the last sync: KVM itself writes guest memory while it is stopped
 * and saved (kvmclock, steal time), and that must be in the sync.
 */
static int stop_guest(struct mig_source *s, uint64_t *mark_us)
{
	int ret;

	ret = vm_pause(s->vm);
	if (ret < 0)
		return ret;
	SET_STAT(s, downtime.stop_us, lap_us(mark_us));
	ret = step(s, ON_STOPPED);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "stopped");
	ret = save_state(s);
	SET_STAT(s, downtime.state_us, lap_us(mark_us));
	return ret;
}

/* todo becomes all that the receiver does not have. */
static int last_sync(struct mig_source *s, uint64_t *ret_pages)
{
	size_t i, words = bitmap_words(s->ram_pages);
	int ret;

	ret = sync_dirty(s);
	if (ret < 0)
		return ret;
	for (i = 0; i < words; i++)
		s->todo[i] |= s->dirty[i];
	*ret_pages = bitmap_count(s->todo, s->ram_pages);
	return 0;
}

static void record_switch(struct mig_source *s, uint64_t begin_us,
			  uint64_t commit_us, uint64_t start_us)
{
	pthread_mutex_lock(&s->lock);
	s->stats.downtime_us = mig_now_us() - begin_us;
	s->stats.downtime.start_us = start_us;
	s->stats.downtime.commit_us = commit_us > start_us
					      ? commit_us - start_us
					      : 0;
	s->stats.switched = true;
	pthread_mutex_unlock(&s->lock);
}

/* What was dirtied between the last round and the stop breaks the promise. */
static bool too_much(struct mig_source *s, uint64_t pages)
{
	return mig_converge_too_much(&s->cfg, pages, s->flow_bytes, s->flow_us);
}

/* The guest runs on, and what would have been its downtime is another round. */
static int revive(struct mig_source *s, uint64_t pages)
{
	int ret = step(s, ON_REVIVED);

	if (ret == 0 && s->was_running)
		ret = vm_resume(s->vm);
	return ret < 0 ? ret : run_round(s, pages);
}

/* Everything that was stopped and synced goes over; then the token. */
static int hand_over(struct mig_source *s, uint64_t pages, bool postcopy,
		     uint64_t begin_us, uint64_t *mark_us)
{
	uint64_t save_us = s->stats.downtime.state_us, start_us;
	int ret;

	ret = send_rest(s, pages, postcopy);
	if (ret < 0)
		return ret;
	SET_STAT(s, downtime.pages_us, lap_us(mark_us));
	ret = send_state(s, postcopy ? pages : 0);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "state-sent");
	ret = await_ready(s);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "ready");
	SET_STAT(s, downtime.state_us, save_us + lap_us(mark_us));
	ret = commit(s, &start_us);
	if (ret == 0)
		record_switch(s, begin_us, lap_us(mark_us), start_us);
	return ret;
}

/* *ret_done false: the guest was revived, precopy goes on. */
static int switchover(struct mig_source *s, bool postcopy, bool *ret_done)
{
	uint64_t begin_us = mig_now_us(), mark_us = begin_us;
	uint64_t pages = 0;
	int ret;

	ret = stop_guest(s, &mark_us);
	if (ret == 0)
		ret = last_sync(s, &pages);
	if (ret < 0)
		return ret;
	SET_STAT(s, downtime.sync_us, lap_us(&mark_us));
	*ret_done = true;
	if (!postcopy && too_much(s, pages)) {
		if (s->cfg.mode == MIG_MODE_PRECOPY) {
			*ret_done = false;
			return revive(s, pages);
		}
		postcopy = true;
	}
	return hand_over(s, pages, postcopy, begin_us, &mark_us);
}

/* ---- after the token ---- */

/* Only the peer's word lets go of the memory here: never an end of file. */
static int finish(struct mig_source *s)
{
	Vmmd__Bye bye = VMMD__BYE__INIT;
	ProtobufCMessage *msg;
	uint64_t begin_us = mig_now_us();
	int ret = 0;

	mig_fault_point(s->session, "postcopy");
	if (s->has_responder)
		ret = mig_source_push(s);
	if (ret == 0)
		ret = mig_link_recv(s->session->link, PROTO_COMPLETE, &msg);
	if (ret < 0)
		return ret;
	protobuf_c_message_free_unpacked(msg, NULL);
	/* Best effort: the receiver needs nothing from us any more. */
	mig_link_send(s->session->link, PROTO_BYE, &bye.base);
	pthread_mutex_lock(&s->lock);
	if (s->has_responder) {
		uint64_t us = s->flow_us + mig_now_us() - begin_us;

		s->stats.postcopy_us += mig_now_us() - begin_us;
		if (us > 0)
			s->stats.throughput_bytes_per_s =
				atomic_load(&s->bytes_sent) * 1000000 / us;
	}
	s->stats.total_us = mig_now_us() - s->begin_us;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* ---- the thread ---- */

static int prepare(struct mig_source *s)
{
	int ret;

	ret = mig_source_connect(s);
	if (ret == 0)
		ret = mig_source_agree(s);
	if (ret == 0)
		ret = mig_source_open_channels(s);
	if (ret == 0)
		ret = mig_crew_start("channel", s->cfg.channels, &s->crew);
	if (ret == 0)
		ret = mig_tracker_start(s->tracker);
	if (ret == 0)
		ret = step(s, ON_AGREED);
	SET_STAT(s, setup_us, mig_now_us() - s->begin_us);
	return ret;
}

static int migrate(struct mig_source *s)
{
	bool postcopy = s->cfg.mode == MIG_MODE_POSTCOPY;
	bool done = false;
	uint64_t begin_us;
	int ret;

	ret = prepare(s);
	if (ret < 0)
		return ret;
	begin_us = mig_now_us();
	ret = first_round(s);
	while (ret == 0 && !done) {
		if (!postcopy)
			ret = precopy(s, &postcopy);
		SET_STAT(s, precopy_us, mig_now_us() - begin_us);
		if (ret == 0)
			ret = switchover(s, postcopy, &done);
	}
	return ret < 0 ? ret : finish(s);
}

static void say_session_error(struct mig_source *s, int ret)
{
	char why[512] = "";

	if (s->session && mig_session_error(s->session, why, sizeof(why)) != 0)
		mig_source_say(s, why);
	else
		mig_source_say(s, strerror(-ret));
}

/* Every thread that uses the session's sockets is gone after this. */
static void quiet_session(struct mig_source *s, int ret)
{
	if (!s->session)
		return;
	mig_session_break(s->session, ret, "%s", strerror(-ret));
	mig_source_stop_responder(s);
}

/*
 * Before the token: the guest goes on as if nothing had happened. The peer is
 * told over the link and, since it may wait for a token that cannot come any
 * more, over a connection of its own when the link is gone.
 */
static void give_up(struct mig_source *s)
{
	bool stopped = mig_phase(&s->phases) == MIG_SWITCHOVER;
	bool cancelled;

	if (s->session)
		mig_session_say_cancel(s->session, s->error);
	mig_tracker_stop(s->tracker);
	if (s->was_running)
		vm_resume(s->vm);
	if (s->session && stopped)
		mig_source_abort_peer(s);
	pthread_mutex_lock(&s->lock);
	cancelled = s->cancelled;
	pthread_mutex_unlock(&s->lock);
	step(s, cancelled ? ON_CANCEL : ON_LOST);
}

static void conclude(struct mig_source *s, int ret)
{
	quiet_session(s, ret < 0 ? ret : -ESHUTDOWN);
	if (ret == 0) {
		step(s, ON_DRAINED);
		return;
	}
	say_session_error(s, ret);
	if (mig_phase(&s->phases) >= MIG_COMMIT)
		step(s, ON_LOST);
	else
		give_up(s);
}

static void *source_main(void *arg)
{
	struct mig_source *s = arg;
	int ret;

	pthread_setname_np(pthread_self(), "migrate");
	ret = migrate(s);
	conclude(s, ret);
	return NULL;
}

/* ---- rejoining ---- */

static int rejoined(struct mig_source *s)
{
	int ret;

	atomic_store(&s->left_pages, bitmap_count(s->pending, s->ram_pages));
	ret = step(s, ON_REJOINED);
	if (ret == 0)
		ret = mig_source_start_responder(s);
	return ret < 0 ? ret : finish(s);
}

/* Still MIG_PAUSED when it did not work: try again later. */
static void *rejoin_main(void *arg)
{
	struct mig_source *s = arg;
	bool never_ran = false;
	int ret;

	pthread_setname_np(pthread_self(), "migrate");
	ret = mig_source_rejoin(s, &never_ran);
	if (ret < 0) {
		say_session_error(s, ret);
		quiet_session(s, ret);
		s->ops->changed(s->ctx);
		return NULL;
	}
	if (never_ran) {
		mig_source_say(s, "the receiver never ran the guest and has "
				  "given it up: it goes on here");
		quiet_session(s, -ESHUTDOWN);
		mig_tracker_stop(s->tracker);
		if (s->was_running)
			vm_resume(s->vm);
		step(s, ON_NEVER_RAN);
		return NULL;
	}
	conclude(s, rejoined(s));
	return NULL;
}

/* ---- the outside ---- */

static int check_config(struct mig_guest *g,
			const struct mig_source_config *cfg,
			struct mig_addr *addr, char **err)
{
	if (mig_addr_parse(cfg->uri, addr) < 0)
		return mig_say(err, -EINVAL,
			       "'%s' is no address: use tcp://ADDR:PORT",
			       cfg->uri);
	if (cfg->channels < 1 || cfg->channels > MIG_CHANNELS_MAX)
		return mig_say(err, -EINVAL, "channels: 1 to %d",
			       MIG_CHANNELS_MAX);
	if (mig_guest_missing_pages(g) > 0)
		return mig_say(err, -EBUSY,
			       "%llu pages of this guest are still arriving: "
			       "wait until they are here",
			       (unsigned long long)mig_guest_missing_pages(g));
	return 0;
}

static int alloc_bitmaps(struct mig_source *s)
{
	s->todo = bitmap_new(s->ram_pages);
	s->dirty = bitmap_new(s->ram_pages);
	s->scratch = bitmap_new(s->ram_pages);
	s->sent = bitmap_new(s->ram_pages);
	s->pending = bitmap_new(s->ram_pages);
	return s->todo && s->dirty && s->scratch && s->sent && s->pending
		       ? 0
		       : -ENOMEM;
}

static void free_all(struct mig_source *s)
{
	mig_tracker_free(s->tracker);
	mig_crew_free(s->crew);
	mig_session_free(s->session);
	free(s->todo);
	free(s->dirty);
	free(s->scratch);
	free(s->sent);
	free(s->pending);
	free(s->state);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void init_values(struct mig_source *s, struct mig_guest *g,
			const struct mig_source_config *cfg)
{
	s->guest = g;
	s->vm = g->vm;
	s->mem = vm_mem(g->vm);
	s->ram_pages = vm_mem_pages(s->mem);
	s->cfg = *cfg;
	/* Postcopy moves 4 KiB pages; huge ones cannot fault in by pieces. */
	if (vm_mem_backend(s->mem) == VM_MEM_HUGETLB &&
	    cfg->mode == MIG_MODE_HYBRID)
		s->cfg.mode = MIG_MODE_PRECOPY;
	s->was_running = vm_is_running(g->vm);
	s->begin_us = mig_now_us();
	s->stats.mode = s->cfg.mode;
	s->stats.channels = cfg->channels;
	s->stats.tracker = mig_tracker_name(s->tracker);
	mig_rate_init(&s->rate, cfg->max_bandwidth);
	atomic_store(&s->phases.phase, MIG_SETUP);
}

int mig_source_start(struct mig_guest *g, const struct mig_source_config *cfg,
		     const struct mig_source_ops *ops, void *ctx,
		     struct mig_source **ret_source, char **err)
{
	struct mig_source *s;
	int ret;

	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	s->ops = ops;
	s->ctx = ctx;
	ret = check_config(g, cfg, &s->addr, err);
	if (ret == 0)
		ret = mig_tracker_new(g->vm, cfg->tracker, &s->tracker, err);
	if (ret < 0)
		goto free_s;
	init_values(s, g, cfg);
	ret = alloc_bitmaps(s);
	if (ret == 0)
		ret = -pthread_create(&s->thread, NULL, source_main, s);
	if (ret < 0)
		goto free_s;
	*ret_source = s;
	return 0;
free_s:
	free_all(s);
	return ret;
}

static void join(struct mig_source *s)
{
	if (!s->joined)
		pthread_join(s->thread, NULL);
	s->joined = true;
}

int mig_source_resume(struct mig_source *s, const char *uri, char **err)
{
	struct mig_addr addr;
	int ret;

	if (mig_addr_parse(uri, &addr) < 0)
		return mig_say(err, -EINVAL,
			       "'%s' is no address: use tcp://ADDR:PORT", uri);
	if (mig_phase(&s->phases) != MIG_PAUSED)
		return mig_say(
			err, -EBUSY,
			"this migration is not paused: nothing to resume");
	join(s);
	s->addr = addr;
	s->error[0] = '\0';
	ret = -pthread_create(&s->thread, NULL, rejoin_main, s);
	s->joined = ret < 0;
	return ret;
}

int mig_source_cancel(struct mig_source *s)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	if (mig_phase(&s->phases) >= MIG_COMMIT)
		ret = -EBUSY;
	else
		s->cancelled = true;
	if (ret == 0 && s->session)
		mig_session_break(s->session, -ECANCELED,
				  "cancelled by request");
	pthread_mutex_unlock(&s->lock);
	return ret;
}

void mig_source_status(struct mig_source *s, struct mig_status *ret_status,
		       struct mig_stats *ret_stats)
{
	pthread_mutex_lock(&s->lock);
	ret_status->phase = mig_phase(&s->phases);
	memcpy(ret_status->error, s->error, sizeof(s->error));
	*ret_stats = s->stats;
	pthread_mutex_unlock(&s->lock);
	ret_stats->bytes_sent = atomic_load(&s->bytes_sent);
	ret_stats->pages_sent = atomic_load(&s->pages_sent);
	ret_stats->pages_zero = atomic_load(&s->pages_zero);
	ret_stats->left_pages = atomic_load(&s->left_pages);
	if (!mig_phase_is_end(ret_status->phase) || ret_stats->total_us == 0)
		ret_stats->total_us = mig_now_us() - s->begin_us;
}

void mig_source_free(struct mig_source *s)
{
	if (!s)
		return;
	join(s);
	free_all(s);
}
