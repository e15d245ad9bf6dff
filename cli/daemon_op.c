#include "cli/daemon_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/log.h"
#include "migrate/guest.h"

/*
 * The job's thread. Jobs may block: a vCPU that waits for a page parks when the
 * page is there, and a device comes to rest when its last request is done.
 */
static int job_pause(void *ctx)
{
	struct daemon *d = ctx;

	return vm_pause(d->guest->vm);
}

static int job_resume(void *ctx)
{
	struct daemon *d = ctx;

	return mig_guest_resume(d->guest, &d->job_error);
}

/*
 * It discards all memory, so nobody else may be looking at it: only RUNNING and
 * PAUSED lead here (daemon_settle), where no operation has the guest and no page
 * is still to come.
 */
static int job_reboot(void *ctx)
{
	struct daemon *d = ctx;
	int ret;

	ret = vm_pause(d->guest->vm);
	if (ret == 0)
		ret = daemon_open_boot_files(d, vm_boot_files(d->guest->vm),
					     &d->job_error);
	mig_collapse_hold(&d->guest->collapse);
	if (ret == 0)
		ret = vm_reboot(d->guest->vm, &d->boot, &d->job_error);
	mig_collapse_release(&d->guest->collapse);
	if (ret == 0)
		ret = mig_guest_resume(d->guest, &d->job_error);
	return ret;
}

/* The job has let go of the guest; false: so has the daemon. */
static bool job_is_over(struct daemon *d)
{
	if (d->state == DAEMON_STOPPING)
		daemon_end(d, CLI_DONE, "stopped");
	else
		daemon_enter_idle(d);
	return d->state != DAEMON_ENDED;
}

static void on_asked_job_done(void *ctx, int ret)
{
	struct daemon *d = ctx;
	const char *error = NULL;

	if (ret == -ECANCELED)
		error = "the guest has powered off or reset itself";
	else if (ret < 0)
		error = d->job_error ? d->job_error : strerror(-ret);
	if (!job_is_over(d))
		return;
	control_done_all(d->control, WAIT_JOB, ret < 0 ? CLI_FAILED : CLI_DONE,
			 error,
			 json_pack("{s:s}", "result", daemon_state_name(d)));
	daemon_settle(d);
}

static void on_reboot_done(void *ctx, int ret)
{
	struct daemon *d = ctx;

	if (!job_is_over(d))
		return;
	if (ret < 0)
		daemon_end(d, CLI_FAILED, "the guest could not be reset: %s",
			   d->job_error ? d->job_error : strerror(-ret));
	else
		cli_log("the guest was reset");
	daemon_settle(d);
}

static int start_job(struct daemon *d, worker_job *job, worker_done *done,
		     char **err)
{
	int ret;

	free(d->job_error);
	d->job_error = NULL;
	ret = worker_start(d->jobs, job, done, d);
	if (ret < 0)
		*err = cli_line("cannot start a thread: %s", strerror(-ret));
	else
		daemon_enter(d, DAEMON_WORKING);
	return ret;
}

int daemon_pause(struct daemon *d, char **err)
{
	return start_job(d, job_pause, on_asked_job_done, err);
}

int daemon_resume(struct daemon *d, char **err)
{
	return start_job(d, job_resume, on_asked_job_done, err);
}

int daemon_reboot(struct daemon *d, char **err)
{
	return start_job(d, job_reboot, on_reboot_done, err);
}

static int exit_status_of(enum mig_phase phase)
{
	if (phase == MIG_COMPLETE)
		return CLI_DONE;
	return phase == MIG_PAUSED ? CLI_ATTENTION : CLI_FAILED;
}

/*
 * It ran when a migration began that has failed, and does not now: somebody has
 * to look why (its disks) and resume it.
 */
static bool is_held(const struct daemon *d)
{
	return d->guest && d->op_found_running &&
	       !vm_is_running(d->guest->vm) &&
	       vm_event_peek(d->guest->vm) == VM_EVENT_NONE;
}

/* Tells everybody who waited for the operation; report is borrowed. */
static void tell_outcome(struct daemon *d, const struct mig_status *status,
			 json_t *report)
{
	bool back = status->phase == MIG_CANCELLED ||
		    status->phase == MIG_FAILED;
	bool held = back && is_held(d);
	const char *error = NULL;

	if (status->phase != MIG_COMPLETE)
		error = status->error[0] ? status->error
					 : mig_phase_name(status->phase);

	control_done_all(d->control, WAIT_OPERATION,
			 held ? CLI_ATTENTION : exit_status_of(status->phase),
			 error, json_incref(report));
	control_done_all(d->control, WAIT_CANCELLED,
			 held   ? CLI_ATTENTION
			 : back ? CLI_DONE
				: CLI_FAILED,
			 held   ? error
			 : back ? NULL
				: "too late to cancel",
			 json_incref(report));
}

static void on_paused(struct daemon *d, const struct mig_status *status)
{
	json_t *report = op_report(d->op);

	daemon_enter(d, DAEMON_MIGRATION_PAUSED);
	cli_log("migration paused: %s", status->error);
	tell_outcome(d, status, report);
	control_done_all(d->control, WAIT_STOPPED, CLI_ATTENTION,
			 "not stopped: the migration is paused after the guest "
			 "was handed over",
			 NULL);
	json_decref(report);
}

static void on_op_end(struct daemon *d, const struct mig_status *status)
{
	bool moved = op_kind(d->op) == OP_MIGRATE &&
		     status->phase == MIG_COMPLETE;
	json_t *report = op_report(d->op);

	/* Who waited need not wait until this side is tidied up as well... */
	if (moved)
		tell_outcome(d, status, report);
	/* ...unless its thread may still be putting the guest back to work. */
	op_free(d->op);
	d->op = NULL;
	d->moved = moved;
	if (moved)
		daemon_end(d, CLI_DONE, "the guest moved to %s", d->op_target);
	else if (d->state == DAEMON_STOPPING)
		daemon_end(d, CLI_DONE, "stopped");
	else
		daemon_enter_idle(d);
	if (status->phase == MIG_FAILED)
		cli_log("%s", status->error);
	if (!moved)
		tell_outcome(d, status, report);
	json_decref(report);
	daemon_settle(d);
}

static void on_op_changed(void *ctx)
{
	struct daemon *d = ctx;
	struct mig_status status;

	if (!d->op || d->state == DAEMON_ENDED)
		return;
	op_status(d->op, &status);
	if (mig_phase_is_end(status.phase))
		on_op_end(d, &status);
	else if (status.phase == MIG_PAUSED &&
		 d->state != DAEMON_MIGRATION_PAUSED)
		on_paused(d, &status);
}

static void remember_target(struct daemon *d, const char *target)
{
	free(d->op_target);
	d->op_target = strdup(target);
}

int daemon_migrate(struct daemon *d, const struct mig_source_config *cfg,
		   char **err)
{
	struct op_owner owner = { d->loop, on_op_changed, d };
	int ret;

	if (d->arrival) {
		*err = cli_line(
			"its memory is still arriving (%llu pages are "
			"missing); try again when it is all here",
			(unsigned long long)mig_guest_missing_pages(d->guest));
		return -EBUSY;
	}
	d->op_found_running = vm_is_running(d->guest->vm);
	ret = op_migrate(&owner, d->guest, cfg, &d->op, err);
	if (ret < 0)
		return ret;
	remember_target(d, cfg->uri);
	daemon_enter(d, DAEMON_MIGRATING);
	return 0;
}

int daemon_rejoin(struct daemon *d, const char *uri, char **err)
{
	int ret = op_rejoin(d->op, uri, err);

	if (ret < 0) {
		if (!*err)
			*err = cli_line("cannot go on: %s", strerror(-ret));
		return ret;
	}
	remember_target(d, uri);
	daemon_enter(d, DAEMON_MIGRATING);
	return 0;
}

int daemon_snapshot(struct daemon *d, const struct mig_snapshot_config *cfg,
		    char **err)
{
	struct op_owner owner = { d->loop, on_op_changed, d };
	int ret;

	d->op_found_running = vm_is_running(d->guest->vm);
	ret = op_snapshot(&owner, d->guest, cfg, &d->op, err);

	if (ret < 0)
		return ret;
	remember_target(d, cfg->dir);
	daemon_enter(d, DAEMON_SAVING);
	return 0;
}

int daemon_cancel(struct daemon *d, char **err)
{
	int ret = op_cancel(d->op);

	if (ret < 0)
		*err = cli_line("too late to cancel: the guest has been handed "
				"over");
	return ret;
}

int daemon_balloon(struct daemon *d, uint64_t bytes, char **err)
{
	int ret;

	if (bytes > vm_mem_bytes(vm_mem(d->guest->vm))) {
		*err = cli_line(
			"the guest has only %llu bytes",
			(unsigned long long)vm_mem_bytes(vm_mem(d->guest->vm)));
		return -EINVAL;
	}
	ret = vm_balloon_set(d->guest->vm, bytes);
	if (ret == -ENODEV)
		*err = cli_line("the guest has no balloon (vmmd run --balloon "
				"adds one)");
	else if (ret < 0)
		*err = cli_line("balloon: %s", strerror(-ret));
	return ret;
}
