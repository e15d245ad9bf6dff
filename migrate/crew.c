#include "migrate/crew.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "migrate/clock.h"
#include "vmm/urgent.h"

struct member {
	struct mig_crew *crew;
	unsigned int index;
	pthread_t thread;
};

struct mig_crew {
	const char *name;
	unsigned int nr_members;
	/* Under lock. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	mig_job *job;
	void *ctx;
	unsigned long generation; /* of the job */
	unsigned int busy;
	int err;
	bool ending;
	struct member members[];
};

/* False when the crew goes home. */
static bool next_job(struct mig_crew *c, unsigned long *seen)
{
	bool go;

	pthread_mutex_lock(&c->lock);
	while (c->generation == *seen && !c->ending)
		pthread_cond_wait(&c->changed, &c->lock);
	*seen = c->generation;
	go = !c->ending;
	pthread_mutex_unlock(&c->lock);
	return go;
}

static void *member_main(void *arg)
{
	struct member *m = arg;
	struct mig_crew *c = m->crew;
	unsigned long seen = 0;
	char name[16];

	snprintf(name, sizeof(name), "%.10s/%u", c->name, m->index);
	pthread_setname_np(pthread_self(), name);
	while (next_job(c, &seen)) {
		int ret = c->job(c->ctx, m->index);

		pthread_mutex_lock(&c->lock);
		if (ret < 0 && c->err == 0)
			c->err = ret;
		c->busy--;
		pthread_cond_broadcast(&c->changed);
		pthread_mutex_unlock(&c->lock);
	}
	return NULL;
}

static void dismiss(struct mig_crew *c, unsigned int nr_started)
{
	unsigned int i;

	pthread_mutex_lock(&c->lock);
	c->ending = true;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	for (i = 0; i < nr_started; i++)
		pthread_join(c->members[i].thread, NULL);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int mig_crew_start(const char *name, unsigned int members,
		   struct mig_crew **ret_crew)
{
	struct mig_crew *c;
	unsigned int i;
	int ret;

	c = calloc(1, sizeof(*c) + members * sizeof(c->members[0]));
	if (!c)
		return -ENOMEM;
	c->name = name;
	c->nr_members = members;
	pthread_mutex_init(&c->lock, NULL);
	mig_cond_init(&c->changed);
	for (i = 0; i < members; i++) {
		c->members[i].crew = c;
		c->members[i].index = i;
		ret = -pthread_create(&c->members[i].thread, NULL, member_main,
				      &c->members[i]);
		if (ret < 0) {
			dismiss(c, i);
			return ret;
		}
	}
	*ret_crew = c;
	return 0;
}

void mig_crew_run(struct mig_crew *c, mig_job *job, void *ctx)
{
	pthread_mutex_lock(&c->lock);
	c->job = job;
	c->ctx = ctx;
	c->busy = c->nr_members;
	c->err = 0;
	c->generation++;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

int mig_crew_wait(struct mig_crew *c)
{
	int err;

	pthread_mutex_lock(&c->lock);
	while (c->busy > 0)
		pthread_cond_wait(&c->changed, &c->lock);
	err = c->err;
	pthread_mutex_unlock(&c->lock);
	return err;
}

bool mig_crew_wait_us(struct mig_crew *c, uint64_t us)
{
	struct timespec until = mig_deadline(CLOCK_MONOTONIC, us);
	int ret = 0;
	bool done;

	pthread_mutex_lock(&c->lock);
	while (c->busy > 0 && ret != ETIMEDOUT)
		ret = pthread_cond_timedwait(&c->changed, &c->lock, &until);
	done = c->busy == 0;
	pthread_mutex_unlock(&c->lock);
	return done;
}

void mig_crew_urgent(struct mig_crew *c, bool urgent)
{
	for (unsigned int i = 0; i < c->nr_members; i++)
		vm_thread_urgent(c->members[i].thread, urgent);
}

void mig_crew_free(struct mig_crew *c)
{
	if (c)
		dismiss(c, c->nr_members);
}
