#include "migrate/dest_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"
#include "migrate/pending.h"
#include "migrate/state_codec.h"

/*
 * Wall clocks tell how long the guest stood still, unless they disagree with
 * what both sides measured by more than any network holds a message.
 */
#define TRANSIT_MAX_NS UINT64_C(250000000)

static int say_and_free(struct mig_dest *d, int ret, char *err)
{
	if (ret < 0 && err)
		mig_dest_say(d, err);
	else if (ret < 0)
		mig_dest_say_errno(d, ret);
	free(err);
	return ret;
}

static int take_message(struct mig_dest *d, enum proto_type type,
			const ProtobufCMessage *msg, uint64_t *pending)
{
	if (type == PROTO_PENDING)
		return mig_pending_decode((const Vmmd__Pending *)msg, pending,
					  d->ram_pages);
	if (type != PROTO_URGENT)
		return -EPROTO;
	mig_dest_receivers_urgent(d, ((const Vmmd__Urgent *)msg)->on);
	return 0;
}

/* PENDING pieces add up until STATE ends the precopy. */
static int recv_state(struct mig_dest *d, uint64_t *pending,
		      Vmmd__State **ret_state)
{
	enum proto_type type;
	ProtobufCMessage *msg;
	int ret;

	for (;;) {
		ret = mig_link_recv_any(d->session->link, &type, &msg);
		if (ret < 0)
			return ret;
		if (type == PROTO_STATE) {
			*ret_state = (Vmmd__State *)msg;
			return 0;
		}
		ret = take_message(d, type, msg, pending);
		protobuf_c_message_free_unpacked(msg, NULL);
		if (ret < 0)
			return ret;
	}
}

/*
 * Channels and link are not ordered against each other: the barrier says that
 * all pages sent before STATE are in. Only then may stale ones be discarded.
 */
static int wait_barrier(struct mig_dest *d, uint64_t barrier)
{
	unsigned int i = 0;

	pthread_mutex_lock(&d->lock);
	while (i < d->session->channels && mig_dest_may_wait(d)) {
		if (d->barriers[i] >= barrier)
			i++;
		else
			mig_dest_wait(d);
	}
	pthread_mutex_unlock(&d->lock);
	mig_dest_receivers_urgent(d, false);
	return i == d->session->channels ? 0 : -ECONNRESET;
}

static int check_suspects(struct mig_dest *d, const uint64_t *pending)
{
	size_t i;

	for (i = 0; i < bitmap_words(d->ram_pages); i++) {
		if (d->suspect[i] & ~pending[i]) {
			mig_dest_say(d, "memory arrived damaged (a page does "
					"not match its checksum)");
			return -EBADMSG;
		}
	}
	return 0;
}

static uint64_t count_stale(const struct mig_dest *d, const uint64_t *pending)
{
	uint64_t pages = 0;

	for (size_t i = 0; i < bitmap_words(d->ram_pages); i++)
		pages += bitmap_count_word(d->received[i] & pending[i]);
	return pages;
}

/* What is still to come must not be there in an older copy (fill.h). */
static int discard_stale(struct mig_dest *d, const uint64_t *pending)
{
	struct vm_mem *mem = vm_mem(d->guest->vm);
	uint64_t page, end = 0;
	int ret = 0;

	for (page = bitmap_next_set(pending, 0, d->ram_pages);
	     ret == 0 && page < d->ram_pages;
	     page = bitmap_next_set(pending, end, d->ram_pages)) {
		end = bitmap_next_clear(pending, page, d->ram_pages);
		ret = vm_mem_discard(mem, page * VM_PAGE_BYTES,
				     (end - page) * VM_PAGE_BYTES);
	}
	return ret;
}

/* Takes pending over if it is needed. */
static int start_fill(struct mig_dest *d, uint64_t **pending,
		      uint64_t expected_pages)
{
	const uint64_t *bits = *pending;
	struct mig_fill *fill;
	uint64_t stale_pages;
	char *err = NULL;
	int ret;

	if (bitmap_count(*pending, d->ram_pages) != expected_pages)
		return -EBADMSG;
	if (expected_pages == 0)
		return 0;
	stale_pages = count_stale(d, bits);
	ret = mig_fill_new(d->guest, *pending, &mig_dest_fill_ops, d, &fill,
			   &err);
	if (ret < 0)
		return say_and_free(d, ret, err);
	*pending = NULL; /* the fill's; nothing clears a bit before READY */
	/*
	 * Discard under the registration, not before it: khugepaged fills holes
	 * with zeros wherever no userfaultfd is watching, and a page that is
	 * there would never be replaced.
	 */
	ret = discard_stale(d, bits);
	mig_dest_publish_fill(d, fill);
	pthread_mutex_lock(&d->lock);
	d->stats.pages_stale = stale_pages;
	d->stats.postcopied = true;
	pthread_mutex_unlock(&d->lock);
	return ret;
}

static uint64_t realtime_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * How long the guest has stood still. Both sides' monotonic clocks give a lower
 * bound that misses the time on the wire; the wall clocks have it, if they agree.
 */
static uint64_t stood_still_ns(const struct vm_state *state,
			       uint64_t stopped_ns, uint64_t since_ns)
{
	uint64_t at_least = stopped_ns + (mig_now_ns() - since_ns);
	uint64_t wall = realtime_ns() - state->realtime_ns;

	return wall > at_least && wall - at_least < TRANSIT_MAX_NS ? wall
								   : at_least;
}

static int load_state(struct mig_dest *d, const Vmmd__State *msg,
		      uint64_t since_ns)
{
	struct vm_state state;
	char *err = NULL;
	int ret;

	ret = mig_state_unpack(msg->vm.data, msg->vm.len, d->guest->vm, &state,
			       &err);
	if (ret < 0)
		return say_and_free(d, ret, err);
	ret = vm_state_load(d->guest->vm, &state,
			    stood_still_ns(&state, msg->stopped_ns, since_ns),
			    &err);
	vm_state_fini(&state);
	return say_and_free(d, ret, err);
}

/*
 * From here on the token may be on its way (phase.c). Not if the session broke
 * while the state was loading: then missing pages may have been read as zeros.
 */
static int step_token(struct mig_dest *d)
{
	int ret;

	pthread_mutex_lock(&d->lock);
	pthread_mutex_lock(&d->doom_lock);
	ret = d->doomed ? -ECONNRESET : mig_phase_step(&d->phases, ON_TOKEN);
	pthread_mutex_unlock(&d->doom_lock);
	pthread_mutex_unlock(&d->lock);
	d->ops->changed(d->ctx);
	return ret;
}

/*
 * Before READY, so that nothing can run here without its disks, and a disk that
 * cannot be had is still in time to send the guest back. The source has let go
 * of them before it sent the state.
 */
static int lock_disks(struct mig_dest *d)
{
	char *err = NULL;
	int ret = vm_disks_lock(d->guest->vm, &err);

	ret = say_and_free(d, ret, err);
	mig_fault_point(d->session, "locked");
	return ret;
}

static int take_over(struct mig_dest *d, uint64_t **pending,
		     const Vmmd__State *msg)
{
	Vmmd__Ready ready = VMMD__READY__INIT;
	uint64_t begin_ns = mig_now_ns();
	int ret;

	ret = msg->barrier == 0 ? -EBADMSG : wait_barrier(d, msg->barrier);
	if (ret == 0)
		ret = check_suspects(d, *pending);
	if (ret == 0)
		ret = start_fill(d, pending, msg->pending_pages);
	if (ret == 0)
		ret = load_state(d, msg, begin_ns);
	if (ret == 0)
		ret = lock_disks(d);
	if (ret < 0)
		return ret;
	d->paused_at_source = msg->paused;
	ready.load_us = (mig_now_ns() - begin_ns) / 1000;
	ret = step_token(d);
	return ret < 0 ? ret
		       : mig_link_send(d->session->link, PROTO_READY,
				       &ready.base);
}

int mig_dest_switchover(struct mig_dest *d)
{
	Vmmd__State *msg;
	uint64_t *pending;
	int ret;

	pending = bitmap_new(d->ram_pages);
	if (!pending)
		return -ENOMEM;
	ret = recv_state(d, pending, &msg);
	if (ret < 0)
		goto free_pending;
	ret = mig_dest_step(d, ON_STOPPED);
	mig_fault_point(d->session, "stopped");
	if (ret == 0)
		ret = take_over(d, &pending, msg);
	protobuf_c_message_free_unpacked(&msg->base, NULL);
free_pending:
	bitmap_free(pending, d->ram_pages);
	return ret;
}
