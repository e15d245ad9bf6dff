/*
 * cli/progress.h: one line on a terminal that says how far an operation is.
 *
 * Scripts get nothing: without a terminal on stderr every call does nothing.
 * Threads: one.
 */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <jansson.h>
#include <stdint.h>

struct progress {
	uint64_t last_us;
	uint64_t last_bytes;
};

/* A client_progress; ctx is a struct progress that began as zeros. */
void progress_show(void *ctx, const json_t *event);
/* Wipes the line. */
void progress_end(void);

#endif
