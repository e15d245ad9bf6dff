/*
 * Pages that are moved in: each is there, right, and nobody who waits for it is left
 * behind, whatever the kernel could move and what had to be copied.
 */
#include <errno.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/huge_bytes.h"
#include "uffd/uffd.h"

#define PAGE       4096u
#define HUGE_BYTES (2u << 20)
#define HUGE_PAGES (HUGE_BYTES / PAGE)
#define BLOCKS     4u
#define BYTES      (BLOCKS * HUGE_BYTES)
#define PAGES      (BLOCKS * HUGE_PAGES)
#define LANES      2u
#define PATIENCE_S 60

struct area {
	uint8_t *reserved;
	uint8_t *base; /* at a huge page's boundary */
};

static struct uffd_caps caps;

struct fixture {
	struct area ram, src;
	struct uffd *uffd;
	atomic_uint missing;
};

static struct area map(int flags, int fd)
{
	struct area a;

	a.reserved = mmap(NULL, BYTES + HUGE_BYTES, PROT_READ | PROT_WRITE,
			  flags | MAP_NORESERVE, fd, 0);
	assert_ptr_not_equal(a.reserved, MAP_FAILED);
	a.base = a.reserved + -(uintptr_t)a.reserved % HUGE_BYTES;
	return a;
}

static void unmap(const struct area *a)
{
	munmap(a->reserved, BYTES + HUGE_BYTES);
}

static void count(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)page;
	(void)tid;
	atomic_fetch_add(&f->missing, 1);
}

/* Never 0, and not the same for neighbours. */
static uint8_t value_of(uint64_t page)
{
	return (uint8_t)(page % 251 + 1);
}

static void fill_src(struct fixture *f)
{
	for (uint64_t i = 0; i < PAGES; i++)
		memset(f->src.base + i * PAGE, value_of(i), PAGE);
}

static struct fixture *fixture_new(struct area ram)
{
	struct fixture *f = calloc(1, sizeof(*f));
	char *err = NULL;

	assert_non_null(f);
	f->ram = ram;
	f->src = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	madvise(f->src.base, BYTES, MADV_HUGEPAGE);
	madvise(f->ram.base, BYTES, MADV_NOHUGEPAGE);
	fill_src(f);
	assert_int_equal(
		uffd_new(f->ram.base, BYTES, PAGE, LANES, &f->uffd, &err), 0);
	assert_int_equal(uffd_start(f->uffd, UFFD_MISSING, count, f), 0);
	return f;
}

static struct fixture *anon_fixture_new(void)
{
	return fixture_new(map(MAP_PRIVATE | MAP_ANONYMOUS, -1));
}

static void fixture_free(struct fixture *f)
{
	uffd_free(f->uffd);
	unmap(&f->ram);
	unmap(&f->src);
	free(f);
}

static uint8_t load(struct fixture *f, uint64_t page)
{
	return *(volatile uint8_t *)(f->ram.base + page * PAGE + PAGE - 1);
}

static void expect_values(struct fixture *f, uint64_t page, uint64_t end)
{
	for (; page < end; page++)
		assert_int_equal(load(f, page), value_of(page));
}

static void test_huge_pages_stay_huge(void **state)
{
	struct fixture *f = anon_fixture_new();
	uint64_t huge = huge_bytes();

	(void)state;
	assert_int_equal(uffd_move(f->uffd, 0, PAGES, f->src.base), 0);
	expect_values(f, 0, PAGES);
	assert_int_equal(f->missing, 0);
	madvise(f->src.base, BYTES, MADV_DONTNEED);
	assert_int_equal(uffd_can_move(f->uffd), caps.move);
	if (caps.move && huge >= BYTES)
		assert_true(huge_bytes() >= BYTES);
	expect_values(f, 0, PAGES);
	fixture_free(f);
}

/* Here before, at the start, in the middle and at the end of what is moved. */
static void test_what_is_there_stays(void **state)
{
	static const uint64_t there[] = { 0, HUGE_PAGES + 7, PAGES - 1 };
	struct fixture *f = anon_fixture_new();

	(void)state;
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(uffd_zero(f->uffd, there[i], 1), 0);
	assert_int_equal(uffd_move(f->uffd, 0, PAGES, f->src.base), 0);
	for (uint64_t page = 0, i = 0; i < 3; page = there[i++] + 1) {
		expect_values(f, page, there[i]);
		assert_int_equal(load(f, there[i]), 0);
	}
	assert_int_equal(f->missing, 0);
	fixture_free(f);
}

/* Neither begins nor ends where huge pages do. */
static void test_odd_ranges(void **state)
{
	struct fixture *f = anon_fixture_new();
	const uint64_t first = 100, nr = PAGES - 200;

	(void)state;
	assert_int_equal(
		uffd_move(f->uffd, first, nr, f->src.base + first * PAGE), 0);
	assert_int_equal(uffd_zero(f->uffd, 0, first), 0);
	assert_int_equal(uffd_zero(f->uffd, first + nr, 100), 0);
	expect_values(f, first, first + nr);
	assert_int_equal(load(f, first - 1), 0);
	assert_int_equal(load(f, first + nr), 0);
	assert_int_equal(uffd_move(f->uffd, PAGES, 1, f->src.base), -EINVAL);
	assert_int_equal(uffd_move(f->uffd, PAGES, 0, f->src.base), 0);
	fixture_free(f);
}

static void test_a_file_is_copied_to(void **state)
{
	int fd = memfd_create("uffd_move_test", MFD_CLOEXEC);
	struct fixture *f;

	(void)state;
	assert_int_equal(ftruncate(fd, BYTES + HUGE_BYTES), 0);
	f = fixture_new(map(MAP_SHARED, fd));
	close(fd);
	assert_int_equal(uffd_move(f->uffd, 0, PAGES, f->src.base), 0);
	assert_false(uffd_can_move(f->uffd));
	assert_int_equal(uffd_move(f->uffd, 0, PAGES, f->src.base), 0);
	expect_values(f, 0, PAGES);
	fixture_free(f);
}

struct waiter {
	struct fixture *f;
	uint64_t page;
	uint8_t seen;
	pthread_t thread;
};

static void *wait_for_page(void *arg)
{
	struct waiter *w = arg;

	w->seen = load(w->f, w->page);
	return NULL;
}

static void await_missing(struct fixture *f, unsigned int nr)
{
	const struct timespec tick = { .tv_nsec = 1000000 };

	for (int i = 0; f->missing < nr && i < PATIENCE_S * 1000; i++)
		nanosleep(&tick, NULL);
	assert_int_equal(f->missing, nr);
}

static void check_wakes(uint64_t there)
{
	struct fixture *f = anon_fixture_new();
	struct waiter w[BLOCKS];

	if (there < PAGES)
		assert_int_equal(uffd_zero(f->uffd, there, 1), 0);
	for (unsigned int i = 0; i < BLOCKS; i++) {
		w[i] = (struct waiter){ f, i * HUGE_PAGES + 77 * i, 0, 0 };
		assert_int_equal(pthread_create(&w[i].thread, NULL,
						wait_for_page, &w[i]),
				 0);
	}
	await_missing(f, BLOCKS);
	assert_int_equal(uffd_move(f->uffd, 0, PAGES, f->src.base), 0);
	for (unsigned int i = 0; i < BLOCKS; i++) {
		pthread_join(w[i].thread, NULL);
		assert_int_equal(w[i].seen, value_of(w[i].page));
	}
	fixture_free(f);
}

static void test_who_waits_is_woken(void **state)
{
	(void)state;
	check_wakes(PAGES);
	check_wakes(HUGE_PAGES + 80); /* moved in pieces */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_huge_pages_stay_huge),
		cmocka_unit_test(test_what_is_there_stays),
		cmocka_unit_test(test_odd_ranges),
		cmocka_unit_test(test_a_file_is_copied_to),
		cmocka_unit_test(test_who_waits_is_woken),
	};

	uffd_probe(&caps);
	if (!caps.usable) {
		printf("skipped: %s\n", caps.why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
