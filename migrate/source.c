#include "migrate/source_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/complete_codec.h"
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

void mig_source_say_errno(struct mig_source *s, int ret)
{
	char why[128];

	snprintf(why, sizeof(why), "the migration failed at its source: %s",
		 strerror(-ret));
	mig_source_say(s, why);
}

void mig_source_add(struct mig_source *s, const char *fmt, ...)
{
	size_t used;
	va_list ap;

	pthread_mutex_lock(&s->lock);
	used = strlen(s->error);
	va_start(ap, fmt);
	vsnprintf(s->error + used, sizeof(s->error) - used, fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&s->lock);
}

bool mig_source_may_go_on(void *ctx)
{
	struct mig_source *s = ctx;

	return !mig_session_broken(s->session);
}

int mig_source_step(struct mig_source *s, enum mig_event ev)
{
	int ret;

	pthread_mutex_lock(&s->lock);
	ret = mig_phase_step(&s->phases, ev);
	pthread_mutex_unlock(&s->lock);
	s->ops->changed(s->ctx);
	return ret;
}

void mig_source_note_throughput(struct mig_source *s, uint64_t us)
{
	double bytes = (double)atomic_load(&s->bytes_sent);

	if (us > 0)
		MIG_SOURCE_STAT(s, throughput_bytes_per_s,
				(uint64_t)(bytes * 1e6 / (double)us));
}

/* ---- after the token ---- */

static void note_postcopy(struct mig_source *s, uint64_t begin_us)
{
	uint64_t us;

	pthread_mutex_lock(&s->lock);
	s->stats.postcopy_us += mig_now_us() - begin_us;
	us = s->flow_us + s->stats.postcopy_us;
	pthread_mutex_unlock(&s->lock);
	mig_source_note_throughput(s, us);
}

/* Only the peer's word lets go of the memory here: never an end of file. */
static int finish(struct mig_source *s)
{
	Vmmd__Bye bye = VMMD__BYE__INIT;
	ProtobufCMessage *msg;
	uint64_t begin_us = mig_now_us();
	int ret = 0;

	mig_fault_point(s->session, "postcopy");
	if (s->nr_responders > 0)
		ret = mig_source_push(s);
	if (ret == 0)
		ret = mig_link_recv(s->session->link, PROTO_COMPLETE, &msg);
	if (s->nr_responders > 0)
		note_postcopy(s, begin_us);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	mig_complete_read((Vmmd__Complete *)msg, &s->stats);
	pthread_mutex_unlock(&s->lock);
	protobuf_c_message_free_unpacked(msg, NULL);
	/* Best effort: the receiver needs nothing from us any more. */
	mig_link_send(s->session->link, PROTO_BYE, &bye.base);
	MIG_SOURCE_STAT(s, total_us, mig_now_us() - s->begin_us);
	return 0;
}

/* ---- the thread ---- */

static int start_tracking(struct mig_source *s)
{
	uint64_t begin_us = mig_now_us();
	int ret = mig_tracker_start(s->tracker);

	MIG_SOURCE_STAT(s, syncs.start_us, mig_now_us() - begin_us);
	return ret;
}

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
		ret = start_tracking(s);
	if (ret == 0)
		ret = mig_source_step(s, ON_AGREED);
	MIG_SOURCE_STAT(s, setup_us, mig_now_us() - s->begin_us);
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
	ret = mig_source_first_round(s);
	while (ret == 0 && !done) {
		if (!postcopy)
			ret = mig_source_precopy(s, &postcopy);
		MIG_SOURCE_STAT(s, precopy_us, mig_now_us() - begin_us);
		if (ret == 0)
			ret = mig_source_switchover(s, postcopy, &done);
	}
	return ret < 0 ? ret : finish(s);
}

static void say_session_error(struct mig_source *s, int ret)
{
	char why[512] = "";

	if (s->session && mig_session_error(s->session, why, sizeof(why)) != 0)
		mig_source_say(s, why);
	else
		mig_source_say_errno(s, ret);
}

/* Every thread that uses the session's sockets is gone after this. */
static void quiet_session(struct mig_source *s, int ret)
{
	if (!s->session)
		return;
	mig_session_break(s->session, ret, "%s", strerror(-ret));
	/* Before the token we may still say why; after it the peer has to notice. */
	if (mig_phase(&s->phases) >= MIG_COMMIT)
		mig_link_shut(s->session->link);
	mig_source_stop_responders(s);
}

/* Before the token. */
static void give_up(struct mig_source *s)
{
	bool cancelled;

	mig_source_take_back(s, mig_phase(&s->phases) == MIG_SWITCHOVER);
	mig_collapse_release(&s->guest->collapse);
	pthread_mutex_lock(&s->lock);
	cancelled = s->cancelled;
	pthread_mutex_unlock(&s->lock);
	mig_source_step(s, cancelled ? ON_CANCEL : ON_LOST);
}

static void conclude(struct mig_source *s, int ret)
{
	if (ret < 0)
		say_session_error(s, ret);
	quiet_session(s, ret < 0 ? ret : -ESHUTDOWN);
	if (ret == 0)
		mig_source_step(s, ON_DRAINED);
	else if (mig_phase(&s->phases) >= MIG_COMMIT)
		mig_source_step(s, ON_LOST);
	else
		give_up(s);
}

static void *source_main(void *arg)
{
	struct mig_source *s = arg;
	int ret;

	pthread_setname_np(pthread_self(), "migrate");
	mig_collapse_hold(&s->guest->collapse); /* until it goes on here */
	ret = migrate(s);
	conclude(s, ret);
	return NULL;
}

/* ---- rejoining ---- */

static int rejoined(struct mig_source *s)
{
	int ret;

	atomic_store(&s->left_pages, bitmap_count(s->pending, s->ram_pages));
	mig_source_note_running(s);
	ret = mig_source_step(s, ON_REJOINED);
	if (ret == 0)
		ret = mig_source_start_responders(s);
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
	if (never_ran && mig_source_was_told_running(s)) {
		mig_source_say(s, "the receiver said that it runs the guest, "
				  "and now that it never did");
		quiet_session(s, -EPROTO);
		s->ops->changed(s->ctx);
		return NULL;
	}
	if (never_ran) {
		mig_source_say(s, "the receiver never ran the guest and has "
				  "given it up: it goes on here");
		quiet_session(s, -ESHUTDOWN);
		mig_tracker_stop(s->tracker);
		mig_source_run_again(s);
		mig_collapse_release(&s->guest->collapse);
		mig_source_step(s, ON_NEVER_RAN);
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

static uint64_t nr_stripes(const struct mig_source *s)
{
	return (s->ram_pages + MIG_STRIPE_PAGES - 1) / MIG_STRIPE_PAGES;
}

int mig_source_new_maps(struct mig_source *s)
{
	s->todo = bitmap_new(s->ram_pages);
	s->dirty = bitmap_new(s->ram_pages);
	s->later = bitmap_new(s->ram_pages);
	s->window = bitmap_new(s->ram_pages);
	s->scratch = bitmap_new(s->ram_pages);
	s->hot = bitmap_new(nr_stripes(s));
	s->live = mig_source_new_live(s);
	s->sent = bitmap_new(s->ram_pages);
	s->pending = bitmap_new(s->ram_pages);
	return s->todo && s->dirty && s->later && s->window && s->scratch &&
			       s->hot && s->live && s->sent && s->pending
		       ? 0
		       : -ENOMEM;
}

void mig_source_free_maps(struct mig_source *s)
{
	bitmap_free(s->todo, s->ram_pages);
	bitmap_free(s->dirty, s->ram_pages);
	bitmap_free(s->later, s->ram_pages);
	bitmap_free(s->window, s->ram_pages);
	bitmap_free(s->scratch, s->ram_pages);
	bitmap_free(s->hot, nr_stripes(s));
	mig_source_free_live(s);
	bitmap_free(s->sent, s->ram_pages);
	bitmap_free(s->pending, s->ram_pages);
}

static void free_all(struct mig_source *s)
{
	mig_tracker_free(s->tracker);
	mig_crew_free(s->crew);
	mig_session_free(s->session);
	mig_rate_fini(&s->rate);
	mig_source_free_maps(s);
	free(s->state);
	mig_follow_fini(&s->follow);
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
	mig_converge_init(&s->converge, &s->cfg);
	s->stats.mode = s->cfg.mode;
	s->stats.channels = cfg->channels;
	s->stats.tracker = mig_tracker_name(s->tracker);
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
	mig_follow_init(&s->follow, MIG_STRIPE_PAGES);
	mig_rate_init(&s->rate, cfg->max_bandwidth);
	s->ops = ops;
	s->ctx = ctx;
	ret = check_config(g, cfg, &s->addr, err);
	if (ret == 0)
		ret = mig_tracker_new(g->vm, cfg->tracker, &s->tracker, err);
	if (ret < 0)
		goto free_s;
	init_values(s, g, cfg);
	ret = mig_source_new_maps(s);
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

/* Under lock, and with it the change: no phase begins in between. */
static int check_change(struct mig_source *s, const struct mig_source_change *c,
			char **err)
{
	enum mig_phase phase = mig_phase(&s->phases);

	if (c->postcopy && s->cfg.mode != MIG_MODE_HYBRID)
		return mig_say(err, -EINVAL,
			       "this migration goes by %s alone: only one that "
			       "was begun with --mode hybrid, on memory that "
			       "is not of huge pages, can be told",
			       mig_mode_name(s->cfg.mode));
	if ((c->postcopy && phase >= MIG_SWITCHOVER) ||
	    (c->downtime_limit_ms && phase >= MIG_COMMIT))
		return mig_say(err, -EBUSY,
			       "the guest is being handed over or was: only "
			       "the bandwidth can still be changed");
	return 0;
}

int mig_source_change(struct mig_source *s, const struct mig_source_change *c,
		      char **err)
{
	int ret;

	pthread_mutex_lock(&s->lock);
	ret = check_change(s, c, err);
	if (ret == 0 && c->downtime_limit_ms)
		atomic_store(&s->converge.downtime_limit_ms,
			     (uint32_t)*c->downtime_limit_ms);
	if (ret == 0 && c->max_bandwidth) {
		atomic_store(&s->converge.max_bandwidth, *c->max_bandwidth);
		mig_rate_set(&s->rate, *c->max_bandwidth);
	}
	if (ret == 0 && c->postcopy)
		atomic_store(&s->postcopy_now, true);
	pthread_mutex_unlock(&s->lock);
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
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	if (s->session)
		mig_session_break(s->session, -ESHUTDOWN, "given up");
	pthread_mutex_unlock(&s->lock);
	join(s);
	free_all(s);
}
