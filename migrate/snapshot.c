#include "migrate/snapshot.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/image.h"
#include "migrate/say.h"
#include "migrate/snapshot_disks.h"
#include "migrate/snapshot_sweep.h"

struct mig_snapshot {
	/* Constant. */
	struct mig_guest *guest; /* borrowed */
	char *dir;               /* owned */
	bool stop;
	bool disks;
	const struct mig_snapshot_ops *ops;
	void *ctx;
	pthread_t thread;
	uint64_t started_us;
	atomic_bool cancel;
	/* The snapshot's thread. */
	struct mig_image_writer *image;
	bool hold;     /* we have stopped the guest and must let it run again */
	bool mem_held; /* pages that are still to be saved stay where they are */
	uint64_t paused_us;
	uint8_t *state; /* owned: packed */
	size_t state_bytes;
	struct mig_machine machine;
	/* Under lock. */
	pthread_mutex_t lock;
	struct mig_status status;
	struct mig_snapshot_stats stats;
	struct snap_sweep *sweep; /* while pages are saved */
};

static bool keep_going(void *ctx)
{
	struct mig_snapshot *s = ctx;

	return !atomic_load(&s->cancel);
}

/* The only writer of the phase: the snapshot's thread. */
static void enter(struct mig_snapshot *s, enum mig_phase phase)
{
	pthread_mutex_lock(&s->lock);
	s->status.phase = phase;
	pthread_mutex_unlock(&s->lock);
	s->ops->changed(s->ctx);
}

/* Under lock. */
static void refresh_stats(struct mig_snapshot *s)
{
	struct snap_sweep_stats now;

	if (!s->sweep)
		return;
	snap_sweep_stats(s->sweep, &now);
	s->stats.total_pages = now.total_pages;
	s->stats.left_pages = now.left_pages;
	s->stats.pages = now.data_pages;
	s->stats.bytes_written = now.bytes_written;
	s->stats.wp_faults = now.faults;
}

static void set_sweep(struct mig_snapshot *s, struct snap_sweep *sweep)
{
	pthread_mutex_lock(&s->lock);
	refresh_stats(s);
	s->sweep = sweep;
	pthread_mutex_unlock(&s->lock);
}

/* A guest that has ended by itself meanwhile stays stopped: -ECANCELED. */
static int let_go(struct mig_snapshot *s, char **err)
{
	int ret;

	if (!s->hold)
		return 0;
	s->hold = false;
	ret = vm_resume(s->guest->vm);
	pthread_mutex_lock(&s->lock);
	s->stats.pause_us = mig_now_us() - s->paused_us;
	pthread_mutex_unlock(&s->lock);
	if (ret < 0 && ret != -ECANCELED)
		return mig_say(err, ret, "the guest cannot go on: %s",
			       strerror(-ret));
	return 0;
}

static int hold_guest(struct mig_snapshot *s, char **err)
{
	int ret;

	enter(s, MIG_SWITCHOVER);
	s->hold = vm_is_running(s->guest->vm);
	s->paused_us = mig_now_us();
	ret = vm_pause(s->guest->vm);
	if (ret < 0)
		return mig_say(err, ret, "the guest cannot be stopped: %s",
			       strerror(-ret));
	vm_mem_hold(vm_mem(s->guest->vm));
	s->mem_held = true;
	return 0;
}

static int save_disks(struct mig_snapshot *s, char **err)
{
	struct snap_disks_stats stats = { 0 };
	uint64_t begin_us = mig_now_us();
	int ret;

	if (!s->disks)
		return 0;
	ret = snap_disks_copy(s->guest->vm, s->image, keep_going, s, &stats,
			      err);
	pthread_mutex_lock(&s->lock);
	s->stats.disks = stats.disks;
	s->stats.disks_cloned = stats.cloned;
	s->stats.disk_bytes = stats.bytes;
	s->stats.disks_us = mig_now_us() - begin_us;
	pthread_mutex_unlock(&s->lock);
	return ret;
}

/*
 * The instant of the snapshot. State before memory: saving it may make KVM
 * write what it keeps in guest memory.
 */
static int freeze(struct mig_snapshot *s, struct snap_sweep *sweep,
		  struct vm_state *ret_state, char **err)
{
	int ret = hold_guest(s, err);

	if (ret < 0)
		return ret;
	ret = vm_state_save(s->guest->vm, ret_state, err);
	if (ret < 0)
		return mig_say(err, ret, "state: %s", strerror(-ret));
	ret = save_disks(s, err);
	if (ret == 0)
		ret = snap_sweep_plan(sweep, err);
	if (ret == 0 && !s->stop)
		ret = let_go(s, err);
	if (ret < 0)
		vm_state_fini(ret_state);
	return ret;
}

static int save_memory(struct mig_snapshot *s, struct snap_sweep *sweep,
		       char **err)
{
	struct vm_state state;
	int ret;

	ret = freeze(s, sweep, &state, err);
	if (ret < 0)
		return ret;
	ret = mig_state_pack(&state, &s->state, &s->state_bytes);
	vm_state_fini(&state);
	if (ret < 0)
		return mig_say(err, ret, "state: %s", strerror(-ret));
	enter(s, MIG_PRECOPY);
	return snap_sweep_run(sweep, err);
}

static int save(struct mig_snapshot *s, char **err)
{
	struct snap_sweep *sweep;
	char *stuck = NULL;
	int ret;

	ret = mig_machine_of(s->guest->vm, &s->machine);
	if (ret == 0)
		ret = snap_sweep_new(s->guest, s->image, !s->stop, keep_going,
				     s, &sweep, err);
	if (ret < 0)
		return ret;
	set_sweep(s, sweep);
	ret = save_memory(s, sweep, err);
	set_sweep(s, NULL);
	/* Unprotected first, so that it does not run into what nobody serves. */
	snap_sweep_free(sweep);
	if (s->mem_held)
		vm_mem_release(vm_mem(s->guest->vm));
	if (let_go(s, &stuck) < 0 && ret == 0) {
		*err = stuck;
		return -EIO;
	}
	free(stuck);
	return ret;
}

static int run(struct mig_snapshot *s, char **err)
{
	uint64_t ram_bytes = vm_mem_bytes(vm_mem(s->guest->vm));
	uint64_t bytes = 0;
	int ret;

	ret = mig_image_create(s->dir, ram_bytes, &s->image, err);
	if (ret == 0)
		ret = save(s, err);
	if (ret == 0 && !keep_going(s))
		ret = mig_say(err, -ECANCELED, "cancelled");
	if (ret == 0)
		ret = mig_image_commit(s->image, &s->machine, s->state,
				       s->state_bytes, &bytes, err);
	pthread_mutex_lock(&s->lock);
	s->stats.bytes_written += bytes;
	pthread_mutex_unlock(&s->lock);
	/* Nothing may be left when the end is told. */
	mig_image_writer_free(s->image);
	s->image = NULL;
	return ret;
}

/* One line, with the directory in it once. */
static void set_error(struct mig_snapshot *s, int ret, const char *line)
{
	char *out = s->status.error;

	if (!line)
		line = strerror(-ret);
	if (strncmp(line, "snapshot ", 9) == 0)
		snprintf(out, MIG_ERROR_BYTES, "%s", line);
	else
		snprintf(out, MIG_ERROR_BYTES, "snapshot %s: %s", s->dir, line);
}

static void *snapshot_thread(void *arg)
{
	struct mig_snapshot *s = arg;
	enum mig_phase end = MIG_COMPLETE;
	char *err = NULL;
	int ret;

	mig_collapse_hold(&s->guest->collapse);
	ret = run(s, &err);
	mig_collapse_release(&s->guest->collapse);
	pthread_mutex_lock(&s->lock);
	s->stats.total_us = mig_now_us() - s->started_us;
	if (ret < 0) {
		end = ret == -ECANCELED ? MIG_CANCELLED : MIG_FAILED;
		set_error(s, ret, err);
	}
	pthread_mutex_unlock(&s->lock);
	free(err);
	enter(s, end);
	return NULL;
}

static void free_storage(struct mig_snapshot *s)
{
	mig_machine_fini(&s->machine);
	pthread_mutex_destroy(&s->lock);
	free(s->state);
	free(s->dir);
	free(s);
}

int mig_snapshot_start(struct mig_guest *g,
		       const struct mig_snapshot_config *cfg,
		       const struct mig_snapshot_ops *ops, void *ctx,
		       struct mig_snapshot **ret_snapshot, char **err)
{
	struct mig_snapshot *s = calloc(1, sizeof(*s));
	int ret = -ENOMEM;

	if (!s)
		return mig_say(err, ret, "out of memory");
	pthread_mutex_init(&s->lock, NULL);
	s->guest = g;
	s->stop = cfg->stop;
	s->disks = cfg->disks;
	s->ops = ops;
	s->ctx = ctx;
	s->started_us = mig_now_us();
	s->status.phase = MIG_SETUP;
	s->dir = strdup(cfg->dir);
	if (s->dir)
		ret = -pthread_create(&s->thread, NULL, snapshot_thread, s);
	if (ret < 0) {
		free_storage(s);
		return mig_say(err, ret, "snapshot: %s", strerror(-ret));
	}
	pthread_setname_np(s->thread, "snapshot");
	*ret_snapshot = s;
	return 0;
}

void mig_snapshot_cancel(struct mig_snapshot *s)
{
	atomic_store(&s->cancel, true);
}

void mig_snapshot_status(struct mig_snapshot *s, struct mig_status *ret_status,
			 struct mig_snapshot_stats *ret_stats)
{
	pthread_mutex_lock(&s->lock);
	refresh_stats(s);
	*ret_status = s->status;
	*ret_stats = s->stats;
	if (!mig_phase_is_end(s->status.phase))
		ret_stats->total_us = mig_now_us() - s->started_us;
	pthread_mutex_unlock(&s->lock);
}

void mig_snapshot_free(struct mig_snapshot *s)
{
	if (!s)
		return;
	mig_snapshot_cancel(s);
	pthread_join(s->thread, NULL);
	free_storage(s);
}
