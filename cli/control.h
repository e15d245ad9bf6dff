/*
 * cli/control.h: the control socket of a guest's process, server side.
 *
 * Protocol: JSON objects, one a line, over the unix stream socket NAME.sock in
 * the run directory (rundir.h). One request per connection:
 *
 *	{"cmd": "status"}
 *	{"cmd": "pause"}   {"cmd": "resume"}   {"cmd": "cancel"}   {"cmd": "wait"}
 *	{"cmd": "stop", "force": false, "powerdown": false}
 *	{"cmd": "migrate", "uri": "tcp://...", "mode": "hybrid", "channels": 2,
 *	 "downtime_limit_ms": 20, "max_bandwidth": 0, "tracker": "auto"}
 *	{"cmd": "migrate", "uri": "tcp://...", "resume": true}
 *	{"cmd": "snapshot", "dir": "/absolute", "stop": false, "disks": false}
 *	{"cmd": "balloon", "bytes": 268435456}
 *	{"cmd": "serial-input", "data": "text"}
 *	{"cmd": "adjust", "downtime_limit_ms": 20, "max_bandwidth": 0,
 *	 "postcopy": false}	(what is absent stays as it is)
 *
 * Answers: any number of progress lines, then exactly one done, then the end of
 * the connection:
 *
 *	{"event": "progress", "phase": "precopy", ...}
 *	{"event": "done", "ok": true, "exit": 0, "result": {...}}
 *	{"event": "done", "ok": false, "exit": 1, "error": "...", "result": {...}}
 *
 * exit is what the command shall exit with. "result" may be missing. An end
 * without done means that the process died. A client that goes away stops
 * nothing. A line longer than CONTROL_LINE_MAX, or not of this shape, is
 * answered with an error and the connection closed; a client that does not read
 * is dropped when CONTROL_BACKLOG_MAX bytes wait for it.
 *
 * Threads: the loop's.
 */
#ifndef CLI_CONTROL_H
#define CLI_CONTROL_H

#include <ev.h>
#include <jansson.h>
#include <stdbool.h>

#define CONTROL_LINE_MAX    (64u << 10)
#define CONTROL_BACKLOG_MAX (256u << 10)
#define CONTROL_CLIENTS_MAX 64
#define CONTROL_JSON_FLAGS  (JSON_COMPACT | JSON_REAL_PRECISION(12))

struct control;
struct control_client;

/* What a client waits for. */
enum control_wait {
	WAIT_NOTHING,
	WAIT_OPERATION, /* its own migrate or snapshot: gets progress too */
	WAIT_CANCELLED, /* somebody's operation to be gone */
	WAIT_JOB,       /* pause, resume */
	WAIT_STATUS,
	WAIT_TYPED, /* its input to be where it moves with the guest */
	WAIT_STOPPED,
	WAIT_POWERDOWN, /* of the guest, by itself */
	WAIT_END,       /* of the process */
};

/*
 * A request has come: answer with control_done(), or set what it waits for and
 * let control_done_all() answer later. request is borrowed, an object with a
 * string "cmd".
 */
typedef void control_request(void *ctx, struct control_client *client,
			     const char *cmd, const json_t *request);

/* listen_fd is borrowed. */
int control_new(struct ev_loop *loop, int listen_fd, control_request *request,
		void *ctx, struct control **ret_control);
/* Gives clients a second to take what waits for them. NULL is fine. */
void control_free(struct control *c);

void control_wait_for(struct control_client *client, enum control_wait wait);
/* error NULL: ok. result (may be NULL): the reference is taken. */
void control_done(struct control_client *client, int exit_status,
		  const char *error, json_t *result);
/* To all clients that wait for `wait`; result is taken. */
void control_done_all(struct control *c, enum control_wait wait,
		      int exit_status, const char *error, json_t *result);
/* fields: an object, taken; "event" is added. */
void control_progress_all(struct control *c, enum control_wait wait,
			  json_t *fields);
bool control_anyone(const struct control *c, enum control_wait wait);

#endif
