#include "cli/daemon_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/detach.h"
#include "cli/log.h"
#include "migrate/clock.h"

#define PROGRESS_S      0.2
#define SECOND_SIGNAL_S 5.0

void daemon_enter(struct daemon *d, enum daemon_state state)
{
	/* Nothing leads back from the end, whatever still comes in. */
	if (d->state == DAEMON_ENDED)
		return;
	d->state = state;
	/* An idle daemon does not wake up. */
	if (state == DAEMON_SAVING || state == DAEMON_MIGRATING)
		ev_timer_again(d->loop, &d->progress);
	else
		ev_timer_stop(d->loop, &d->progress);
}

void daemon_enter_idle(struct daemon *d)
{
	daemon_enter(d, vm_is_running(d->guest->vm) ? DAEMON_RUNNING
						    : DAEMON_PAUSED);
}

static enum daemon_stuck arrival_stuck(const struct daemon *d)
{
	struct mig_status status;

	if (!d->arrival)
		return NOT_STUCK;
	op_status(d->arrival, &status);
	if (status.phase != MIG_PAUSED)
		return NOT_STUCK;
	return op_kind(d->arrival) == OP_RECEIVE ? STUCK_MIGRATION
						 : STUCK_DAMAGE;
}

const char *daemon_state_name(const struct daemon *d)
{
	return daemon_state_text(d->state, arrival_stuck(d));
}

bool daemon_accepts(const struct daemon *d, enum daemon_verb verb)
{
	return daemon_state_accepts(d->state, arrival_stuck(d), verb);
}

void daemon_end(struct daemon *d, int exit_status, const char *format, ...)
{
	va_list args;

	if (d->state == DAEMON_ENDED)
		return;
	daemon_enter(d, DAEMON_ENDED);
	d->exit_status = exit_status;
	va_start(args, format);
	if (vasprintf(&d->end_reason, format, args) < 0)
		d->end_reason = NULL;
	va_end(args);
	ev_break(d->loop, EVBREAK_ALL);
}

void daemon_announce(struct daemon *d, json_t *result, const char *text)
{
	if (!d->announced) {
		d->announced = true;
		if (d->ready_fd >= 0)
			detach_report(d->ready_fd, CLI_DONE, NULL, text,
				      result);
		else if (d->cfg->json)
			client_print_json(json_incref(result));
		else
			cli_log("%s", text);
		d->ready_fd = -1;
	}
	json_decref(result);
}

/* What the guest asked for by itself; the event is ours to act on. */
static void act_on_event(struct daemon *d)
{
	char *err = NULL;

	switch (vm_event_take(d->guest->vm)) {
	case VM_EVENT_POWEROFF:
		daemon_end(d, CLI_DONE, "the guest powered off");
		return;
	case VM_EVENT_RESET:
		if (!vm_boot_files(d->guest->vm)->kernel) {
			daemon_end(d, CLI_DONE,
				   "the guest asked for a reset; it came from "
				   "elsewhere and nobody said what to boot");
		} else if (daemon_reboot(d, &err) < 0) {
			daemon_end(d, CLI_FAILED, "reset: %s", err);
			free(err);
		}
		return;
	case VM_EVENT_CRASH:
		daemon_end(d, CLI_FAILED, "the guest crashed: %s",
			   vm_event_reason(d->guest->vm));
		return;
	default:
		return;
	}
}

void daemon_settle(struct daemon *d)
{
	struct mig_status status;

	if (d->state != DAEMON_RUNNING && d->state != DAEMON_PAUSED)
		return;
	/* A damaged page can have stopped it behind our back. */
	daemon_enter_idle(d);
	if (d->arrival) {
		op_status(d->arrival, &status);
		if (status.phase == MIG_COMPLETE)
			daemon_retire_arrival(d);
	}
	/*
	 * While pages come from a peer its process waits for our last word:
	 * ending now would leave it paused for ever. A file waits for nobody,
	 * but what comes from it must not come into what a reset has booted.
	 */
	if (d->arrival && (op_kind(d->arrival) == OP_RECEIVE ||
			   vm_event_peek(d->guest->vm) == VM_EVENT_RESET))
		return;
	act_on_event(d);
}

/* vCPU threads. */
static void post_event(void *ctx)
{
	struct daemon *d = ctx;

	ev_async_send(d->loop, &d->guest_event);
}

static size_t take_output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct daemon *d = ctx;

	return serial_output(d->serial, data, bytes);
}

/* The console's worker thread. */
static size_t take_console(void *ctx, const uint8_t *data, size_t bytes)
{
	struct daemon *d = ctx;

	return d->console ? serial_output(d->console, data, bytes) : bytes;
}

const struct vm_ops daemon_vm_ops = {
	.event = post_event,
	.serial_output = take_output,
	.console_output = take_console,
};

static void on_guest_event(struct ev_loop *loop, ev_async *async, int revents)
{
	(void)loop;
	(void)revents;
	daemon_settle(async->data);
}

static void on_progress(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct daemon *d = timer->data;

	(void)loop;
	(void)revents;
	if (d->op && control_anyone(d->control, WAIT_OPERATION))
		control_progress_all(d->control, WAIT_OPERATION,
				     op_progress(d->op));
}

/* May the guest end here although an arrival is not over? */
static int stop_arrival(struct daemon *d, char **err)
{
	struct mig_status status;

	op_status(d->arrival, &status);
	if (op_kind(d->arrival) == OP_RECEIVE && status.phase == MIG_COMMIT) {
		*err = cli_line("the guest is just arriving; try again");
		return CLI_FAILED;
	}
	if (op_kind(d->arrival) == OP_RECEIVE && status.phase == MIG_PAUSED) {
		*err = cli_line("the migration is paused and part of the guest "
				"is here: finish it with vmmd migrate --resume "
				"at the source, or lose it with --force");
		return CLI_ATTENTION;
	}
	return CLI_DONE;
}

int daemon_stop(struct daemon *d, bool force, char **err)
{
	int ret;

	if (force) {
		daemon_end(d, CLI_DONE, "stopped by force");
		return CLI_DONE;
	}
	switch (d->state) {
	case DAEMON_MIGRATION_PAUSED:
		*err = cli_line("the migration is paused and the guest may be "
				"running at the other side with pages that are "
				"only here: finish it with vmmd migrate "
				"--resume, or lose them with --force");
		return CLI_ATTENTION;
	case DAEMON_MIGRATING:
		if (op_cancel(d->op) < 0) {
			*err = cli_line("the guest has been handed over and "
					"its last pages are leaving; this "
					"process ends by itself");
			return CLI_FAILED;
		}
		daemon_enter(d, DAEMON_STOPPING);
		return CLI_DONE;
	case DAEMON_SAVING:
		op_cancel(d->op);
		daemon_enter(d, DAEMON_STOPPING);
		return CLI_DONE;
	case DAEMON_WORKING:
		daemon_enter(d, DAEMON_STOPPING);
		return CLI_DONE;
	case DAEMON_STOPPING:
		return CLI_DONE; /* soon, or by force */
	default:
		ret = d->arrival ? stop_arrival(d, err) : CLI_DONE;
		if (ret == CLI_DONE)
			daemon_end(d, CLI_DONE, "stopped");
		return ret;
	}
}

static void on_signal(struct ev_loop *loop, ev_signal *signal, int revents)
{
	struct daemon *d = signal->data;
	char *err = NULL;
	bool force;

	(void)revents;
	force = d->refused_s > 0 &&
		ev_now(loop) - d->refused_s < SECOND_SIGNAL_S;
	/* What is being waited for may never come: the second one forces. */
	if (d->state == DAEMON_STOPPING && !force)
		err = cli_line("still waiting for the guest to let go");
	else if (daemon_stop(d, force, &err) == CLI_DONE)
		return;
	d->refused_s = ev_now(loop);
	cli_log("not stopped: %s", err);
	cli_log("another signal within %.0f seconds forces it",
		SECOND_SIGNAL_S);
	free(err);
}

static void on_key(void *ctx, enum terminal_key key)
{
	struct daemon *d = ctx;
	char *err = NULL;

	if (key == TERMINAL_HELP) {
		cli_log("Ctrl-A x stops the guest, Ctrl-A a sends Ctrl-A, "
			"Ctrl-A h prints this");
		return;
	}
	if (daemon_stop(d, false, &err) != CLI_DONE)
		cli_log("not stopped: %s", err);
	free(err);
}

/* Of the serial port, or of the console, where nobody waits for it. */
static void on_drained(void *ctx)
{
	struct daemon *d = ctx;

	if (d->control && !serial_pending(d->serial))
		control_done_all(d->control, WAIT_TYPED, CLI_DONE, NULL, NULL);
}

static const struct serial_ops input_ops = {
	.key = on_key,
	.drained = on_drained,
};

static void start_watchers(struct daemon *d)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
	size_t i;

	ev_async_init(&d->guest_event, on_guest_event);
	d->guest_event.data = d;
	ev_async_start(d->loop, &d->guest_event);
	ev_timer_init(&d->progress, on_progress, PROGRESS_S, PROGRESS_S);
	d->progress.data = d;
	for (i = 0; i < 3; i++) {
		ev_signal_init(&d->signals[i], on_signal, signals[i]);
		d->signals[i].data = d;
		ev_signal_start(d->loop, &d->signals[i]);
	}
}

/* Everything that needs the name: sockets, serial, workers. */
static int set_up(struct daemon *d, char **err)
{
	int ret;

	ret = rundir_claim(d->cfg->name, &d->claim, err);
	if (ret < 0)
		return ret;
	if (d->cfg->detach) {
		d->log_fd = rundir_open_log(&d->claim);
		if (d->log_fd >= 0)
			cli_log_to(d->log_fd);
	}
	start_watchers(d);
	ret = serial_new(d->loop, &serial_port_uart, &d->cfg->serial,
			 &input_ops, d, &d->serial, err);
	if (ret == 0 && d->cfg->console_given)
		ret = serial_new(d->loop, &serial_port_console,
				 &d->cfg->console, &input_ops, d, &d->console,
				 err);
	if (ret == 0)
		ret = worker_new(d->loop, &d->jobs);
	if (ret == 0)
		ret = worker_new(d->loop, &d->probe);
	if (ret == 0)
		ret = control_new(d->loop, d->claim.listen_fd,
				  daemon_on_request, d, &d->control);
	return ret;
}

/*
 * The order matters: a vCPU that waits for a page never parks, and a job or an
 * operation that waits for it to park never ends. Ending the arrival lets go of
 * its pages; the operation is cancelled before, or it would go on with zeros.
 */
static void free_guest(struct daemon *d)
{
	if (d->op)
		op_cancel(d->op);
	op_free(d->arrival);
	op_free(d->op);
	worker_free(d->probe);
	worker_free(d->jobs);
	mig_guest_free(d->guest);
	daemon_origin_fini(d);
}

/*
 * Some of its pages never came, and who waits for one would be given zeros as
 * soon as the userfaultfd is gone: a disk write among them would put those on the
 * disk. A process that just dies gives them nothing.
 */
static bool guest_is_incomplete(const struct daemon *d)
{
	return d->guest && mig_guest_missing_pages(d->guest) > 0;
}

/* The system call itself: threads are meant to be left as they are. */
static _Noreturn void die_at_once(int status)
{
	fflush(NULL);
	for (;;)
		syscall(SYS_exit_group, status);
}

static json_t *end_report(const struct daemon *d)
{
	return json_pack("{s:s, s:s*}", "result", "ended", "reason",
			 d->end_reason);
}

static void say_the_end(struct daemon *d)
{
	json_t *failed;

	cli_log("%s", d->end_reason ? d->end_reason : "ended");
	if (d->announced)
		return;
	failed = json_pack("{s:s, s:s*}", "result", "failed", "error",
			   d->end_reason);
	if (d->ready_fd >= 0)
		detach_report(d->ready_fd, d->exit_status, d->end_reason, NULL,
			      failed);
	else if (d->cfg->json)
		client_print_json(json_incref(failed));
	json_decref(failed);
}

static void tell_clients(struct daemon *d)
{
	static const enum control_wait undone[] = { WAIT_OPERATION,
						    WAIT_CANCELLED, WAIT_JOB,
						    WAIT_STATUS };
	size_t i;

	for (i = 0; i < sizeof(undone) / sizeof(undone[0]); i++)
		control_done_all(d->control, undone[i], CLI_FAILED,
				 "the guest has ended", end_report(d));
	control_done_all(d->control, WAIT_TYPED, CLI_FAILED,
			 d->moved ? "the guest moved away before it read this; "
				    "send it there"
				  : "the guest has ended",
			 end_report(d));
	control_done_all(d->control, WAIT_STOPPED, CLI_DONE, NULL,
			 end_report(d));
	control_done_all(d->control, WAIT_POWERDOWN,
			 d->moved ? CLI_FAILED : d->exit_status,
			 d->moved ? "the guest moved away before it powered off"
			 : d->exit_status != CLI_DONE ? d->end_reason
						      : NULL,
			 end_report(d));
	control_done_all(d->control, WAIT_END, CLI_DONE, NULL, end_report(d));
}

static void tear_down(struct daemon *d)
{
	bool clean = d->exit_status == CLI_DONE || !d->announced;
	bool incomplete = guest_is_incomplete(d);

	if (d->serial)
		serial_connect(d->serial, NULL);
	if (d->console)
		serial_connect(d->console, NULL);
	if (incomplete) {
		terminal_restore(); /* its threads still use the rest */
	} else {
		free_guest(d);
		serial_free(d->console);
		serial_free(d->serial); /* the terminal is ours again */
	}
	/* Whoever is told of the end may take the name at once. */
	if (d->claim.name)
		rundir_release(&d->claim, clean);
	say_the_end(d);
	if (d->control) {
		tell_clients(d);
		control_free(d->control);
	}
	if (incomplete)
		die_at_once(d->exit_status);
	if (d->claim.name)
		close(d->claim.listen_fd);
	ev_loop_destroy(d->loop);
	json_decref(d->arrived);
	free(d->end_reason);
	free(d->op_target);
	free(d->job_error);
}

static bool stdio_is_free(const struct daemon_config *cfg)
{
	return !cfg->detach &&
	       !(cfg->console_given && cfg->console.kind == CLI_SERIAL_STDIO);
}

int daemon_main(struct daemon_config *cfg)
{
	struct daemon d = {
		.cfg = cfg,
		.ready_fd = -1,
		.log_fd = -1,
		.boot = { .kernel_fd = -1, .initrd_fd = -1 },
	};
	char *err = NULL;
	int ret;

	if (!cfg->serial_given)
		cfg->serial.kind = stdio_is_free(cfg) ? CLI_SERIAL_STDIO
						      : CLI_SERIAL_NULL;
	if (cfg->detach && detach(cfg->name, cfg->json, &d.ready_fd, &ret))
		return ret;
	cli_log_init(cfg->name);
	d.loop = ev_loop_new(EVFLAG_AUTO);
	if (!d.loop) {
		cli_log("no event loop: %s", strerror(errno));
		return CLI_FAILED;
	}
	d.begin_us = mig_now_us();
	ret = set_up(&d, &err);
	if (ret == 0)
		ret = daemon_begin(&d, &err);
	if (ret < 0)
		daemon_end(&d, CLI_FAILED, "%s", err ? err : strerror(-ret));
	free(err);
	if (cfg->detach && chdir("/") < 0)
		cli_log("cannot leave the directory: %s", strerror(errno));
	if (d.state != DAEMON_ENDED)
		ev_run(d.loop, 0);
	ret = d.exit_status;
	tear_down(&d);
	return ret;
}
