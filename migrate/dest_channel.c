#include "migrate/dest_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"
#include "migrate/net.h"
#include "vmm/urgent.h"

#define URGENT_BATCHES     16
#define URGENT_US_MAX      2000000
#define POPULATE_PAGES_MIN 8

/* What a channel thread works with; too big for its stack. */
struct inbox {
	struct proto_batch batch;
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	struct iovec iov[PROTO_BATCH_PAGES_MAX];
	uint8_t *pages;         /* postcopy: what makes no block */
	struct proto_run ahead; /* memory is ready for these */
};

static uint8_t *page_hva(struct mig_dest *d, uint64_t page)
{
	return vm_mem_base(vm_mem(d->guest->vm)) + page * VM_PAGE_BYTES;
}

/* False: a channel of what was asked for. */
static bool is_bulk(const struct mig_receiver *r)
{
	return r->channel < PROTO_CHANNELS_MAX;
}

/* Of a bulk channel. */
static struct mig_block *block_of(const struct mig_receiver *r)
{
	return &r->d->blocks[r->channel];
}

static int read_head(struct mig_receiver *r, struct inbox *in)
{
	size_t tail;
	int ret;

	ret = mig_net_read(r->fd, in->head, PROTO_BATCH_BYTES);
	if (ret < 0)
		return ret;
	ret = proto_batch_tail_bytes(in->head, &tail);
	if (ret < 0)
		return ret;
	ret = mig_net_read(r->fd, in->head + PROTO_BATCH_BYTES, tail);
	if (ret < 0)
		return ret;
	atomic_fetch_add(&r->d->bytes, PROTO_BATCH_BYTES + tail);
	return proto_batch_decode(in->head, PROTO_BATCH_BYTES + tail,
				  r->d->ram_pages, &in->batch);
}

/* ---- precopy: straight into RAM ---- */

/*
 * A wrong sum means that the guest stored into the page while it was being sent;
 * then it comes again. If it does not, the page is damaged, and the switch is
 * refused (mig_dest: check_suspects).
 */
static void judge_page(struct mig_dest *d, uint64_t page, uint64_t sum)
{
	if (proto_page_sum(page, page_hva(d, page)) == sum)
		bitmap_atomic_clear(d->suspect, page);
	else
		bitmap_atomic_set(d->suspect, page);
}

static void populate(struct mig_dest *d, const struct proto_run *run)
{
	vm_mem_populate(vm_mem(d->guest->vm), run->first_page * VM_PAGE_BYTES,
			run->nr_pages * VM_PAGE_BYTES);
}

/* A long run whose start is new here likely is new all over. */
static bool wants_populate(const struct mig_dest *d, const struct inbox *in,
			   const struct proto_run *run)
{
	if (run->nr_pages < POPULATE_PAGES_MIN ||
	    run->first_page - in->ahead.first_page < in->ahead.nr_pages)
		return false;
	return !bitmap_atomic_test(d->received, run->first_page);
}

static int data_to_ram(struct mig_receiver *r, struct inbox *in)
{
	const struct proto_batch *b = &in->batch;
	struct mig_dest *d = r->d;
	uint32_t i, sum = 0;
	uint64_t j;
	int ret;

	for (i = 0; i < b->nr_runs; i++) {
		const struct proto_run *run = &b->runs[i];

		if (wants_populate(d, in, run))
			populate(d, run);
		in->iov[i].iov_base = page_hva(d, run->first_page);
		in->iov[i].iov_len = run->nr_pages * VM_PAGE_BYTES;
	}
	ret = mig_net_readv(r->fd, in->iov, b->nr_runs);
	if (ret < 0)
		return ret;
	for (i = 0; i < b->nr_runs; i++) {
		for (j = 0; j < b->runs[i].nr_pages; j++) {
			uint64_t page = b->runs[i].first_page + j;

			bitmap_atomic_set(d->received, page);
			judge_page(d, page, b->sums[sum++]);
		}
	}
	return 0;
}

/* The source's last word on this channel before the switch. */
static bool saw_barrier(struct mig_receiver *r)
{
	bool seen;

	if (!is_bulk(r))
		return true;
	pthread_mutex_lock(&r->d->lock);
	seen = r->d->barriers[r->channel] != 0;
	pthread_mutex_unlock(&r->d->lock);
	return seen;
}

/*
 * Not once the switch may have begun: with the userfaultfd registered it would
 * wait for pages that only we can place.
 */
static int take_ahead(struct mig_receiver *r, struct inbox *in)
{
	if (saw_barrier(r))
		return -EBADMSG;
	for (uint32_t i = 0; i < in->batch.nr_runs; i++) {
		in->ahead = in->batch.runs[i];
		if (!bitmap_atomic_test(r->d->received, in->ahead.first_page))
			populate(r->d, &in->ahead);
	}
	return 0;
}

/* Memory that never held anything stays unpopulated. */
static void zeros_to_ram(struct mig_dest *d, const struct proto_run *run)
{
	uint64_t end = run->first_page + run->nr_pages;
	uint64_t page = bitmap_next_set(d->received, run->first_page, end);

	for (; page < end; page = bitmap_next_set(d->received, page + 1, end)) {
		memset(page_hva(d, page), 0, VM_PAGE_BYTES);
		bitmap_atomic_clear(d->suspect, page);
	}
}

/* ---- postcopy: through the fill ---- */

static int check_sums(const struct proto_batch *b, const uint8_t *pages)
{
	uint32_t i, sum = 0;
	uint64_t j;

	for (i = 0; i < b->nr_runs; i++) {
		for (j = 0; j < b->runs[i].nr_pages; j++, sum++) {
			if (proto_page_sum(b->runs[i].first_page + j,
					   pages + sum * VM_PAGE_BYTES) !=
			    b->sums[sum])
				return -EBADMSG;
		}
	}
	return 0;
}

/* The guest is stopped over there: a wrong sum is damage, and nothing else. */
static int read_pages(struct mig_receiver *r, const struct proto_batch *b,
		      uint8_t *pages)
{
	uint64_t bytes = b->nr_sums * VM_PAGE_BYTES;
	int ret = mig_net_read(r->fd, pages, bytes);

	if (is_bulk(r))
		mig_flight_took(&r->flight, r->fd, bytes, mig_now_us());
	return ret < 0 ? ret : check_sums(b, pages);
}

static int data_to_block(struct mig_receiver *r, const struct proto_batch *b,
			 uint8_t *room)
{
	int ret = read_pages(r, b, room);

	return ret < 0 ? ret : mig_block_add(block_of(r), b->nr_sums);
}

static int data_to_fill(struct mig_receiver *r, struct inbox *in,
			struct mig_fill *fill)
{
	const struct proto_batch *b = &in->batch;
	const uint8_t *at;
	uint32_t i;
	int ret;

	if (!in->pages)
		in->pages = malloc(PROTO_BATCH_PAGES_MAX * VM_PAGE_BYTES);
	if (!in->pages)
		return -ENOMEM;
	ret = read_pages(r, b, in->pages);
	at = in->pages;
	for (i = 0; ret == 0 && i < b->nr_runs; i++) {
		ret = mig_fill_place(fill, b->runs[i].first_page,
				     b->runs[i].nr_pages, at);
		at += b->runs[i].nr_pages * VM_PAGE_BYTES;
	}
	return ret;
}

/*
 * Not before the source's word that the guest may run: until then a session that breaks
 * takes the fill with it, under locks that who gives a page out of a block may take
 * (mig_dest_on_broken).
 */
static bool makes_blocks(const struct mig_receiver *r)
{
	return is_bulk(r) && mig_phase(&r->d->phases) >= MIG_COMMIT;
}

/* ---- both ---- */

static int take_data(struct mig_receiver *r, struct inbox *in)
{
	struct mig_fill *fill = atomic_load(&r->d->fill);
	const struct proto_batch *b = &in->batch;
	uint8_t *room = NULL;
	int ret = 0;

	atomic_fetch_add(&r->d->bytes, b->nr_sums * VM_PAGE_BYTES);
	atomic_fetch_add(&r->d->pages, b->nr_sums);
	if (!fill)
		return data_to_ram(r, in);
	if (makes_blocks(r))
		ret = mig_block_room(block_of(r), fill,
				     b->nr_runs == 1 ? b->runs : NULL, &room);
	if (ret < 0)
		return ret;
	return room ? data_to_block(r, b, room) : data_to_fill(r, in, fill);
}

static int take_zeros(struct mig_receiver *r, struct inbox *in)
{
	struct mig_fill *fill = atomic_load(&r->d->fill);
	uint32_t i;
	int ret = is_bulk(r) ? mig_block_flush(block_of(r)) : 0;

	for (i = 0; ret == 0 && i < in->batch.nr_runs; i++) {
		const struct proto_run *run = &in->batch.runs[i];

		atomic_fetch_add(&r->d->pages_zero, run->nr_pages);
		if (fill)
			ret = mig_fill_place(fill, run->first_page,
					     run->nr_pages, NULL);
		else
			zeros_to_ram(r->d, run);
	}
	return ret;
}

static int take_barrier(struct mig_receiver *r, const struct inbox *in)
{
	struct mig_dest *d = r->d;

	if (!is_bulk(r))
		return -EBADMSG;
	pthread_mutex_lock(&d->lock);
	d->barriers[r->channel] = in->batch.seq;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	return 0;
}

/*
 * True for the channel that is the last to see it; not while the guest could not run
 * here yet, since the source stops it on our word (mig_dest_add_ram).
 */
static bool note_mark(struct mig_receiver *r, uint64_t seq)
{
	struct mig_dest *d = r->d;
	unsigned int i = 0;
	bool all;

	pthread_mutex_lock(&d->lock);
	d->marks[r->channel] = seq;
	while (i < d->session->channels && d->marks[i] >= seq)
		i++;
	all = i == d->session->channels;
	if (all && !d->has_ram) {
		d->due_mark = seq;
		all = false;
	}
	pthread_mutex_unlock(&d->lock);
	return all;
}

int mig_dest_send_marked(struct mig_dest *d, uint64_t mark)
{
	Vmmd__Marked msg = VMMD__MARKED__INIT;

	msg.mark = mark;
	return mig_link_send(d->session->link, PROTO_MARKED, &msg.base);
}

/* The source stops the guest only when all that it has sent was read. */
static int take_mark(struct mig_receiver *r, const struct inbox *in)
{
	if (!is_bulk(r) || saw_barrier(r) ||
	    in->batch.seq <= r->d->marks[r->channel])
		return -EBADMSG;
	mig_fault_point(r->d->session, "mark");
	return note_mark(r, in->batch.seq)
		       ? mig_dest_send_marked(r->d, in->batch.seq)
		       : 0;
}

/* urgent_lock is held, by the receiver or by who joins it. */
static void set_urgent(struct mig_receiver *r, bool urgent)
{
	if (urgent == atomic_load(&r->urgent))
		return;
	atomic_store(&r->urgent, urgent);
	vm_thread_urgent(r->thread, urgent);
}

/* A long pause is long for other reasons. Answers to faults are few. */
static bool is_overdue(const struct mig_receiver *r)
{
	return is_bulk(r) &&
	       mig_now_us() - atomic_load(&r->d->awaited_us) > URGENT_US_MAX;
}

/*
 * Who has had work for so many batches in a row is at bulk work, whatever the source
 * says; out of work again, it waits for the last ones.
 */
static void await_batch(struct mig_receiver *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };
	bool urgent;

	if (!atomic_load(&r->awaited)) {
		r->busy_batches = 0;
		return;
	}
	r->busy_batches = poll(&p, 1, 0) == 0 ? 0 : r->busy_batches + 1;
	urgent = r->busy_batches < URGENT_BATCHES && !is_overdue(r);
	if (urgent == atomic_load(&r->urgent))
		return;
	pthread_mutex_lock(&r->d->urgent_lock);
	set_urgent(r, urgent && atomic_load(&r->awaited));
	pthread_mutex_unlock(&r->d->urgent_lock);
}

/* Pages are not kept for what may never come. */
static int await_rest_of_block(const struct mig_receiver *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };

	if (!is_bulk(r) || mig_block_is_empty(block_of(r)) ||
	    poll(&p, 1, MIG_BLOCK_WAIT_MS) != 0)
		return 0;
	return mig_block_flush(block_of(r));
}

static int take_batch(struct mig_receiver *r, struct inbox *in)
{
	int ret;

	await_batch(r);
	ret = await_rest_of_block(r);
	if (ret == 0)
		ret = read_head(r, in);
	if (ret < 0)
		return ret;
	switch (in->batch.type) {
	case PROTO_BATCH_DATA:
		return take_data(r, in);
	case PROTO_BATCH_ZERO:
		return take_zeros(r, in);
	case PROTO_BATCH_BARRIER:
		return take_barrier(r, in);
	case PROTO_BATCH_AHEAD:
		return take_ahead(r, in);
	case PROTO_BATCH_MARK:
		return take_mark(r, in);
	case PROTO_BATCH_WANT:
		break;
	}
	return -EBADMSG;
}

/* Once every page is in, the source may close these before its BYE is read. */
static bool may_end(struct mig_dest *d)
{
	struct mig_fill *fill = atomic_load(&d->fill);

	/* MIG_PAUSED: a rejoin that has not been noted yet. */
	return mig_phase(&d->phases) >= MIG_POSTCOPY &&
	       (!fill || mig_fill_pending(fill) == 0);
}

static void *receiver_main(void *arg)
{
	struct mig_receiver *r = arg;
	struct mig_dest *d = r->d;
	struct inbox *in;
	int ret = -ENOMEM;

	pthread_setname_np(pthread_self(), "channel");
	in = calloc(1, sizeof(*in));
	while (in && (ret = take_batch(r, in)) == 0)
		;
	/* Even when it is empty: who is in mig_block_give() may use the session. */
	if (is_bulk(r))
		mig_block_flush(block_of(r));
	if (ret != -ECONNRESET || !may_end(d))
		mig_session_break(d->session, ret, "page channel: %s",
				  ret == -EBADMSG ? "damaged data"
						  : strerror(-ret));
	if (in)
		free(in->pages);
	free(in);
	return NULL;
}

static int start_receiver(struct mig_dest *d, unsigned int slot, int fd)
{
	struct mig_receiver *r = &d->receivers[slot];
	int ret;

	*r = (struct mig_receiver){ .d = d, .channel = slot, .fd = fd };
	/* Answers to faults always are. */
	atomic_init(&r->awaited, !is_bulk(r));
	/* The thread may want r->thread at once. */
	pthread_mutex_lock(&d->urgent_lock);
	ret = -pthread_create(&r->thread, NULL, receiver_main, r);
	pthread_mutex_unlock(&d->urgent_lock);
	r->started = ret == 0;
	return ret;
}

int mig_dest_start_receivers(struct mig_dest *d)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; ret == 0 && i < d->session->channels; i++)
		ret = start_receiver(d, i, d->session->data_fds[i]);
	for (i = 0; ret == 0 && i < d->session->fault_channels; i++)
		ret = start_receiver(d, PROTO_CHANNELS_MAX + i,
				     d->session->fault_fds[i]);
	return ret;
}

/* They may be asleep: nobody but us can make them urgent then. */
void mig_dest_receivers_urgent(struct mig_dest *d, bool urgent)
{
	unsigned int i;

	pthread_mutex_lock(&d->urgent_lock);
	atomic_store(&d->awaited_us, mig_now_us());
	for (i = 0; i < PROTO_CHANNELS_MAX; i++) {
		if (!d->receivers[i].started)
			continue;
		atomic_store(&d->receivers[i].awaited, urgent);
		set_urgent(&d->receivers[i], urgent);
	}
	pthread_mutex_unlock(&d->urgent_lock);
}

void mig_dest_stop_receivers(struct mig_dest *d)
{
	unsigned int i;

	for (i = 0; i < 2 * PROTO_CHANNELS_MAX; i++) {
		if (d->receivers[i].started)
			pthread_join(d->receivers[i].thread, NULL);
		d->receivers[i].started = false;
	}
}
