#include "migrate/source_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/faultpoint.h"
#include "proto/control.pb-c.h"

struct mig_sender {
	struct mig_source *s;
	int fd;
	enum mig_lane lane;
	struct proto_batch data;
	struct proto_batch zero;
	uint64_t zero_pages;
	uint8_t head[PROTO_BATCH_HEAD_MAX];
};

/* A page that was claimed in postcopy may be waited for: short batches. */
#define PUSH_PAGES 32

static const uint8_t *page_hva(const struct mig_source *s, uint64_t page)
{
	return vm_mem_base(s->mem) + page * VM_PAGE_BYTES;
}

int mig_sender_new(struct mig_source *s, int fd, enum mig_lane lane,
		   struct mig_sender **ret)
{
	struct mig_sender *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->s = s;
	x->fd = fd;
	x->lane = lane;
	x->data.type = PROTO_BATCH_DATA;
	x->zero.type = PROTO_BATCH_ZERO;
	*ret = x;
	return 0;
}

struct mig_source *mig_sender_source(const struct mig_sender *x)
{
	return x->s;
}

void mig_sender_free(struct mig_sender *x)
{
	free(x);
}

/*
 * What this round does not send goes by postcopy. Never in the pause of a switch
 * by precopy, which has to send everything; no round sees the phase change.
 */
static bool goes_by_postcopy(const struct mig_source *s)
{
	return atomic_load_explicit(&s->postcopy_now, memory_order_relaxed) &&
	       mig_phase(&s->phases) == MIG_PRECOPY;
}

/* Or this round goes on after a look, which there is none of in a pause either. */
static bool cut_short(const struct mig_source *s)
{
	return atomic_load_explicit(&s->look_now, memory_order_relaxed) ||
	       goes_by_postcopy(s);
}

/* A look waits for what is owed: it is no reason to break the limit. */
static bool may_wait_in_round(void *ctx)
{
	return mig_source_may_go_on(ctx) && !goes_by_postcopy(ctx);
}

static int write_batch(struct mig_sender *x, struct iovec *iov, size_t nr)
{
	struct mig_source *s = x->s;
	uint64_t bytes = 0;
	size_t i;
	int ret;

	for (i = 0; i < nr; i++)
		bytes += iov[i].iov_len;
	/* MIG_LANE_PUSH waits before it claims pages; faults never wait. */
	if (x->lane == MIG_LANE_BULK)
		mig_rate_wait(&s->rate, may_wait_in_round, s);
	ret = mig_net_writev(x->fd, iov, nr);
	if (ret < 0)
		return ret;
	mig_rate_charge(&s->rate, bytes);
	atomic_fetch_add_explicit(&s->bytes_sent, bytes, memory_order_relaxed);
	return 0;
}

static int flush_data(struct mig_sender *x)
{
	struct iovec iov[1 + PROTO_BATCH_PAGES_MAX];
	struct proto_batch *b = &x->data;
	uint32_t i;
	int ret;

	if (b->nr_runs == 0)
		return 0;
	iov[0].iov_base = x->head;
	iov[0].iov_len = proto_batch_encode(b, x->head);
	for (i = 0; i < b->nr_runs; i++) {
		iov[1 + i].iov_base = (void *)page_hva(x->s,
						       b->runs[i].first_page);
		iov[1 + i].iov_len = b->runs[i].nr_pages * VM_PAGE_BYTES;
	}
	ret = write_batch(x, iov, 1 + b->nr_runs);
	atomic_fetch_add_explicit(&x->s->pages_sent, b->nr_sums,
				  memory_order_relaxed);
	b->nr_runs = 0;
	b->nr_sums = 0;
	return ret;
}

static int flush_zero(struct mig_sender *x)
{
	struct iovec iov;
	int ret;

	if (x->zero.nr_runs == 0)
		return 0;
	iov.iov_base = x->head;
	iov.iov_len = proto_batch_encode(&x->zero, x->head);
	ret = write_batch(x, &iov, 1);
	atomic_fetch_add_explicit(&x->s->pages_zero, x->zero_pages,
				  memory_order_relaxed);
	x->zero.nr_runs = 0;
	x->zero_pages = 0;
	return ret;
}

/* Lengthens the last run or opens one. */
static void append_run(struct proto_batch *b, uint64_t page)
{
	struct proto_run *last = &b->runs[b->nr_runs];

	if (b->nr_runs > 0 && last[-1].first_page + last[-1].nr_pages == page) {
		last[-1].nr_pages++;
		return;
	}
	last->first_page = page;
	last->nr_pages = 1;
	b->nr_runs++;
}

/*
 * The sum is of the bytes as they are now; the kernel copies them when the batch
 * is written. If the guest stores in between, the page was already watched again
 * (rearm comes first), so it will be sent once more: the receiver takes a page
 * whose sum is wrong as not received yet, and only complains if no good copy has
 * come by the switch.
 */
int mig_sender_page(struct mig_sender *x, uint64_t page)
{
	const uint8_t *data = page_hva(x->s, page);

	if (proto_page_is_zero(data)) {
		append_run(&x->zero, page);
		x->zero_pages++;
	} else {
		append_run(&x->data, page);
		x->data.sums[x->data.nr_sums++] = proto_page_sum(page, data);
	}
	if (x->lane == MIG_LANE_PUSH && mig_sender_holds(x) >= PUSH_PAGES)
		return mig_sender_flush(x);
	if (x->zero.nr_runs == PROTO_BATCH_PAGES_MAX)
		return flush_zero(x);
	return x->data.nr_sums < PROTO_BATCH_PAGES_MAX ? 0 : flush_data(x);
}

uint64_t mig_sender_holds(const struct mig_sender *x)
{
	return x->data.nr_sums + x->zero_pages;
}

int mig_sender_flush(struct mig_sender *x)
{
	int ret = flush_data(x);

	return ret < 0 ? ret : flush_zero(x);
}

/* All of it is to be sent, for the first time, and likely not as zeros. Or later. */
static bool is_whole(const struct mig_source *s, uint64_t first, uint64_t end)
{
	uint64_t word;

	if (end - first != PROTO_AHEAD_PAGES_MAX ||
	    proto_page_is_zero(page_hva(s, first)) ||
	    proto_page_is_zero(page_hva(s, end - 1)))
		return false;
	for (word = first / 64; word < end / 64; word++) {
		if (~(s->todo[word] | s->later[word]) != 0 ||
		    s->sent[word] != 0)
			return false;
	}
	return true;
}

/* The receiver can have a huge page ready. */
static int send_ahead(struct mig_sender *x, uint64_t first, uint64_t end)
{
	const struct proto_batch b = {
		.type = PROTO_BATCH_AHEAD,
		.nr_runs = 1,
		.runs = { { first, end - first } },
	};
	struct iovec iov = { x->head, proto_batch_encode(&b, x->head) };

	return write_batch(x, &iov, 1);
}

/* Invariant: watched again before the bytes are read (tracker.h). */
static int send_stripe(struct mig_sender *x, uint64_t first, uint64_t end)
{
	struct mig_source *s = x->s;
	uint64_t page = bitmap_next_set(s->todo, first, end);
	int ret;

	if (page == end)
		return 0;
	ret = mig_tracker_rearm(s->tracker, s->todo, first, end - first);
	if (ret == 0 && s->sends_ahead && is_whole(s, first, end))
		ret = send_ahead(x, first, end);
	for (; ret == 0 && page < end && !cut_short(s);
	     page = bitmap_next_set(s->todo, page + 1, end)) {
		ret = mig_sender_page(x, page);
		bitmap_clear(s->todo, page);
		bitmap_set(s->sent, page);
		atomic_fetch_sub_explicit(&s->left_pages, 1,
					  memory_order_relaxed);
	}
	return ret;
}

static int send_stripes(struct mig_sender *x, unsigned int channel, bool hot)
{
	struct mig_source *s = x->s;
	uint64_t first = channel * MIG_STRIPE_PAGES;
	uint64_t step = s->cfg.channels * MIG_STRIPE_PAGES;
	int ret = 0;

	for (; ret == 0 && first < s->ram_pages && !cut_short(s);
	     first += step) {
		uint64_t end = first + MIG_STRIPE_PAGES;

		if (bitmap_test(s->hot, first / MIG_STRIPE_PAGES) != hot)
			continue;
		if (!mig_source_may_go_on(s))
			return -ECANCELED;
		ret = send_stripe(x, first,
				  end < s->ram_pages ? end : s->ram_pages);
	}
	return ret;
}

static int send_share(struct mig_sender *x, unsigned int channel)
{
	int ret = send_stripes(x, channel, false);

	return ret < 0 ? ret : send_stripes(x, channel, true);
}

int mig_source_on_channel(struct mig_source *s, unsigned int channel,
			  enum mig_lane lane, mig_share *share)
{
	struct mig_sender *x;
	int ret;

	ret = mig_sender_new(s, s->session->data_fds[channel], lane, &x);
	if (ret < 0)
		return ret;
	ret = share(x, channel);
	if (ret == 0)
		ret = mig_sender_flush(x);
	mig_sender_free(x);
	if (ret < 0)
		mig_session_break(s->session, ret,
				  "data channel %u: cannot send: %s", channel,
				  strerror(-ret));
	return ret;
}

static int send_round_job(void *ctx, unsigned int channel)
{
	return mig_source_on_channel(ctx, channel, MIG_LANE_BULK, send_share);
}

void mig_source_send_todo(struct mig_source *s)
{
	mig_crew_run(s->crew, send_round_job, s);
}

static int send_on_all(struct mig_source *s, enum proto_batch_type type,
		       uint64_t seq)
{
	const struct proto_batch b = { .type = type, .seq = seq };
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	size_t bytes = proto_batch_encode(&b, head);
	unsigned int i;
	int ret;

	for (i = 0; i < s->cfg.channels; i++) {
		ret = mig_net_write(s->session->data_fds[i], head, bytes);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int mig_source_send_barrier(struct mig_source *s)
{
	return send_on_all(s, PROTO_BATCH_BARRIER, ++s->barrier);
}

static int recv_marked(struct mig_source *s)
{
	ProtobufCMessage *msg;
	int ret = mig_link_recv(s->session->link, PROTO_MARKED, &msg);

	if (ret < 0)
		return ret;
	if (((Vmmd__Marked *)msg)->mark == s->marked + 1) {
		s->marked++;
	} else {
		mig_source_say(s, "the receiver answers what it was not asked");
		ret = -EPROTO;
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

bool mig_source_is_marked(const struct mig_source *s)
{
	return s->marked == s->mark;
}

int mig_source_await_mark(struct mig_source *s)
{
	int ret = 0;

	while (ret == 0 && !mig_source_is_marked(s))
		ret = recv_marked(s);
	return ret;
}

/* One at a time: answers that nobody takes would fill the link. */
int mig_source_send_mark(struct mig_source *s)
{
	int ret;

	if (!s->sends_marks)
		return 0;
	ret = mig_source_await_mark(s);
	if (ret == 0)
		ret = send_on_all(s, PROTO_BATCH_MARK, ++s->mark);
	mig_fault_point(s->session, "mark");
	return ret;
}
