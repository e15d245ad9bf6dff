/* Who waits for pages, and how long each part of it took. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/waits.h"

#define PART_US 20000

static struct mig_faults read_faults(const struct mig_waits *w)
{
	struct mig_faults f;

	mig_waits_read(w, &f);
	return f;
}

/* The parts of a wait add up to it. */
static void test_a_wait_and_its_parts(void **state)
{
	struct mig_waits w = { .nr = 0 };
	uint64_t since_us = mig_now_us(), arrived_us;
	struct mig_faults f;

	(void)state;
	mig_waits_add(&w, 7, since_us, 3);
	usleep(PART_US);
	mig_waits_asked(&w, 7);
	usleep(2 * PART_US);
	arrived_us = mig_now_us();
	usleep(PART_US);
	mig_waits_end(&w, 0, 8, arrived_us);
	f = read_faults(&w);
	assert_int_equal(w.nr, 0);
	assert_int_equal(f.all.count, 1);
	assert_true(f.request.max_us >= PART_US);
	assert_true(f.wire.max_us >= 2 * PART_US);
	assert_true(f.place.max_us >= PART_US);
	assert_int_equal(f.request.max_us + f.wire.max_us + f.place.max_us,
			 f.all.max_us);
	assert_int_equal(f.blocked_us[3], f.all.max_us);
	assert_int_equal(f.blocked_us[0], 0);
	mig_waits_fini(&w);
}

/* Two vCPUs wait for one page, each of them once; who is none counts too. */
static void test_whom_it_kept_waiting(void **state)
{
	struct mig_waits w = { .nr = 0 };
	uint64_t now_us = mig_now_us();
	struct mig_faults f;

	(void)state;
	for (int i = 0; i < 3; i++) {
		mig_waits_add(&w, 1, now_us - 100, 0);
		mig_waits_add(&w, 1, now_us - 50, 1);
		mig_waits_add(&w, 2, now_us - 500, -1);
	}
	assert_int_equal(w.nr, 3);
	mig_waits_end(&w, 1, 1, now_us);
	f = read_faults(&w);
	assert_int_equal(f.all.count, 2);
	assert_true(f.blocked_us[0] >= 100);
	assert_true(f.blocked_us[1] >= 50);
	mig_waits_end(&w, 2, 1, now_us);
	assert_int_equal(read_faults(&w).all.count, 3);
	mig_waits_fini(&w);
}

/* It was on its way when the fault came, or placed while it was asked for. */
static void test_what_comes_unasked_had_no_request(void **state)
{
	struct mig_waits w = { .nr = 0 };
	uint64_t since_us = mig_now_us();
	struct mig_faults f;

	(void)state;
	mig_waits_add(&w, 5, since_us, 0);
	mig_waits_end(&w, 5, 1, since_us - 1000);
	mig_waits_asked(&w, 5);
	f = read_faults(&w);
	assert_int_equal(f.all.count, 1);
	assert_int_equal(f.request.max_us, 0);
	assert_int_equal(f.wire.max_us, 0);
	assert_int_equal(f.place.max_us, f.all.max_us);
	mig_waits_fini(&w);
}

/* It was here before its fault thread could note that it had asked. */
static void test_the_parts_never_overlap(void **state)
{
	struct mig_waits w = { .nr = 0 };
	uint64_t since_us = mig_now_us() - 1000;
	struct mig_faults f;

	(void)state;
	mig_waits_add(&w, 5, since_us, -1);
	mig_waits_asked(&w, 5);
	mig_waits_end(&w, 5, 1, since_us + 10);
	f = read_faults(&w);
	assert_int_equal(f.request.max_us, 10);
	assert_int_equal(f.wire.max_us, 0);
	assert_int_equal(f.request.max_us + f.place.max_us, f.all.max_us);
	assert_int_equal(f.others_us, f.all.max_us);
	mig_waits_fini(&w);
}

static void test_what_was_no_fault_is_not_measured(void **state)
{
	struct mig_waits w = { .nr = 0 };

	(void)state;
	for (uint64_t page = 0; page < 1000; page++)
		mig_waits_add(&w, page, 0, -1);
	assert_int_equal(w.nr, 1000);
	mig_waits_end(&w, 100, 800, mig_now_us());
	assert_int_equal(w.nr, 200);
	assert_int_equal(read_faults(&w).all.count, 0);
	mig_waits_fini(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_wait_and_its_parts),
		cmocka_unit_test(test_whom_it_kept_waiting),
		cmocka_unit_test(test_what_comes_unasked_had_no_request),
		cmocka_unit_test(test_the_parts_never_overlap),
		cmocka_unit_test(test_what_was_no_fault_is_not_measured),
	};

	return cmocka_run_group_tests_name("waits", tests, NULL, NULL);
}
