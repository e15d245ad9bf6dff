#include "migrate/dest_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"
#include "migrate/net.h"
#include "vmm/urgent.h"

#define URGENT_BATCHES 16
#define URGENT_US_MAX  2000000

bool mig_dest_is_bulk(const struct mig_receiver *r)
{
	return r->channel < PROTO_CHANNELS_MAX;
}

static int read_head(struct mig_receiver *r, struct mig_inbox *in)
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

bool mig_dest_saw_barrier(struct mig_receiver *r)
{
	bool seen;

	if (!mig_dest_is_bulk(r))
		return true;
	pthread_mutex_lock(&r->d->lock);
	seen = r->d->barriers[r->channel] != 0;
	pthread_mutex_unlock(&r->d->lock);
	return seen;
}

static int take_barrier(struct mig_receiver *r, const struct mig_inbox *in)
{
	struct mig_dest *d = r->d;

	if (!mig_dest_is_bulk(r))
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
static int take_mark(struct mig_receiver *r, const struct mig_inbox *in)
{
	if (!mig_dest_is_bulk(r) || mig_dest_saw_barrier(r) ||
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
	return mig_dest_is_bulk(r) &&
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

static int take_batch(struct mig_receiver *r, struct mig_inbox *in)
{
	int ret;

	await_batch(r);
	ret = mig_dest_await_rest_of_block(r);
	if (ret == 0)
		ret = read_head(r, in);
	if (ret < 0)
		return ret;
	switch (in->batch.type) {
	case PROTO_BATCH_DATA:
		return mig_dest_take_data(r, in);
	case PROTO_BATCH_ZERO:
		return mig_dest_take_zeros(r, in);
	case PROTO_BATCH_BARRIER:
		return take_barrier(r, in);
	case PROTO_BATCH_AHEAD:
		return mig_dest_take_ahead(r, in);
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
	struct mig_inbox *in;
	int ret = -ENOMEM;

	pthread_setname_np(pthread_self(), "channel");
	in = calloc(1, sizeof(*in));
	while (in && (ret = take_batch(r, in)) == 0)
		;
	/* Even when it is empty: who is in mig_block_give() may use the session. */
	if (mig_dest_is_bulk(r))
		mig_block_flush(&d->blocks[r->channel]);
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
	atomic_init(&r->awaited, !mig_dest_is_bulk(r));
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
