/*
 * Several lanes: the faults of one do not wait for another's handler, and every
 * call on a range reaches all the stripes that it touches.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#include "uffd/uffd.h"

#define PAGE         4096u
#define STRIPE_PAGES 512u /* 2 MiB, the least; see uffd/README.md */
#define STRIPES      6u
#define PAGES        (STRIPES * STRIPE_PAGES)
#define LANES        3u
#define PATIENCE_S   60

struct fixture {
	uint8_t *base;
	struct uffd *uffd;
	atomic_uint missing;
	atomic_uint writes;
	/* Under lock. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int in_handler;
	bool met;
};

struct toucher {
	struct fixture *f;
	unsigned int page;
	pthread_t thread;
};

static struct fixture *fixture_new(void)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *err = NULL;

	assert_non_null(f);
	f->base = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(f->base, MAP_FAILED);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	assert_int_equal(
		uffd_new(f->base, PAGES * PAGE, PAGE, LANES, &f->uffd, &err),
		0);
	return f;
}

static void fixture_free(struct fixture *f)
{
	uffd_free(f->uffd);
	munmap(f->base, PAGES * PAGE);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

static uint8_t load(struct fixture *f, unsigned int page)
{
	return *(volatile uint8_t *)(f->base + (size_t)page * PAGE);
}

static void *touch(void *arg)
{
	struct toucher *t = arg;

	load(t->f, t->page);
	return NULL;
}

/* One page in each lane, all of them at once. */
static void touch_each_lane(struct fixture *f, struct toucher *t)
{
	for (unsigned int i = 0; i < LANES; i++) {
		t[i] = (struct toucher){ .f = f, .page = i * STRIPE_PAGES + 7 };
		assert_int_equal(
			pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
	}
}

static void join_all(struct toucher *t)
{
	for (unsigned int i = 0; i < LANES; i++)
		pthread_join(t[i].thread, NULL);
}

/* Returns when as many handlers run as there are lanes, or gives up. */
static void meet(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;
	struct timespec deadline;
	int ret = 0;

	(void)tid;
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += PATIENCE_S;
	pthread_mutex_lock(&f->lock);
	if (++f->in_handler == LANES)
		f->met = true;
	pthread_cond_broadcast(&f->changed);
	while (!f->met && ret == 0)
		ret = pthread_cond_timedwait(&f->changed, &f->lock, &deadline);
	pthread_mutex_unlock(&f->lock);
	assert_int_equal(uffd_zero(f->uffd, page, 1), 0);
}

static void test_lanes_wait_for_no_other(void **state)
{
	struct fixture *f = fixture_new();
	struct toucher t[LANES];

	(void)state;
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, meet, f), 0);
	touch_each_lane(f, t);
	join_all(t);
	pthread_mutex_lock(&f->lock);
	assert_true(f->met);
	pthread_mutex_unlock(&f->lock);
	fixture_free(f);
}

static void count_only(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)tid;
	(void)page;
	atomic_fetch_add(&f->missing, 1);
}

static void let_write(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)tid;
	atomic_fetch_add(&f->writes, 1);
	assert_int_equal(uffd_unprotect(f->uffd, page, 1), 0);
}

/* From within the first stripe to within the last one. */
static void test_a_copy_crosses_stripes(void **state)
{
	struct fixture *f = fixture_new();
	const unsigned int first = 100, nr = PAGES - 200;
	uint8_t *data = malloc(PAGES * PAGE);

	(void)state;
	assert_non_null(data);
	for (unsigned int i = 0; i < nr; i++)
		memset(data + (size_t)i * PAGE, (int)(i % 251 + 1), PAGE);
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, count_only, f), 0);
	/* One is there already, and the run goes on behind it. */
	assert_int_equal(uffd_zero(f->uffd, 3 * STRIPE_PAGES, 1), 0);
	assert_int_equal(uffd_copy(f->uffd, first, nr, data, false), 0);
	assert_int_equal(uffd_zero(f->uffd, 0, first), 0);
	assert_int_equal(uffd_zero(f->uffd, first + nr, 100), 0);
	for (unsigned int i = 0; i < nr; i++) {
		if (first + i != 3 * STRIPE_PAGES)
			assert_int_equal(load(f, first + i), i % 251 + 1);
	}
	assert_int_equal(load(f, 3 * STRIPE_PAGES), 0);
	assert_int_equal(load(f, PAGES - 1), 0);
	assert_int_equal(f->missing, 0);
	free(data);
	fixture_free(f);
}

static void write_all(struct fixture *f)
{
	for (unsigned int i = 0; i < PAGES; i += STRIPE_PAGES / 2)
		*(volatile uint8_t *)(f->base + (size_t)i * PAGE) = 9;
}

static void test_protection_crosses_stripes(void **state)
{
	struct fixture *f = fixture_new();

	(void)state;
	memset(f->base, 1, PAGES * PAGE);
	assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), 0);
	assert_int_equal(uffd_protect(f->uffd, 0, PAGES), 0);
	write_all(f);
	assert_int_equal(f->writes, 2 * STRIPES);
	assert_int_equal(uffd_protect(f->uffd, 1, PAGES - 1), 0);
	assert_int_equal(uffd_unprotect(f->uffd, 1, PAGES - 1), 0);
	write_all(f);
	assert_int_equal(f->writes, 2 * STRIPES);
	assert_int_equal(uffd_protect(f->uffd, 0, PAGES), 0);
	assert_int_equal(uffd_stop(f->uffd, UFFD_WP), 0); /* lets go of all */
	write_all(f);
	assert_int_equal(f->writes, 2 * STRIPES);
	fixture_free(f);
}

static void wait_missing(struct fixture *f, unsigned int nr)
{
	const struct timespec tick = { .tv_nsec = 1000000 };

	for (int i = 0; f->missing < nr && i < PATIENCE_S * 1000; i++)
		nanosleep(&tick, NULL);
	assert_int_equal(f->missing, nr);
}

static void check_stop_wakes(bool other_goes_on)
{
	struct fixture *f = fixture_new();
	struct toucher t[LANES];

	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, count_only, f), 0);
	if (other_goes_on)
		assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), 0);
	touch_each_lane(f, t);
	wait_missing(f, LANES);
	assert_int_equal(uffd_stop(f->uffd, UFFD_MISSING), 0);
	join_all(t);
	fixture_free(f);
}

static void test_stop_wakes_every_lane(void **state)
{
	(void)state;
	check_stop_wakes(false);
	check_stop_wakes(true);
}

/* Registering fails at a hole, after some stripes and before others. */
static void test_a_failed_start_can_be_tried_again(void **state)
{
	struct fixture *f = fixture_new();
	uint8_t *hole = f->base + 4 * STRIPE_PAGES * PAGE;
	const int prot = PROT_READ | PROT_WRITE;
	struct toucher t[LANES];

	(void)state;
	assert_int_equal(munmap(hole, STRIPE_PAGES * PAGE), 0);
	assert_true(uffd_start(f->uffd, UFFD_MISSING, count_only, f) < 0);
	assert_int_equal(load(f, 0), 0); /* nobody watches */
	assert_int_equal(load(f, 5 * STRIPE_PAGES), 0);
	assert_ptr_equal(mmap(hole, STRIPE_PAGES * PAGE, prot,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 hole);
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, meet, f), 0);
	touch_each_lane(f, t);
	join_all(t);
	load(f, 4 * STRIPE_PAGES);
	pthread_mutex_lock(&f->lock);
	assert_int_equal(f->in_handler, LANES + 1);
	pthread_mutex_unlock(&f->lock);
	fixture_free(f);
}

/* One has failed to stop for want of a stripe: the next start watches all again. */
static void test_a_failed_stop_can_be_followed_by_a_start(void **state)
{
	struct fixture *f = fixture_new();
	uint8_t *hole = f->base + 3 * STRIPE_PAGES * PAGE;
	const int prot = PROT_READ | PROT_WRITE;
	struct toucher t[LANES];

	(void)state;
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, count_only, f), 0);
	touch_each_lane(f, t);
	wait_missing(f, LANES);
	assert_int_equal(munmap(hole, STRIPE_PAGES * PAGE), 0);
	assert_true(uffd_stop(f->uffd, UFFD_MISSING) < 0);
	join_all(t); /* let go all the same */
	assert_ptr_equal(mmap(hole, STRIPE_PAGES * PAGE, prot,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 hole);
	assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), 0);
	memset(f->base, 1, PAGES * PAGE);
	assert_int_equal(uffd_protect(f->uffd, 0, PAGES), 0);
	write_all(f);
	assert_int_equal(f->writes, 2 * STRIPES);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lanes_wait_for_no_other),
		cmocka_unit_test(test_a_copy_crosses_stripes),
		cmocka_unit_test(test_protection_crosses_stripes),
		cmocka_unit_test(test_stop_wakes_every_lane),
		cmocka_unit_test(test_a_failed_start_can_be_tried_again),
		cmocka_unit_test(test_a_failed_stop_can_be_followed_by_a_start),
	};
	struct uffd_caps caps;

	uffd_probe(&caps);
	if (!caps.usable) {
		printf("skipped: %s\n", caps.why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
