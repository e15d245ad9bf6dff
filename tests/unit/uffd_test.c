/*
 * Faults reach whoever has started, pages arrive and are protected as asked,
 * and nobody who waits for one is left behind by stop or free.
 */
#include <errno.h>
#include <fcntl.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "uffd/uffd.h"

#define PAGE  4096u
#define PAGES 64u

struct fixture {
	uint8_t *base;
	struct uffd *uffd;
	atomic_uint missing; /* faults seen */
	atomic_uint writes;
	atomic_uint last_page;
};

static void map(struct fixture *f, bool memfd)
{
	int fd = memfd ? memfd_create("uffd_test", MFD_CLOEXEC) : -1;
	int flags = memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	if (memfd)
		assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	f->base = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
		       flags | MAP_NORESERVE, fd, 0);
	assert_ptr_not_equal(f->base, MAP_FAILED);
	if (memfd)
		close(fd);
}

static struct fixture *fixture_new(bool memfd)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *err = NULL;

	assert_non_null(f);
	map(f, memfd);
	assert_int_equal(
		uffd_new(f->base, PAGES * PAGE, PAGE, 1, &f->uffd, &err), 0);
	assert_null(err);
	return f;
}

static void fixture_free(struct fixture *f)
{
	uffd_free(f->uffd);
	munmap(f->base, PAGES * PAGE);
	free(f);
}

static void fill_page(uint8_t *buf, uint64_t page)
{
	memset(buf, (int)(page + 1), PAGE);
}

static void supply(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;
	uint8_t buf[PAGE];

	(void)tid;
	atomic_fetch_add(&f->missing, 1);
	atomic_store(&f->last_page, (unsigned int)page);
	fill_page(buf, page);
	assert_int_equal(uffd_copy(f->uffd, page, 1, buf, false), 0);
}

static void let_write(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)tid;
	atomic_fetch_add(&f->writes, 1);
	atomic_store(&f->last_page, (unsigned int)page);
	assert_int_equal(uffd_unprotect(f->uffd, page, 1), 0);
}

static void count_only(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)tid;
	(void)page;
	atomic_fetch_add(&f->missing, 1);
}

static uint8_t load(struct fixture *f, unsigned int page)
{
	return *(volatile uint8_t *)(f->base + page * PAGE);
}

static void store(struct fixture *f, unsigned int page, uint8_t value)
{
	*(volatile uint8_t *)(f->base + page * PAGE) = value;
}

static void check_missing(bool memfd)
{
	struct fixture *f = fixture_new(memfd);

	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, supply, f), 0);
	assert_int_equal(load(f, 5), 6);
	store(f, 6, 99);
	assert_int_equal(load(f, 6), 99);
	assert_int_equal(f->base[6 * PAGE + 1], 7);
	assert_int_equal(f->missing, 2);
	assert_int_equal(uffd_stop(f->uffd, UFFD_MISSING), 0);
	assert_int_equal(load(f, 7), 0); /* nobody supplies: zeros */
	assert_int_equal(f->missing, 2);
	fixture_free(f);
}

static void test_missing_pages_are_supplied(void **state)
{
	(void)state;
	check_missing(false);
	check_missing(true);
}

static void check_wp(bool memfd)
{
	struct fixture *f = fixture_new(memfd);

	for (unsigned int i = 0; i < 8; i++)
		store(f, i, 1);
	assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), 0);
	assert_int_equal(uffd_protect(f->uffd, 0, 8), 0);
	assert_int_equal(load(f, 3), 1); /* reads are free */
	assert_int_equal(f->writes, 0);
	store(f, 3, 2);
	store(f, 3, 3);
	assert_int_equal(f->writes, 1);
	assert_int_equal(f->last_page, 3);
	assert_int_equal(uffd_stop(f->uffd, UFFD_WP), 0);
	store(f, 4, 2);
	assert_int_equal(f->writes, 1);
	fixture_free(f);
}

static void test_first_writes_are_told(void **state)
{
	(void)state;
	check_wp(false);
	check_wp(true);
}

/* A snapshot during a postcopy, and then each of them ends. */
static void check_both(bool memfd)
{
	struct fixture *f = fixture_new(memfd);
	uint8_t buf[PAGE];

	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, supply, f), 0);
	assert_int_equal(load(f, 0), 1);
	assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), 0);
	assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), -EBUSY);
	assert_int_equal(uffd_protect(f->uffd, 0, 2), 0);
	store(f, 0, 9);
	assert_int_equal(f->writes, 1);

	fill_page(buf, 1);
	assert_int_equal(uffd_copy(f->uffd, 1, 1, buf, true), 0);
	store(f, 1, 9); /* it arrived protected */
	assert_int_equal(f->writes, 2);
	assert_int_equal(f->missing, 1);

	fill_page(buf, 2);
	assert_int_equal(uffd_copy(f->uffd, 2, 1, buf, true), 0);
	assert_int_equal(uffd_stop(f->uffd, UFFD_WP), 0);
	store(f, 2, 9);
	assert_int_equal(f->writes, 2);
	assert_int_equal(load(f, 10), 11); /* missing goes on */
	fixture_free(f);
}

static void test_both_modes_at_once(void **state)
{
	(void)state;
	check_both(false);
	check_both(true);
}

/* The other way round: the supplier ends while writes are still watched. */
static void test_missing_stops_under_wp(void **state)
{
	struct fixture *f = fixture_new(false);

	(void)state;
	store(f, 0, 1);
	assert_int_equal(uffd_start(f->uffd, UFFD_WP, let_write, f), 0);
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, supply, f), 0);
	assert_int_equal(uffd_protect(f->uffd, 0, 1), 0);
	assert_int_equal(uffd_stop(f->uffd, UFFD_MISSING), 0);
	assert_int_equal(load(f, 20), 0);
	assert_int_equal(f->missing, 0);
	store(f, 0, 2);
	assert_int_equal(f->writes, 1);
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, supply, f), 0);
	assert_int_equal(load(f, 21), 22);
	fixture_free(f);
}

struct toucher {
	struct fixture *f;
	unsigned int page;
	bool write;
	pthread_t thread;
};

static void *touch(void *arg)
{
	struct toucher *t = arg;

	if (t->write)
		store(t->f, t->page, 77);
	else
		load(t->f, t->page);
	return NULL;
}

static void wait_missing(struct fixture *f, unsigned int n)
{
	while (atomic_load(&f->missing) < n)
		usleep(1000);
}

static void start_toucher(struct toucher *t, struct fixture *f,
			  unsigned int page, bool write)
{
	*t = (struct toucher){ .f = f, .page = page, .write = write };
	assert_int_equal(pthread_create(&t->thread, NULL, touch, t), 0);
}

static void test_stop_wakes_who_waits(void **state)
{
	struct fixture *f = fixture_new(false);
	struct toucher t[3];

	(void)state;
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, count_only, f), 0);
	start_toucher(&t[0], f, 1, false);
	start_toucher(&t[1], f, 2, true);
	wait_missing(f, 2);
	assert_int_equal(uffd_stop(f->uffd, UFFD_MISSING), 0);
	pthread_join(t[0].thread, NULL);
	pthread_join(t[1].thread, NULL);
	assert_int_equal(load(f, 2), 77);

	assert_int_equal(uffd_start(f->uffd, UFFD_WP, count_only, f), 0);
	assert_int_equal(uffd_protect(f->uffd, 2, 1), 0);
	start_toucher(&t[2], f, 2, true);
	wait_missing(f, 3);
	assert_int_equal(uffd_stop(f->uffd, UFFD_WP), 0);
	pthread_join(t[2].thread, NULL);
	fixture_free(f);
}

static void test_free_wakes_who_waits(void **state)
{
	struct fixture *f = fixture_new(true);
	struct toucher t;

	(void)state;
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, count_only, f), 0);
	start_toucher(&t, f, 1, true);
	wait_missing(f, 1);
	uffd_free(f->uffd);
	f->uffd = NULL;
	pthread_join(t.thread, NULL);
	assert_int_equal(load(f, 1), 77);
	fixture_free(f);
}

/* A page that is there is never replaced, and the run goes on behind it. */
static void check_exist(bool memfd)
{
	struct fixture *f = fixture_new(memfd);
	static uint8_t buf[8 * PAGE];

	memset(buf, 5, sizeof(buf));
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, supply, f), 0);
	assert_int_equal(load(f, 3), 4);
	assert_int_equal(uffd_copy(f->uffd, 0, 8, buf, false), 0);
	for (unsigned int i = 0; i < 8; i++)
		assert_int_equal(load(f, i), i == 3 ? 4 : 5);
	assert_int_equal(uffd_zero(f->uffd, 6, 4), 0);
	assert_int_equal(load(f, 7), 5);
	assert_int_equal(load(f, 8), 0);
	assert_int_equal(f->missing, 1);
	assert_int_equal(uffd_copy(f->uffd, PAGES, 1, buf, false), -EINVAL);
	assert_int_equal(uffd_copy(f->uffd, 1, UINT64_MAX, buf, false),
			 -EINVAL);
	fixture_free(f);
}

static void test_copy_never_replaces(void **state)
{
	(void)state;
	check_exist(false);
	check_exist(true);
}

/* KVM and disks touch guest memory from inside the kernel. */
static void test_kernel_access_faults_too(void **state)
{
	struct fixture *f = fixture_new(false);
	int pipe_fds[2];

	(void)state;
	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, supply, f), 0);
	assert_int_equal(write(pipe_fds[1], "abc", 3), 3);
	assert_int_equal(read(pipe_fds[0], f->base + 30 * PAGE, 3), 3);
	assert_memory_equal(f->base + 30 * PAGE, "abc\x1f", 4);
	assert_int_equal(write(pipe_fds[1], f->base + 31 * PAGE, 3), 3);
	assert_int_equal(f->missing, 2);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	fixture_free(f);
}

static void test_probe_agrees(void **state)
{
	struct uffd_caps caps;

	(void)state;
	uffd_probe(&caps);
	assert_true(caps.usable && caps.wp && caps.shmem);
	assert_string_equal(caps.why, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_missing_pages_are_supplied),
		cmocka_unit_test(test_first_writes_are_told),
		cmocka_unit_test(test_both_modes_at_once),
		cmocka_unit_test(test_missing_stops_under_wp),
		cmocka_unit_test(test_stop_wakes_who_waits),
		cmocka_unit_test(test_free_wakes_who_waits),
		cmocka_unit_test(test_copy_never_replaces),
		cmocka_unit_test(test_kernel_access_faults_too),
		cmocka_unit_test(test_probe_agrees),
	};
	struct uffd_caps caps;

	uffd_probe(&caps);
	if (!caps.usable) {
		printf("skipped: %s\n", caps.why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
