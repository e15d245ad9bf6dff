#include "migrate/collapse.h"

#include <errno.h>
#include <time.h>

#include "migrate/clock.h"

/* Of the time that copying takes: the guest has the rest to itself. */
#define REST_SHARE 4
/* Less is not worth a timer: looking at a block that stays as it is takes 5 us. */
#define REST_AFTER_US 1000
/* Between two looks at all of RAM; twice as long after each that found nothing. */
#define LOOK_US_MIN 1000000
#define LOOK_US_MAX 64000000
/* So many blocks in a row that could not be huge: none can. */
#define FAILED_MAX 16

void mig_collapse_init(struct mig_collapse *c, struct vm_mem *mem)
{
	*c = (struct mig_collapse){ .mem = mem };
	pthread_mutex_init(&c->lock, NULL);
	mig_cond_init(&c->changed);
}

/* Under lock. */
static void rest(struct mig_collapse *c, uint64_t us)
{
	struct timespec until = mig_deadline(CLOCK_MONOTONIC, us);
	int ret = 0;

	while (!c->ending && ret != ETIMEDOUT)
		ret = pthread_cond_timedwait(&c->changed, &c->lock, &until);
	while (!c->ending && c->nr_holds > 0)
		pthread_cond_wait(&c->changed, &c->lock);
}

/*
 * All of RAM once, from *block on, under lock, dropped at rest. It gives up where one
 * block after the other fails, and the next time goes on from there. Whether anything
 * became huge.
 */
static bool go_over(struct mig_collapse *c, uint64_t *block)
{
	uint64_t nr_blocks = vm_mem_bytes(c->mem) / VM_HUGE_PAGE_BYTES;
	uint64_t begin_us = mig_now_us();
	unsigned int nr_failed = 0;
	bool made = false;
	uint64_t took_us;
	uint64_t i;
	int ret = 0;

	for (i = 0; i < nr_blocks && nr_failed < FAILED_MAX && ret != -ENOMEM &&
		    !c->ending;
	     i++) {
		ret = vm_mem_collapse(c->mem, *block * VM_HUGE_PAGE_BYTES);
		*block = (*block + 1) % nr_blocks;
		made |= ret > 0;
		nr_failed = ret < 0 ? nr_failed + 1 : 0;
		took_us = mig_now_us() - begin_us;
		if (took_us >= REST_AFTER_US) {
			rest(c, took_us * REST_SHARE);
			begin_us = mig_now_us();
		}
	}
	return made;
}

/* It begins with a rest: a guest that has just come has enough to wait for. */
static void *collapse_main(void *arg)
{
	struct mig_collapse *c = arg;
	uint64_t look_us = LOOK_US_MIN;
	uint64_t block = 0;

	pthread_mutex_lock(&c->lock);
	do {
		rest(c, look_us);
		if (go_over(c, &block))
			look_us = LOOK_US_MIN;
		else if (look_us < LOOK_US_MAX)
			look_us *= 2;
	} while (!c->ending && vm_mem_stays_small(c->mem));
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

void mig_collapse_start(struct mig_collapse *c)
{
	pthread_mutex_lock(&c->lock);
	if (!c->started &&
	    pthread_create(&c->thread, NULL, collapse_main, c) == 0) {
		pthread_setname_np(c->thread, "collapse");
		c->started = true;
	}
	pthread_mutex_unlock(&c->lock);
}

void mig_collapse_hold(struct mig_collapse *c)
{
	pthread_mutex_lock(&c->lock);
	c->nr_holds++;
	pthread_mutex_unlock(&c->lock);
}

void mig_collapse_release(struct mig_collapse *c)
{
	pthread_mutex_lock(&c->lock);
	c->nr_holds--;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
}

void mig_collapse_fini(struct mig_collapse *c)
{
	pthread_mutex_lock(&c->lock);
	c->ending = true;
	pthread_cond_broadcast(&c->changed);
	pthread_mutex_unlock(&c->lock);
	if (c->started)
		pthread_join(c->thread, NULL);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
}
