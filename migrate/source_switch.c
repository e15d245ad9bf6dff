#include "migrate/source_internal.h"

#include <errno.h>
#include <stdlib.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"
#include "migrate/state_codec.h"
#include "proto/control.pb-c.h"
#include "vmm/urgent.h"

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
 * postcopy the responders serve from here on: loading the state over there may
 * already touch a page that is still ours.
 */
static int send_rest(struct mig_source *s, uint64_t pages, bool postcopy)
{
	int ret;

	if (postcopy) {
		atomic_store(&s->left_pages, pages);
		MIG_SOURCE_STAT(s, total_pages, pages);
		MIG_SOURCE_STAT(s, postcopied, true);
		ret = mig_source_send_pending(s);
		if (ret == 0)
			ret = mig_source_start_responders(s);
	} else {
		ret = mig_source_round(s, pages);
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
	return mig_source_step(s, ON_RUNNING);
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
	uint64_t us;
	int ret;

	ret = vm_pause(s->vm);
	if (ret < 0)
		return ret;
	us = lap_us(mark_us);
	MIG_SOURCE_STAT(s, downtime.stop_us, us);
	mig_converge_cost(&s->converge, MIG_COST_STOP, us);
	ret = mig_source_step(s, ON_STOPPED);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "stopped");
	ret = save_state(s);
	us = lap_us(mark_us);
	MIG_SOURCE_STAT(s, downtime.state_us, us);
	mig_converge_cost(&s->converge, MIG_COST_STATE, us);
	return ret;
}

/* todo becomes all that the receiver does not have. */
static int last_sync(struct mig_source *s, uint64_t *ret_pages)
{
	int ret = mig_source_sync(s);

	if (ret == 0)
		*ret_pages = mig_source_next_todo(s);
	return ret;
}

/* Under lock: the guest has stood still since stopped_us. Returns for how long. */
static uint64_t note_pause(struct mig_source *s)
{
	uint64_t us = mig_now_us() - s->stopped_us;

	s->stats.pauses.count++;
	s->stats.pauses.sum_us += us;
	if (us > s->stats.pauses.max_us)
		s->stats.pauses.max_us = us;
	return us;
}

void mig_source_note_running(struct mig_source *s)
{
	pthread_mutex_lock(&s->lock);
	if (!s->stats.switched)
		s->stats.downtime_us = note_pause(s);
	s->stats.switched = true;
	pthread_mutex_unlock(&s->lock);
}

bool mig_source_was_told_running(struct mig_source *s)
{
	bool told;

	pthread_mutex_lock(&s->lock);
	told = s->stats.switched;
	pthread_mutex_unlock(&s->lock);
	return told;
}

static void record_commit(struct mig_source *s, uint64_t commit_us,
			  uint64_t start_us)
{
	pthread_mutex_lock(&s->lock);
	s->stats.downtime.start_us = start_us;
	s->stats.downtime.commit_us = commit_us > start_us
					      ? commit_us - start_us
					      : 0;
	pthread_mutex_unlock(&s->lock);
}

/* What was dirtied between the last round and the stop breaks the promise. */
static bool too_much(struct mig_source *s, uint64_t pages)
{
	return mig_converge_too_much(&s->converge, pages,
				     mig_now_us() - s->stopped_us);
}

/* On the link, because the data channels may hold bulk that is still to be read. */
static int say_urgent(struct mig_source *s, bool on)
{
	Vmmd__Urgent msg = VMMD__URGENT__INIT;

	msg.on = on;
	return mig_link_send(s->session->link, PROTO_URGENT, &msg.base);
}

/* The guest runs on. */
static int revive(struct mig_source *s)
{
	int ret = mig_source_step(s, ON_REVIVED);

	if (ret == 0 && s->was_running)
		ret = vm_resume(s->vm);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->lock);
	note_pause(s);
	pthread_mutex_unlock(&s->lock);
	return say_urgent(s, false);
}

/*
 * The receiver locks the disks before it says READY, so they are given up before
 * it can: the devices have been at rest since the stop. From here on this side
 * has to lock them again before it may run (source_back.c).
 */
static void give_disks(struct mig_source *s)
{
	s->gave_disks = true;
	vm_disks_unlock(s->vm);
	mig_fault_point(s->session, "unlocked");
}

/* Everything that was stopped and synced goes over; then the token. */
static int hand_over(struct mig_source *s, uint64_t pages, bool postcopy,
		     uint64_t *mark_us)
{
	uint64_t save_us = s->stats.downtime.state_us, start_us;
	int ret;

	ret = send_rest(s, pages, postcopy);
	if (ret < 0)
		return ret;
	MIG_SOURCE_STAT(s, downtime.pages_us, lap_us(mark_us));
	give_disks(s);
	ret = send_state(s, postcopy ? pages : 0);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "state-sent");
	ret = await_ready(s);
	if (ret < 0)
		return ret;
	mig_fault_point(s->session, "ready");
	MIG_SOURCE_STAT(s, downtime.state_us, save_us + lap_us(mark_us));
	ret = commit(s, &start_us);
	if (ret < 0)
		return ret;
	mig_source_note_running(s);
	record_commit(s, lap_us(mark_us), start_us);
	return 0;
}

static int switch_over(struct mig_source *s, bool postcopy, bool *ret_done)
{
	uint64_t mark_us = mig_now_us();
	uint64_t pages = 0;
	int ret;

	s->stopped_us = mark_us;
	ret = stop_guest(s, &mark_us);
	if (ret == 0)
		ret = last_sync(s, &pages);
	if (ret < 0)
		return ret;
	MIG_SOURCE_STAT(s, downtime.sync_us, lap_us(&mark_us));
	*ret_done = true;
	if (!postcopy && too_much(s, pages)) {
		if (s->cfg.mode == MIG_MODE_PRECOPY) {
			*ret_done = false;
			return revive(s);
		}
		postcopy = true;
	}
	return hand_over(s, pages, postcopy, &mark_us);
}

int mig_source_switchover(struct mig_source *s, bool postcopy, bool *ret_done)
{
	int ret;

	/* The pause shall not be spent on pages that were sent before it. */
	ret = mig_source_await_mark(s);
	if (ret == 0)
		ret = say_urgent(s, true);
	if (ret < 0)
		return ret;
	vm_thread_urgent(pthread_self(), true);
	mig_crew_urgent(s->crew, true);
	ret = switch_over(s, postcopy, ret_done);
	mig_crew_urgent(s->crew, false);
	vm_thread_urgent(pthread_self(), false);
	/* What would have been its downtime is another round. */
	if (ret == 0 && !*ret_done)
		ret = mig_source_round(s, bitmap_count(s->todo, s->ram_pages));
	return ret;
}
