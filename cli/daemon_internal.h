/*
 * cli/daemon_internal.h: what the files of the daemon share.
 *
 * daemon.c		begin, end, and what happens in between by itself
 * daemon_origin.c	the three ways in which a guest comes to be here
 * daemon_state.c	states, and what is possible in them
 * daemon_op.c		operations on the guest: pause .. migrate
 * daemon_request.c	the control socket's side: who asks for what
 * daemon_status.c	what the guest and its devices are at, as JSON
 *
 * Threads: everything on the main (loop) thread, but for the callbacks that say
 *          otherwise.
 */
#ifndef CLI_DAEMON_INTERNAL_H
#define CLI_DAEMON_INTERNAL_H

#include <ev.h>
#include <jansson.h>
#include <stdbool.h>

#include "cli/cmd.h"
#include "cli/control.h"
#include "cli/daemon.h"
#include "cli/daemon_state.h"
#include "cli/op.h"
#include "cli/rundir.h"
#include "cli/serial.h"
#include "cli/worker.h"
#include "vmm/boot.h"
#include "vmm/vm.h"

struct daemon {
	struct daemon_config *cfg;
	struct ev_loop *loop;
	enum daemon_state state;
	int exit_status;
	char *end_reason; /* owned; set with DAEMON_ENDED */
	int ready_fd;     /* somebody waits in detach(); -1: nobody */
	bool announced;
	int log_fd;        /* detached only; -1 */
	uint64_t begin_us; /* mig_now_us() */
	double refused_s;  /* when a signal to stop was last refused */

	struct rundir_claim claim;
	struct control *control;
	struct serial *serial;  /* its output side: vCPU threads too */
	struct serial *console; /* the same; NULL: output is dropped */

	/* The guest and what it boots from (kernel_fd -1: not opened yet). */
	struct mig_guest *guest;
	struct vm_boot boot;
	char *listen_uri; /* where a receive really listens */

	struct op *arrival;          /* RECEIVE or RESTORE until all is here */
	enum mig_phase arrival_seen; /* its phase when last looked at */
	json_t *arrived;             /* its report, when it is over */
	struct op *op;               /* MIGRATE or SNAPSHOT */
	char *op_target;             /* where to; owned */
	bool op_found_running;       /* so it runs again when that is over */
	bool moved;                  /* ended because the guest has left */

	struct worker *jobs;  /* WORKING */
	char *job_error;      /* owned; the job's, read when it is done */
	struct worker *probe; /* counts resident memory for status */
	uint64_t resident_bytes;

	ev_async guest_event; /* from vCPU threads */
	ev_timer progress;
	ev_signal signals[3];
};

/* daemon.c */
void daemon_enter(struct daemon *d, enum daemon_state state);
/* RUNNING or PAUSED, whichever the machine is in. */
void daemon_enter_idle(struct daemon *d);
const char *daemon_state_name(const struct daemon *d);
bool daemon_accepts(const struct daemon *d, enum daemon_verb verb);
/* Leaves the loop; the first reason stays. */
__attribute__((format(printf, 3, 4))) void
daemon_end(struct daemon *d, int exit_status, const char *format, ...);
/* To call after anything has changed: acts on what has become due. */
void daemon_settle(struct daemon *d);
/* The guest is ready; result is taken. */
void daemon_announce(struct daemon *d, json_t *result, const char *text);
/*
 * Ends the guest, now or when the running operation lets go of it. Anything but
 * CLI_DONE is a refusal with a line in *err: somebody could lose the guest.
 */
int daemon_stop(struct daemon *d, bool force, char **err);
extern const struct vm_ops daemon_vm_ops;

/* daemon_origin.c: -errno, perhaps with a line in *err. */
int daemon_begin(struct daemon *d, char **err);
void daemon_on_arrival(void *daemon);
/* The arrival is over and no operation looks at its guest: forget it. */
void daemon_retire_arrival(struct daemon *d);
/* What a reset boots; nothing when it is open already. */
int daemon_open_boot_files(struct daemon *d, const struct vm_boot_files *files,
			   char **err);
/* Closes and frees what daemon_begin() left behind. */
void daemon_origin_fini(struct daemon *d);

/* daemon_op.c: -errno and a line in *err when it could not be started. */
int daemon_pause(struct daemon *d, char **err);
int daemon_resume(struct daemon *d, char **err);
int daemon_reboot(struct daemon *d, char **err);
int daemon_migrate(struct daemon *d, const struct mig_source_config *cfg,
		   char **err);
int daemon_rejoin(struct daemon *d, const char *uri, char **err);
int daemon_snapshot(struct daemon *d, const struct mig_snapshot_config *cfg,
		    char **err);
int daemon_cancel(struct daemon *d, char **err);
int daemon_balloon(struct daemon *d, uint64_t bytes, char **err);

/* daemon_status.c: a new object. */
json_t *daemon_status_report(const struct daemon *d);

/* daemon_request.c */
control_request daemon_on_request;

#endif
