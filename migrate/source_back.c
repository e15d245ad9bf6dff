/* migrate/source_back.c: the guest that was to leave goes on here. */
#include "migrate/source_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool may_wait(void *ctx)
{
	struct mig_source *s = ctx;
	bool ending;

	pthread_mutex_lock(&s->lock);
	ending = s->ending;
	pthread_mutex_unlock(&s->lock);
	return !ending;
}

static void say_stuck(struct mig_source *s, int ret, const char *why)
{
	mig_source_add(s,
		       "; the guest stays paused here: %s (vmmd resume tries "
		       "again)",
		       why ? why : strerror(-ret));
}

/* The locks, when they were given up; at once or with patience. */
static int take_disks(struct mig_source *s, bool patient, char **err)
{
	int ret = 0;

	if (!s->gave_disks)
		return 0;
	if (patient)
		ret = mig_guest_lock_again(s->guest, may_wait, s, err);
	else
		ret = vm_disks_lock(s->vm, err);
	if (ret == 0)
		s->gave_disks = false;
	return ret;
}

/* With the disks locked. A guest that has ended itself stays stopped. */
static void run_guest(struct mig_source *s)
{
	char *err = NULL;
	int ret = 0;

	if (s->was_running)
		ret = mig_guest_resume(s->guest, &err);
	if (ret < 0 && ret != -ECANCELED)
		say_stuck(s, ret, err);
	free(err);
}

void mig_source_run_again(struct mig_source *s)
{
	char *err = NULL;
	int ret = take_disks(s, true, &err);

	if (ret == 0)
		run_guest(s);
	else
		say_stuck(s, ret, err);
	free(err);
}

/*
 * Over the link, and since it may wait for a token, over a connection of its own
 * when the link is gone.
 */
static void tell_peer(struct mig_source *s, bool stopped)
{
	if (!s->session)
		return;
	mig_session_say_cancel(s->session, s->error);
	if (stopped)
		mig_source_abort_peer(s);
}

/*
 * The guest first: telling the peer may take as long as the peer likes. Only a
 * peer that has the disks already is told before, for it must let go of them.
 */
void mig_source_take_back(struct mig_source *s, bool stopped)
{
	char *err = NULL;
	bool ours = take_disks(s, false, &err) == 0;

	free(err);
	if (ours)
		run_guest(s);
	mig_tracker_stop(s->tracker);
	tell_peer(s, stopped);
	if (!ours)
		mig_source_run_again(s);
}
