#include "migrate/dest_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/complete_codec.h"
#include "migrate/faultpoint.h"
#include "migrate/pending.h"
#include "migrate/state_codec.h"
#include "vmm/urgent.h"

/*
 * A page channel may break before the source's word on why it gave up is here.
 */
#define LAST_WORD_MS 300
/* A source has this long after its hello to say what it brings. */
#define SETUP_TIMEOUT_S 3
/* A session breaks without a word to whoever waits for its channels. */
#define WAIT_SLICE_US 50000

/* ---- small things ---- */

void mig_dest_say(struct mig_dest *d, const char *why)
{
	pthread_mutex_lock(&d->lock);
	if (d->error[0] == '\0')
		snprintf(d->error, sizeof(d->error), "%s", why);
	pthread_mutex_unlock(&d->lock);
}

void mig_dest_say_errno(struct mig_dest *d, int ret)
{
	char why[128];

	snprintf(why, sizeof(why),
		 "the migration failed at its destination: %s", strerror(-ret));
	mig_dest_say(d, why);
}

int mig_dest_step(struct mig_dest *d, enum mig_event ev)
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

bool mig_dest_may_wait(const struct mig_dest *d)
{
	return !d->ending && !mig_session_broken(d->session);
}

void mig_dest_wait(struct mig_dest *d)
{
	struct timespec until = mig_deadline(CLOCK_MONOTONIC, WAIT_SLICE_US);

	pthread_cond_timedwait(&d->changed, &d->lock, &until);
}

/* ---- a session that breaks while the state is loading ---- */

/*
 * KVM touches guest memory while the state is loaded, and waits in there for
 * pages that only this session could bring. Nothing else can call it back, so
 * the fill gives up; what reads zeros then never runs (dest_switch: step_token).
 */
void mig_dest_on_broken(void *ctx)
{
	struct mig_dest *d = ctx;
	struct mig_fill *fill = NULL;

	pthread_mutex_lock(&d->doom_lock);
	if (mig_phase(&d->phases) < MIG_COMMIT) {
		d->doomed = true;
		fill = atomic_load(&d->fill);
	}
	if (fill)
		mig_fill_abandon(fill);
	pthread_mutex_unlock(&d->doom_lock);
}

void mig_dest_publish_fill(struct mig_dest *d, struct mig_fill *fill)
{
	pthread_mutex_lock(&d->doom_lock);
	atomic_store(&d->fill, fill);
	if (d->doomed)
		mig_fill_abandon(fill);
	pthread_mutex_unlock(&d->doom_lock);
}

static struct mig_fill *unpublish_fill(struct mig_dest *d)
{
	struct mig_fill *fill;

	pthread_mutex_lock(&d->doom_lock);
	fill = atomic_exchange(&d->fill, NULL);
	pthread_mutex_unlock(&d->doom_lock);
	return fill;
}

/* ---- setup ---- */

void mig_dest_publish_session(struct mig_dest *d, struct mig_session *session)
{
	pthread_mutex_lock(&d->lock);
	d->session = session;
	if (d->ending)
		mig_session_break(session, -ESHUTDOWN, "shutting down");
	pthread_mutex_unlock(&d->lock);
}

/* As many as the source would open, within reason; who does not say opens one. */
static unsigned int fault_channels(const Vmmd__Setup *setup)
{
	unsigned int most = setup->nr_cpus < setup->channels ? setup->nr_cpus
							     : setup->channels;
	unsigned int nr = setup->fault_channels;

	if (most > PROTO_CHANNELS_MAX)
		most = PROTO_CHANNELS_MAX;
	nr = nr < most ? nr : most;
	return nr ? nr : 1;
}

static void note_setup(struct mig_dest *d, const Vmmd__Setup *setup)
{
	pthread_mutex_lock(&d->lock);
	d->met_source = true;
	d->begin_us = mig_now_us();
	mig_mode_parse(setup->mode, &d->stats.mode);
	if (setup->channels <= PROTO_CHANNELS_MAX)
		d->session->channels = setup->channels;
	d->session->fault_channels = fault_channels(setup);
	d->stats.channels = d->session->channels;
	pthread_mutex_unlock(&d->lock);
}

static int judge_setup(struct mig_dest *d, const Vmmd__Setup *setup)
{
	note_setup(d, setup);
	mig_fault_point(d->session, "setup");
	return mig_dest_agree(d, setup);
}

int mig_dest_use_channels(struct mig_dest *d)
{
	int ret = mig_dest_wait_channels(d);

	if (ret < 0)
		return ret;
	mig_dest_open_askers(d);
	return mig_dest_start_receivers(d);
}

/* Somebody who says hello but not what he wants was no source. */
static void forget_session(struct mig_dest *d)
{
	struct mig_session *session;

	pthread_mutex_lock(&d->lock);
	session = d->session;
	d->session = NULL;
	pthread_mutex_unlock(&d->lock);
	mig_session_free(session);
	/* Nothing had begun that its end could have spoilt. */
	pthread_mutex_lock(&d->doom_lock);
	d->doomed = false;
	pthread_mutex_unlock(&d->doom_lock);
}

/* *ret_setup stays NULL when it was a stranger: wait for the next. */
static int meet_source(struct mig_dest *d, ProtobufCMessage **ret_setup)
{
	uint8_t id[PROTO_SESSION_BYTES];
	struct mig_session *session;
	enum proto_role role;
	int fd, ret;

	ret = mig_dest_wait_offer(d, -1, &fd, &role, id);
	if (ret < 0)
		return ret;
	ret = mig_session_new(id, fd, 0, 0, mig_dest_on_broken, d, &session);
	if (ret < 0)
		return ret;
	mig_dest_publish_session(d, session);
	ret = mig_link_recv_setup(session->link, SETUP_TIMEOUT_S, ret_setup);
	if (ret < 0) {
		*ret_setup = NULL;
		forget_session(d);
	}
	return 0;
}

static int setup(struct mig_dest *d)
{
	ProtobufCMessage *msg = NULL;
	int ret;

	do {
		ret = meet_source(d, &msg);
	} while (ret == 0 && !msg);
	if (ret < 0)
		return ret;
	ret = judge_setup(d, (Vmmd__Setup *)msg);
	protobuf_c_message_free_unpacked(msg, NULL);
	if (ret == 0)
		ret = mig_dest_use_channels(d);
	if (ret < 0)
		return ret;
	mig_fault_point(d->session, "agreed");
	SET_STAT(d, setup_us, mig_now_us() - d->begin_us);
	return mig_dest_step(d, ON_AGREED);
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
	/*
	 * A guest that ended itself just before the switch ends here. The disks
	 * are locked since before READY.
	 */
	if (!d->paused_at_source)
		ret = vm_resume(d->guest->vm);
	if (ret < 0 && ret != -ECANCELED)
		return ret;
	running.start_us = mig_now_us() - begin_us;
	pthread_mutex_lock(&d->lock);
	d->guest_runs = true;
	d->stats.switched = true;
	pthread_mutex_unlock(&d->lock);
	ret = mig_dest_step(d, ON_RUNNING);
	if (ret == 0)
		ret = mig_link_send(d->session->link, PROTO_RUNNING,
				    &running.base);
	mig_fault_point(d->session, "running");
	return ret;
}

uint64_t mig_dest_pending_pages(struct mig_dest *d)
{
	struct mig_fill *fill = atomic_load(&d->fill);

	return fill ? mig_fill_pending(fill) : 0;
}

/* Under lock. What it has cost until now; NULL: there is none, or it has ended. */
static void note_fill(struct mig_dest *d, const struct mig_fill *fill)
{
	if (!fill)
		return;
	mig_fill_faults(fill, &d->stats.faults);
	d->stats.pages_duplicate = mig_fill_duplicates(fill);
}

static int send_complete(struct mig_dest *d)
{
	Vmmd__Complete msg = VMMD__COMPLETE__INIT;
	struct mig_faults_msg parts;
	struct mig_stats stats;

	pthread_mutex_lock(&d->lock);
	note_fill(d, atomic_load(&d->fill));
	stats = d->stats;
	pthread_mutex_unlock(&d->lock);
	mig_complete_fill(&stats, &msg, &parts);
	return mig_link_send(d->session->link, PROTO_COMPLETE, &msg.base);
}

/*
 * The last page is in: nothing ties the guest to the source any more. A few
 * pages can all be in before RUNNING has been sent; then await_end() says it.
 */
static void on_drained(void *ctx)
{
	struct mig_dest *d = ctx;
	int ret = 0;
	bool told;

	mig_fault_point(d->session, "drained");
	pthread_mutex_lock(&d->lock);
	told = d->running_told;
	pthread_mutex_unlock(&d->lock);
	if (told)
		ret = send_complete(d);
	/* Else both sides wait for ever, on a link that may be in order. */
	if (ret < 0)
		mig_session_break(d->session, ret,
				  "cannot say that all pages are here: %s",
				  strerror(-ret));
}

const struct mig_fill_ops mig_dest_fill_ops = {
	.want = mig_dest_want,
	.drained = on_drained,
};

int mig_dest_await_end(struct mig_dest *d)
{
	ProtobufCMessage *msg;
	int ret = 0;

	mig_fault_point(d->session, "postcopy");
	/* Pending reaches 0 before on_drained() looks: one of us two says it. */
	pthread_mutex_lock(&d->lock);
	d->running_told = true;
	pthread_mutex_unlock(&d->lock);
	if (mig_dest_pending_pages(d) == 0)
		ret = send_complete(d);
	if (ret == 0)
		ret = mig_link_recv(d->session->link, PROTO_BYE, &msg);
	if (ret == 0)
		protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

/* ---- endings ---- */

bool mig_dest_quiet(struct mig_dest *d, int ret)
{
	char why[512] = "the source gave up: ";
	size_t used = strlen(why);
	bool cancelled = false;

	if (!d->session)
		return false;
	if (ret < 0)
		cancelled = mig_link_last_word(d->session->link, LAST_WORD_MS,
					       why + used, sizeof(why) - used);
	if (cancelled)
		mig_dest_say(d, why);
	mig_session_error(d->session, why, sizeof(why));
	if (ret < 0 && why[0])
		mig_dest_say(d, why);
	else if (ret < 0)
		mig_dest_say_errno(d, ret);
	mig_session_break(d->session, ret < 0 ? ret : -ESHUTDOWN, "%s",
			  "session over");
	mig_dest_stop_receivers(d);
	mig_dest_close_askers(d);
	return cancelled;
}

/* Before the token: nothing of it may ever run here. */
void mig_dest_discard(struct mig_dest *d)
{
	struct mig_guest *guest;

	pthread_mutex_lock(&d->lock);
	guest = d->guest;
	d->guest = NULL;
	pthread_mutex_unlock(&d->lock);
	unpublish_fill(d);
	mig_guest_free(guest);
}

static void fail(struct mig_dest *d, enum mig_event ev)
{
	if (d->session)
		mig_session_say_cancel(d->session, d->error);
	mig_dest_discard(d);
	mig_dest_step(d, ev);
}

void mig_dest_complete(struct mig_dest *d)
{
	struct mig_fill *fill = unpublish_fill(d);

	pthread_mutex_lock(&d->lock);
	note_fill(d, fill);
	d->stats.total_us = mig_now_us() - d->begin_us;
	pthread_mutex_unlock(&d->lock);
	mig_fill_free(fill);
	for (unsigned int i = 0; i < PROTO_CHANNELS_MAX; i++)
		mig_block_trim(&d->blocks[i]);
	mig_dest_step(d, ON_DRAINED);
}

/* ---- the thread ---- */

static int receive(struct mig_dest *d)
{
	int ret;

	ret = setup(d);
	if (ret == 0)
		ret = mig_dest_add_ram(d);
	if (ret == 0)
		ret = mig_dest_switchover(d);
	if (ret == 0)
		ret = recv_token(d);
	if (ret == 0)
		ret = run_guest(d);
	return ret < 0 ? ret : mig_dest_await_end(d);
}

static void *dest_main(void *arg)
{
	struct mig_dest *d = arg;
	bool cancelled;
	int ret;

	pthread_setname_np(pthread_self(), "receive");
	vm_thread_urgent(pthread_self(), true);
	ret = receive(d);
	cancelled = mig_dest_quiet(d, ret);
	if (ret == 0) {
		mig_dest_complete(d);
	} else if (mig_phase(&d->phases) < MIG_COMMIT) {
		fail(d, ON_LOST);
	} else if (cancelled && !d->guest_runs) {
		/* The source said so itself: no token is on its way. */
		fail(d, ON_CANCEL);
	} else {
		mig_dest_step(d, ON_LOST);
		mig_dest_stay_paused(d);
	}
	return NULL;
}

/* ---- the outside ---- */

static void init_locks(struct mig_dest *d)
{
	pthread_mutexattr_t lends;

	mig_cond_init(&d->changed);
	pthread_mutexattr_init(&lends);
	pthread_mutexattr_setprotocol(&lends, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&d->urgent_lock, &lends);
	pthread_mutexattr_destroy(&lends);
	pthread_mutex_init(&d->lock, NULL);
	mig_dest_init_askers(d);
	for (unsigned int i = 0; i < PROTO_CHANNELS_MAX; i++)
		mig_block_init(&d->blocks[i]);
	pthread_mutex_init(&d->doom_lock, NULL);
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
	bitmap_free(d->received, d->ram_pages);
	bitmap_free(d->suspect, d->ram_pages);
	pthread_mutex_destroy(&d->urgent_lock);
	mig_dest_fini_askers(d);
	for (unsigned int i = 0; i < PROTO_CHANNELS_MAX; i++)
		mig_block_fini(&d->blocks[i]);
	pthread_mutex_destroy(&d->doom_lock);
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
		mig_fill_faults(fill, &ret_stats->faults);
		ret_stats->pages_duplicate = mig_fill_duplicates(fill);
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
	fill = unpublish_fill(d);
	mig_fill_free(fill);
	if (!d->handed_over)
		guest = d->guest;
	mig_guest_free(guest);
	free_storage(d);
}
