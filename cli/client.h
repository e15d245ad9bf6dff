/*
 * cli/client.h: ask the process of a guest; control.h has the protocol.
 *
 * Threads: one.
 */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

struct client_answer {
	int exit_status; /* enum cli_exit */
	char *error;     /* owned; NULL when ok */
	json_t *result;  /* owned; may be NULL */
	bool ended;      /* the process ended before it answered */
};

typedef void client_progress(void *ctx, const json_t *progress);

/*
 * Sends request (reference taken) to guest `name` and waits for the answer. Always
 * fills *ret_answer: no such guest, or a process that died, is an answer with an
 * error. progress may be NULL. timeout_ms 0: as long as it takes.
 */
void client_ask(const char *name, json_t *request, int timeout_ms,
		client_progress *progress, void *ctx,
		struct client_answer *ret_answer);
void client_answer_fini(struct client_answer *a);

/*
 * What most commands end with: error to stderr, the result as one object to
 * stdout with `json`; returns the exit status and frees the answer.
 */
int client_report(struct client_answer *a, bool json);
/* A command that fails before it asks anybody: its line, and --json's object. */
int client_fail(bool json, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* One object on stdout; the reference is taken. */
void client_print_json(json_t *object);

#endif
