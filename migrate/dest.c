#include "migrate/dest_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"
#include "migrate/pending.h"
#include "migrate/state_codec.h"

/*
 * After COMPLETE a source that lost the link may come back to hear it again;
 * by then the guest is whole, so the wait costs a listening socket.
 */
#define LINGER_MS 30000
/*
 * A page channel may break before the source's word on why it gave up is here.
 */
#define LAST_WORD_MS 300
/*
 * Wall clocks tell how long the guest stood still, unless they disagree with
 * what both sides measured by more than any network holds a message.
 */
#define TRANSIT_MAX_NS UINT64_C(15000000000)

/* ---- small things ---- */

void mig_dest_say(struct mig_dest *d, const char *why)
{
	pthread_mutex_lock(&d->lock);
	if (d->error[0] == '\0')
		snprintf(d->error, sizeof(d->error), "%s", why);
	pthread_mutex_unlock(&d->lock);
}

static int say_and_free(struct mig_dest *d, int ret, char *err)
{
	if (ret < 0)
		mig_dest_say(d, err ? err : strerror(-ret));
	free(err);
	return ret;
}

static int step(struct mig_dest *d, enum mig_event ev)
{
	int ret;

	pthread_mutex_lock(&d->lock);
	ret = mig_phase_step(&d->phases, ev);
	pthread_mutex_unlock(&d->lock);
	d->ops->changed(d->ctx);
	return ret;
}

#define SET_STAT(d, member, value)                                             \
	do {                                                                   \
		pthread_mutex_lock(&(d)->lock);                                \
		(d)->stats.member = (value);                                   \
		pthread_mutex_unlock(&(d)->lock);                              \
	} while (0)

static int send_complete(struct mig_dest *d)
{
	struct mig_fill *fill = atomic_load(&d->fill);
	Vmmd__Complete msg = VMMD__COMPLETE__INIT;
	struct mig_latency faults = { 0 };

	if (fill)
		mig_fill_latency(fill, &faults);
	msg.faults = faults.count;
	msg.fault_p50_us = faults.p50_us;
	msg.fault_p99_us = faults.p99_us;
	msg.fault_max_us = faults.max_us;
	return mig_link_send(d->session->link, PROTO_COMPLETE, &msg.base);
}

/* ---- setup ---- */

static void publish_session(struct mig_dest *d, struct mig_session *session)
{
	pthread_mutex_lock(&d->lock);
	d->session = session;
	if (d->ending)
		mig_session_break(session, -ESHUTDOWN, "shutting down");
	pthread_mutex_unlock(&d->lock);
}

static void note_setup(struct mig_dest *d, const Vmmd__Setup *setup)
{
	pthread_mutex_lock(&d->lock);
	d->begin_us = mig_now_us();
	mig_mode_parse(setup->mode, &d->stats.mode);
	if (setup->channels <= PROTO_CHANNELS_MAX)
		d->session->channels = setup->channels;
	d->stats.channels = d->session->channels;
	pthread_mutex_unlock(&d->lock);
}

static int recv_setup(struct mig_dest *d)
{
	ProtobufCMessage *msg;
	Vmmd__Setup *setup;
	int ret;

	ret = mig_link_recv(d->session->link, PROTO_SETUP, &msg);
	if (ret < 0)
		return ret;
	setup = (Vmmd__Setup *)msg;
	note_setup(d, setup);
	mig_fault_point(d->session, "setup");
	ret = mig_dest_agree(d, setup);
	protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

static int use_channels(struct mig_dest *d)
{
	int ret = mig_dest_wait_channels(d);

	if (ret < 0)
		return ret;
	pthread_mutex_lock(&d->want_lock);
	d->want_fd = d->session->fault_fd;
	pthread_mutex_unlock(&d->want_lock);
	return mig_dest_start_receivers(d);
}

static int setup(struct mig_dest *d, int control_fd, const uint8_t *id)
{
	struct mig_session *session;
	int ret;

	ret = mig_session_new(id, control_fd, 0, &session);
	if (ret < 0)
		return ret;
	publish_session(d, session);
	ret = recv_setup(d);
	if (ret == 0)
		ret = use_channels(d);
	if (ret < 0)
		return ret;
	mig_fault_point(d->session, "agreed");
	SET_STAT(d, setup_us, mig_now_us() - d->begin_us);
	return step(d, ON_AGREED);
}

/* ---- switchover ---- */

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
		ret = -EPROTO;
		if (type == PROTO_PENDING)
			ret = mig_pending_decode((Vmmd__Pending *)msg, pending,
						 d->ram_pages);
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
	while (i < d->session->channels && !d->ending &&
	       !mig_session_broken(d->session)) {
		if (d->barriers[i] >= barrier)
			i++;
		else
			pthread_cond_wait(&d->changed, &d->lock);
	}
	pthread_mutex_unlock(&d->lock);
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

/* The last page is in: nothing ties the guest to the source any more. */
static void on_drained(void *ctx)
{
	struct mig_dest *d = ctx;

	mig_fault_point(d->session, "drained");
	send_complete(d);
}

static const struct mig_fill_ops fill_ops = {
	.want = mig_dest_want,
	.drained = on_drained,
};

/* Takes pending over if it is needed. */
static int start_fill(struct mig_dest *d, uint64_t **pending,
		      uint64_t expected_pages)
{
	struct mig_fill *fill;
	char *err = NULL;
	int ret;

	if (bitmap_count(*pending, d->ram_pages) != expected_pages)
		return -EBADMSG;
	if (expected_pages == 0)
		return 0;
	ret = discard_stale(d, *pending);
	if (ret == 0)
		ret = mig_fill_new(d->guest, *pending, &fill_ops, d, &fill,
				   &err);
	if (ret < 0)
		return say_and_free(d, ret, err);
	*pending = NULL;
	SET_STAT(d, postcopied, true);
	atomic_store(&d->fill, fill);
	return 0;
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

static int take_over(struct mig_dest *d, uint64_t **pending,
		     const Vmmd__State *msg)
{
	Vmmd__Ready ready = VMMD__READY__INIT;
	uint64_t begin_ns = mig_now_ns();
	int ret;

	ret = wait_barrier(d, msg->barrier);
	if (ret == 0)
		ret = check_suspects(d, *pending);
	if (ret == 0)
		ret = start_fill(d, pending, msg->pending_pages);
	if (ret == 0)
		ret = load_state(d, msg, begin_ns);
	if (ret < 0)
		return ret;
	d->paused_at_source = msg->paused;
	ready.load_us = (mig_now_ns() - begin_ns) / 1000;
	/* From here on the token may be on its way (phase.c). */
	ret = step(d, ON_TOKEN);
	return ret < 0 ? ret
		       : mig_link_send(d->session->link, PROTO_READY,
				       &ready.base);
}

static int switchover(struct mig_dest *d)
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
	ret = step(d, ON_STOPPED);
	mig_fault_point(d->session, "stopped");
	if (ret == 0)
		ret = take_over(d, &pending, msg);
	protobuf_c_message_free_unpacked(&msg->base, NULL);
free_pending:
	free(pending);
	return ret;
}

/* ---- the token and after ---- */

static int recv_token(struct mig_dest *d)
{
	ProtobufCMessage *msg;
	int ret;

	ret = mig_link_recv(d->session->link, PROTO_COMMIT, &msg);
	if (ret < 0)
		return ret;
	if (((Vmmd__Commit *)msg)->token.len != PROTO_SESSION_BYTES ||
	    memcmp(((Vmmd__Commit *)msg)->token.data, d->session->id,
		   PROTO_SESSION_BYTES) != 0)
		ret = -EPROTO;
	protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

static int run_guest(struct mig_dest *d)
{
	Vmmd__Running running = VMMD__RUNNING__INIT;
	uint64_t begin_us = mig_now_us();
	int ret = 0;

	mig_fault_point(d->session, "before-running");
	/* A guest that ended itself just before the switch ends here. */
	if (!d->paused_at_source)
		ret = vm_resume(d->guest->vm);
	if (ret < 0 && ret != -ECANCELED)
		return ret;
	running.start_us = mig_now_us() - begin_us;
	pthread_mutex_lock(&d->lock);
	d->guest_runs = true;
	d->stats.switched = true;
	pthread_mutex_unlock(&d->lock);
	ret = step(d, ON_RUNNING);
	if (ret == 0)
		ret = mig_link_send(d->session->link, PROTO_RUNNING,
				    &running.base);
	mig_fault_point(d->session, "running");
	return ret;
}

static uint64_t pending_pages(struct mig_dest *d)
{
	struct mig_fill *fill = atomic_load(&d->fill);

	return fill ? mig_fill_pending(fill) : 0;
}

/* COMPLETE is sent by whoever places the last page, or here if none is due. */
static int await_end(struct mig_dest *d)
{
	ProtobufCMessage *msg;
	int ret = 0;

	mig_fault_point(d->session, "postcopy");
	if (pending_pages(d) == 0)
		ret = send_complete(d);
	if (ret == 0)
		ret = mig_link_recv(d->session->link, PROTO_BYE, &msg);
	if (ret == 0)
		protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

/* ---- endings ---- */

static void quiet_session(struct mig_dest *d, int ret)
{
	char why[512] = "";

	if (!d->session)
		return;
	if (ret < 0 && mig_link_last_word(d->session->link, LAST_WORD_MS, why,
					  sizeof(why)))
		mig_dest_say(d, why);
	mig_session_error(d->session, why, sizeof(why));
	if (ret < 0)
		mig_dest_say(d, why[0] ? why : strerror(-ret));
	mig_session_break(d->session, ret < 0 ? ret : -ESHUTDOWN, "%s",
			  "session over");
	mig_dest_stop_receivers(d);
	pthread_mutex_lock(&d->want_lock);
	d->want_fd = -1;
	pthread_mutex_unlock(&d->want_lock);
}

/* Before the token: nothing of it may ever run here. */
static void discard_guest(struct mig_dest *d)
{
	struct mig_guest *guest;

	pthread_mutex_lock(&d->lock);
	guest = d->guest;
	d->guest = NULL;
	pthread_mutex_unlock(&d->lock);
	atomic_store(&d->fill, NULL);
	mig_guest_free(guest);
}

static void fail(struct mig_dest *d, enum mig_event ev)
{
	if (d->session)
		mig_session_say_cancel(d->session, d->error);
	discard_guest(d);
	step(d, ev);
}

static void complete(struct mig_dest *d)
{
	struct mig_fill *fill = atomic_exchange(&d->fill, NULL);

	pthread_mutex_lock(&d->lock);
	if (fill)
		mig_fill_latency(fill, &d->stats.faults);
	d->stats.total_us = mig_now_us() - d->begin_us;
	pthread_mutex_unlock(&d->lock);
	mig_fill_free(fill);
	step(d, ON_DRAINED);
}

/* ---- rejoining ---- */

static int new_session(struct mig_dest *d, int fd)
{
	struct mig_session *old = d->session, *session;
	int ret;

	ret = mig_session_new(old->id, fd, old->channels, &session);
	if (ret < 0)
		return ret;
	publish_session(d, session);
	mig_session_free(old);
	return 0;
}

/*
 * The source asks whether the guest ran. It did not, and once that has been said
 * it never will: discarded first, then told, as often as asked, until BYE.
 */
static int promise_never_ran(struct mig_dest *d, int fd)
{
	Vmmd__RejoinReply reply = VMMD__REJOIN_REPLY__INIT;
	ProtobufCMessage *msg;
	int ret;

	discard_guest(d);
	ret = new_session(d, fd);
	if (ret < 0)
		return ret;
	reply.never_ran = true;
	ret = mig_link_send(d->session->link, PROTO_REJOIN_REPLY, &reply.base);
	if (ret == 0)
		ret = mig_link_recv(d->session->link, PROTO_BYE, &msg);
	if (ret == 0)
		protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

/* What is missing here is the truth about what is still to be sent. */
static int rejoin(struct mig_dest *d, int fd)
{
	struct mig_fill *fill = atomic_load(&d->fill);
	Vmmd__RejoinReply reply = VMMD__REJOIN_REPLY__INIT;
	uint64_t *map;
	int ret;

	ret = new_session(d, fd);
	if (ret < 0)
		return ret;
	map = bitmap_new(d->ram_pages);
	if (!map)
		return -ENOMEM;
	if (fill)
		mig_fill_pending_or(fill, map);
	reply.pending_pages = bitmap_count(map, d->ram_pages);
	ret = mig_link_send(d->session->link, PROTO_REJOIN_REPLY, &reply.base);
	if (ret == 0)
		ret = mig_pending_send(d->session->link, map, d->ram_pages);
	free(map);
	if (ret == 0)
		ret = use_channels(d);
	if (ret == 0)
		ret = step(d, ON_REJOINED);
	if (ret == 0 && fill)
		mig_fill_want_again(fill);
	return ret;
}

/* The guest runs here. True when the migration has come to its end. */
static bool paused_running(struct mig_dest *d, int fd, enum proto_role role)
{
	int ret;

	if (role != PROTO_ROLE_REJOIN) {
		close(fd);
		return false;
	}
	ret = rejoin(d, fd);
	if (ret == 0)
		ret = await_end(d);
	quiet_session(d, ret);
	if (ret == 0)
		complete(d);
	else if (mig_phase(&d->phases) == MIG_POSTCOPY)
		step(d, ON_LOST);
	return ret == 0;
}

/* It waits for a token. True when it is clear that none can come any more. */
static bool paused_ready(struct mig_dest *d, int fd, enum proto_role role)
{
	int ret = 0;

	if (role == PROTO_ROLE_ABORT)
		close(fd);
	else
		ret = promise_never_ran(d, fd);
	quiet_session(d, ret);
	if (ret < 0)
		return false;
	mig_dest_say(d, "the source took the guest back");
	discard_guest(d);
	step(d, ON_NEVER_RAN);
	return true;
}

/*
 * The link was lost after READY. Returns when the migration has ended one way or
 * the other, or the dest is being freed.
 */
static void stay_paused(struct mig_dest *d)
{
	uint8_t id[PROTO_SESSION_BYTES];
	enum proto_role role;
	bool ended = false;
	int fd, ret;

	while (!ended) {
		bool whole = d->guest_runs && pending_pages(d) == 0;

		ret = mig_dest_wait_offer(d, whole ? LINGER_MS : -1, &fd, &role,
					  id);
		if (ret == -ETIMEDOUT) {
			step(d, ON_REJOINED);
			complete(d);
			return;
		}
		if (ret < 0)
			return;
		ended = d->guest_runs ? paused_running(d, fd, role)
				      : paused_ready(d, fd, role);
	}
}

/* ---- the thread ---- */

static int receive(struct mig_dest *d)
{
	uint8_t id[PROTO_SESSION_BYTES];
	enum proto_role role;
	int fd, ret;

	ret = mig_dest_wait_offer(d, -1, &fd, &role, id);
	if (ret == 0)
		ret = setup(d, fd, id);
	if (ret == 0)
		ret = switchover(d);
	if (ret == 0)
		ret = recv_token(d);
	if (ret == 0)
		ret = run_guest(d);
	return ret < 0 ? ret : await_end(d);
}

static void *dest_main(void *arg)
{
	struct mig_dest *d = arg;
	int ret;

	pthread_setname_np(pthread_self(), "receive");
	ret = receive(d);
	quiet_session(d, ret);
	if (ret == 0) {
		complete(d);
	} else if (mig_phase(&d->phases) < MIG_COMMIT) {
		fail(d, ON_LOST);
	} else if (ret == -ECANCELED && !d->guest_runs) {
		fail(d, ON_CANCEL);
	} else {
		step(d, ON_LOST);
		stay_paused(d);
	}
	return NULL;
}

/* ---- the outside ---- */

static void init_locks(struct mig_dest *d)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&d->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&d->lock, NULL);
	pthread_mutex_init(&d->want_lock, NULL);
}

static void stop_acceptor(struct mig_dest *d)
{
	uint64_t one = 1;

	(void)!write(d->wake_fd, &one, sizeof(one));
	pthread_join(d->acceptor, NULL);
}

static void free_storage(struct mig_dest *d)
{
	mig_session_free(d->session);
	if (d->offered_fd >= 0)
		close(d->offered_fd);
	close(d->wake_fd);
	free(d->received);
	free(d->suspect);
	pthread_mutex_destroy(&d->want_lock);
	pthread_mutex_destroy(&d->lock);
	pthread_cond_destroy(&d->changed);
	free(d);
}

int mig_dest_start(const struct mig_dest_config *cfg,
		   const struct mig_dest_ops *ops, void *ctx,
		   struct mig_dest **ret_dest)
{
	struct mig_dest *d;
	int ret;

	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->cfg = *cfg;
	d->ops = ops;
	d->ctx = ctx;
	d->begin_us = mig_now_us();
	d->offered_fd = -1;
	d->want_fd = -1;
	d->stats.tracker = "";
	atomic_store(&d->phases.phase, MIG_SETUP);
	init_locks(d);
	d->wake_fd = eventfd(0, EFD_CLOEXEC);
	ret = d->wake_fd < 0 ? -errno : 0;
	if (ret == 0)
		ret = -pthread_create(&d->acceptor, NULL, mig_dest_acceptor, d);
	if (ret < 0)
		goto free_d;
	ret = -pthread_create(&d->thread, NULL, dest_main, d);
	if (ret < 0)
		goto stop_acceptor;
	*ret_dest = d;
	return 0;
stop_acceptor:
	stop_acceptor(d);
free_d:
	free_storage(d);
	return ret;
}

struct mig_guest *mig_dest_guest(struct mig_dest *d)
{
	struct mig_guest *guest = NULL;

	pthread_mutex_lock(&d->lock);
	if (d->guest_runs) {
		guest = d->guest;
		d->handed_over = true;
	}
	pthread_mutex_unlock(&d->lock);
	return guest;
}

void mig_dest_status(struct mig_dest *d, struct mig_status *ret_status,
		     struct mig_stats *ret_stats)
{
	struct mig_fill *fill;

	pthread_mutex_lock(&d->lock);
	ret_status->phase = mig_phase(&d->phases);
	memcpy(ret_status->error, d->error, sizeof(d->error));
	*ret_stats = d->stats;
	ret_stats->bytes_sent = atomic_load(&d->bytes);
	ret_stats->pages_sent = atomic_load(&d->pages);
	ret_stats->pages_zero = atomic_load(&d->pages_zero);
	/* complete() takes it away before it frees it, under no lock of ours. */
	fill = d->guest ? mig_guest_fill_get(d->guest) : NULL;
	pthread_mutex_unlock(&d->lock);
	if (fill) {
		ret_stats->left_pages = mig_fill_pending(fill);
		mig_fill_latency(fill, &ret_stats->faults);
	}
	mig_guest_fill_put(fill);
}

/* Everything it may wait for is woken: the offer, the link, the barrier. */
static void end_thread(struct mig_dest *d)
{
	pthread_mutex_lock(&d->lock);
	d->ending = true;
	if (d->session)
		mig_session_break(d->session, -ESHUTDOWN, "shutting down");
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	pthread_join(d->thread, NULL);
}

void mig_dest_free(struct mig_dest *d)
{
	struct mig_guest *guest = NULL;
	struct mig_fill *fill;

	if (!d)
		return;
	stop_acceptor(d);
	end_thread(d);
	close(d->cfg.listen_fd);
	/* Its ops are ours: with us it ends, and with it the guest's memory. */
	fill = atomic_exchange(&d->fill, NULL);
	mig_fill_free(fill);
	if (!d->handed_over)
		guest = d->guest;
	mig_guest_free(guest);
	free_storage(d);
}
