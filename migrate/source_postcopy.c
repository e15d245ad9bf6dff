#include "migrate/source_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/flight.h"
#include "migrate/net.h"
#include "migrate/pending.h"
#include "vmm/urgent.h"

int mig_source_send_pending(struct mig_source *s)
{
	memcpy(s->pending, s->todo,
	       bitmap_words(s->ram_pages) * sizeof(*s->pending));
	return mig_pending_send(s->session->link, s->pending, s->ram_pages);
}

/* Whoever clears the bit sends the page, so each goes out once. */
static int send_if_pending(struct mig_source *s, struct mig_sender *x,
			   uint64_t page)
{
	if (!bitmap_atomic_clear(s->pending, page))
		return 0;
	atomic_fetch_sub_explicit(&s->left_pages, 1, memory_order_relaxed);
	return mig_sender_page(x, page);
}

/* ---- on demand ---- */

static int read_want(const struct mig_responder *r, struct proto_batch *b)
{
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	size_t tail;
	int ret;

	ret = mig_net_read(r->fd, head, PROTO_BATCH_BYTES);
	if (ret < 0)
		return ret;
	ret = proto_batch_tail_bytes(head, &tail);
	if (ret < 0)
		return ret;
	ret = mig_net_read(r->fd, head + PROTO_BATCH_BYTES, tail);
	if (ret < 0)
		return ret;
	ret = proto_batch_decode(head, PROTO_BATCH_BYTES + tail,
				 r->s->ram_pages, b);
	if (ret == 0 && b->type != PROTO_BATCH_WANT)
		ret = -EBADMSG;
	return ret;
}

/* A page that is not pending any more is on its way or there: no answer. */
static int answer_want(struct mig_source *s, struct mig_sender *x,
		       const struct proto_batch *b)
{
	uint64_t page, end;
	uint32_t i;
	int ret = 0;

	for (i = 0; ret == 0 && i < b->nr_runs; i++) {
		page = b->runs[i].first_page;
		end = page + b->runs[i].nr_pages;
		mig_follow_fault(&s->follow, page);
		for (; ret == 0 && page < end; page++)
			ret = send_if_pending(s, x, page);
	}
	return ret < 0 ? ret : mig_sender_flush(x);
}

static void *responder_main(void *arg)
{
	struct mig_responder *r = arg;
	struct mig_source *s = r->s;
	struct mig_sender *x;
	struct proto_batch *b;
	int ret = -ENOMEM;

	pthread_setname_np(pthread_self(), "fault-answer");
	vm_thread_urgent(pthread_self(), true);
	b = malloc(sizeof(*b));
	if (!b || mig_sender_new(s, r->fd, MIG_LANE_FAULT, &x) < 0)
		goto fail;
	do {
		ret = read_want(r, b);
		if (ret == 0)
			ret = answer_want(s, x, b);
	} while (ret == 0);
	mig_sender_free(x);
fail:
	free(b);
	mig_session_break(s->session, ret, "fault channel: %s", strerror(-ret));
	return NULL;
}

int mig_source_start_responders(struct mig_source *s)
{
	int ret = 0;

	while (ret == 0 && s->nr_responders < s->session->fault_channels) {
		struct mig_responder *r = &s->responders[s->nr_responders];

		r->s = s;
		r->fd = s->session->fault_fds[s->nr_responders];
		ret = -pthread_create(&r->thread, NULL, responder_main, r);
		if (ret == 0)
			s->nr_responders++;
	}
	return ret;
}

/* The session must be broken or over: that is what ends their reads. */
void mig_source_stop_responders(struct mig_source *s)
{
	while (s->nr_responders > 0)
		pthread_join(s->responders[--s->nr_responders].thread, NULL);
}

/* ---- in bulk ---- */

/* What faults have overdrawn does not matter any more when nothing is left to send. */
static bool may_wait_to_push(void *ctx)
{
	struct mig_source *s = ctx;

	return mig_source_may_go_on(s) && atomic_load(&s->left_pages) > 0;
}

/* This channel's first one at or after stripe. */
static uint64_t own_stripe(const struct mig_source *s, unsigned int channel,
			   uint64_t stripe)
{
	uint64_t off = (channel + s->cfg.channels - stripe % s->cfg.channels) %
		       s->cfg.channels;

	return stripe + off;
}

static int push_stripe(struct mig_source *s, struct mig_sender *x,
		       uint64_t stripe)
{
	uint64_t first = stripe * MIG_STRIPE_PAGES;
	uint64_t end = first + MIG_STRIPE_PAGES;
	uint64_t page;
	int ret = 0;

	if (end > s->ram_pages)
		end = s->ram_pages;
	for (page = bitmap_next_set(s->pending, first, end);
	     ret == 0 && page < end;
	     page = bitmap_next_set(s->pending, page + 1, end)) {
		/* Nothing is claimed while we wait for the bandwidth limit. */
		if (mig_sender_holds(x) == 0)
			mig_rate_wait(&s->rate, may_wait_to_push, s);
		ret = send_if_pending(s, x, page);
	}
	return ret < 0 ? ret : mig_sender_flush(x);
}

/*
 * One lap over this channel's stripes, starting afresh wherever a fault is to be
 * followed to: what is behind is picked up as the lap wraps. A bit once cleared is
 * never set again, so a whole lap without a jump is all.
 */
static int push_share(struct mig_sender *x, unsigned int channel)
{
	struct mig_source *s = mig_sender_source(x);
	uint64_t stripes = (s->ram_pages + MIG_STRIPE_PAGES - 1) /
			   MIG_STRIPE_PAGES;
	uint64_t step = s->cfg.channels;
	uint64_t begin = mig_follow_at(&s->follow);
	uint64_t at = own_stripe(s, channel, begin);
	uint64_t seen = 0;
	int ret = 0;

	while (ret == 0 && seen < stripes + step) {
		uint64_t now = mig_follow_at(&s->follow);

		if (!mig_source_may_go_on(s))
			return -ECANCELED;
		if (now != begin) {
			begin = now;
			at = own_stripe(s, channel, begin);
			seen = 0;
		}
		if (at >= stripes)
			at = channel;
		if (at < stripes)
			ret = push_stripe(s, x, at);
		at += step;
		seen += step;
	}
	return ret;
}

static int push_job(void *ctx, unsigned int channel)
{
	struct mig_source *s = ctx;

	mig_flight_bound_unsent(s->session->data_fds[channel]);
	return mig_source_on_channel(ctx, channel, MIG_LANE_PUSH, push_share);
}

int mig_source_push(struct mig_source *s)
{
	mig_crew_run(s->crew, push_job, s);
	return mig_crew_wait(s->crew);
}
