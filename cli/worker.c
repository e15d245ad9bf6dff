#include "cli/worker.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct worker {
	struct ev_loop *loop;
	ev_async finished;
	bool busy; /* the thread exists; loop's thread only */
	pthread_t thread;
	/* Constant while a job runs. */
	worker_job *job;
	worker_done *done;
	void *ctx;
	int ret; /* written by the job's thread, read after the join */
};

static void *run_job(void *arg)
{
	struct worker *w = arg;

	w->ret = w->job(w->ctx);
	ev_async_send(w->loop, &w->finished);
	return NULL;
}

static void on_finished(struct ev_loop *loop, ev_async *async, int revents)
{
	struct worker *w = async->data;

	(void)loop;
	(void)revents;
	pthread_join(w->thread, NULL);
	w->busy = false;
	w->done(w->ctx, w->ret);
}

int worker_new(struct ev_loop *loop, struct worker **ret_worker)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->loop = loop;
	ev_async_init(&w->finished, on_finished);
	w->finished.data = w;
	ev_async_start(loop, &w->finished);
	*ret_worker = w;
	return 0;
}

int worker_start(struct worker *w, worker_job *job, worker_done *done,
		 void *ctx)
{
	sigset_t all, old;
	int ret;

	if (w->busy)
		return -EBUSY;
	w->job = job;
	w->done = done;
	w->ctx = ctx;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&w->thread, NULL, run_job, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	w->busy = ret == 0;
	return ret;
}

bool worker_is_busy(const struct worker *w)
{
	return w->busy;
}

void worker_free(struct worker *w)
{
	if (!w)
		return;
	if (w->busy)
		pthread_join(w->thread, NULL);
	ev_async_stop(w->loop, &w->finished);
	free(w);
}
