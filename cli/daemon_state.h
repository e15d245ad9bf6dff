/*
 * cli/daemon_state.h: what the process of a guest is at, and which requests are
 * possible then: one table.
 *
 * Threads: pure functions, any thread.
 */
#ifndef CLI_DAEMON_STATE_H
#define CLI_DAEMON_STATE_H

#include <stdbool.h>

/*
 * daemon_enter() is the only writer. How a guest arrives (its own operation,
 * which can go on under RUNNING and PAUSED until the last page is in) is told by
 * the arrival's phase and by nothing else.
 */
enum daemon_state {
	DAEMON_STARTING, /* restore: nothing runs yet */
	DAEMON_INCOMING, /* receive: nothing runs yet */
	DAEMON_RUNNING,
	DAEMON_PAUSED,           /* on request, or kept from running */
	DAEMON_WORKING,          /* a job that may block has the guest */
	DAEMON_SAVING,           /* op is a snapshot */
	DAEMON_MIGRATING,        /* op is a migration */
	DAEMON_MIGRATION_PAUSED, /* op is in MIG_PAUSED: must not run here */
	DAEMON_STOPPING,         /* will end when the job or op lets go */
	DAEMON_ENDED,
	DAEMON_NR_STATES
};

/* Requests that only some states accept. */
enum daemon_verb {
	DO_PAUSE = 1,
	DO_RESUME = 2,
	DO_MIGRATE = 4,
	DO_REJOIN = 8,
	DO_SNAPSHOT = 16,
	DO_CANCEL = 32,
	DO_TYPE = 64,
	DO_BALLOON = 128,
	DO_POWERDOWN = 256,
	DO_ADJUST = 512,
};

/* What keeps an arrival from going on. */
enum daemon_stuck { NOT_STUCK, STUCK_MIGRATION, STUCK_DAMAGE };

const char *daemon_state_text(enum daemon_state state, enum daemon_stuck stuck);
/*
 * A guest whose arrival is stuck may have a vCPU that waits for a page and can
 * never park: nothing that needs it parked is accepted then.
 */
bool daemon_state_accepts(enum daemon_state state, enum daemon_stuck stuck,
			  enum daemon_verb verb);

#endif
