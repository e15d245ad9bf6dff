#include "cli/daemon_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/log.h"
#include "migrate/guest.h"

/* The job's thread. */
static int job_pause(void *ctx)
{
	struct daemon *d = ctx;

	return vm_pause(d->guest->vm);
}

static int job_resume(void *ctx)
{
	struct daemon *d = ctx;

	return vm_resume(d->guest->vm);
}

static int job_reboot(void *ctx)
{
	struct daemon *d = ctx;
	int ret;

	ret = vm_pause(d->guest->vm);
	if (ret == 0)
		ret = vm_reboot(d->guest->vm, &d->boot, &d->job_error);
	if (ret == 0)
		ret = vm_resume(d->guest->vm);
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
		error = strerror(-ret);
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
	int ret = worker_start(d->jobs, job, done, d);

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

/* Tells everybody who waited for the operation; report is borrowed. */
static void tell_outcome(struct daemon *d, const struct mig_status *status,
			 json_t *report)
{
	bool back = status->phase == MIG_CANCELLED ||
		    status->phase == MIG_FAILED;
	const char *error = NULL;

	if (status->phase != MIG_COMPLETE)
		error = status->error[0] ? status->error
					 : mig_phase_name(status->phase);
	control_done_all(d->control, WAIT_OPERATION,
			 exit_status_of(status->phase), error,
			 json_incref(report));
	control_done_all(
		d->control, WAIT_CANCELLED, back ? CLI_DONE : CLI_FAILED,
		back ? NULL : "too late to cancel", json_incref(report));
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

	/* Its thread may still be putting the guest back to work. */
	op_free(d->op);
	d->op = NULL;
	if (moved)
		daemon_end(d, CLI_DONE, "the guest moved to %s", d->op_target);
	else if (d->state == DAEMON_STOPPING)
		daemon_end(d, CLI_DONE, "stopped");
	else
		daemon_enter_idle(d);
	if (status->phase == MIG_FAILED)
		cli_log("%s", status->error);
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
	int ret = op_snapshot(&owner, d->guest, cfg, &d->op, err);

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
