/*
 * cli/worker.h: one job at a time away from the main thread.
 *
 * For calls that may block (vm_pause) or take long (counting resident memory).
 * A thread per job: jobs are rare, and an idle daemon has no idle thread.
 * Threads: every call on the loop's thread; job on its own; done on the loop's.
 */
#ifndef CLI_WORKER_H
#define CLI_WORKER_H

#include <ev.h>
#include <stdbool.h>

struct worker;
typedef int worker_job(void *ctx);
typedef void worker_done(void *ctx, int ret); /* what job returned */

int worker_new(struct ev_loop *loop, struct worker **ret_worker);
/* -EBUSY while a job runs; then, and on any error, done is not called. */
int worker_start(struct worker *w, worker_job *job, worker_done *done,
		 void *ctx);
bool worker_is_busy(const struct worker *w);
/* Waits for the job; its done is not called. NULL is fine. */
void worker_free(struct worker *w);

#endif
