/* The bandwidth limit: how long it holds back at least, and that it lets go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/rate.h"

#define MIB (UINT64_C(1) << 20)

static bool go_on(void *ctx)
{
	(void)ctx;
	return true;
}

static bool give_up(void *ctx)
{
	(void)ctx;
	return false;
}

static uint64_t charge_us(struct mig_rate *r, uint64_t bytes)
{
	uint64_t begin_us = mig_now_us();

	mig_rate_charge(r, bytes / 3);
	mig_rate_charge(r, bytes - bytes / 3);
	mig_rate_wait(r, go_on, NULL);
	return mig_now_us() - begin_us;
}

/* Whether it waited before or not: an idle line saves up 50 ms, and no more. */
static void test_what_is_owed_takes_its_time(void **state)
{
	struct mig_rate r;

	(void)state;
	mig_rate_init(&r, 100 * MIB);
	mig_rate_wait(&r, go_on, NULL); /* nothing is owed */
	for (int i = 0; i < 3; i++) {
		usleep(150000);
		assert_true(charge_us(&r, 20 * MIB) >= 149000);
	}
	mig_rate_fini(&r);
}

static void test_without_a_limit_nothing_is_owed(void **state)
{
	struct mig_rate r;

	(void)state;
	mig_rate_init(&r, 0);
	charge_us(&r, UINT64_C(1) << 60);
	/* Nor later, when there is one. */
	mig_rate_set(&r, 1);
	mig_rate_wait(&r, go_on, NULL);
	mig_rate_fini(&r);
}

static void *waiter(void *arg)
{
	mig_rate_wait(arg, go_on, NULL);
	return NULL;
}

/* A million seconds' worth, and somebody who waits for it. */
static void test_another_limit_counts_at_once(void **state)
{
	static const uint64_t others[] = { 0, UINT64_C(1) << 40 };
	pthread_t thread;
	struct mig_rate r;

	(void)state;
	for (int i = 0; i < 2; i++) {
		mig_rate_init(&r, 1);
		mig_rate_charge(&r, 1000000);
		assert_int_equal(pthread_create(&thread, NULL, waiter, &r), 0);
		usleep(10000);
		mig_rate_set(&r, others[i]);
		assert_int_equal(pthread_join(thread, NULL), 0);
		mig_rate_fini(&r);
	}
}

static void test_a_lower_limit_counts(void **state)
{
	struct mig_rate r;
	uint64_t begin_us;

	(void)state;
	mig_rate_init(&r, UINT64_C(1) << 40);
	begin_us = mig_now_us();
	mig_rate_set(&r, MIB);
	charge_us(&r, MIB / 10);
	assert_true(mig_now_us() - begin_us >= 99000);
	mig_rate_fini(&r);
}

static void test_who_gives_up_need_not_wait(void **state)
{
	struct mig_rate r;

	(void)state;
	mig_rate_init(&r, 1);
	mig_rate_charge(&r, 1000000);
	mig_rate_wait(&r, give_up, NULL);
	mig_rate_fini(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_owed_takes_its_time),
		cmocka_unit_test(test_without_a_limit_nothing_is_owed),
		cmocka_unit_test(test_another_limit_counts_at_once),
		cmocka_unit_test(test_a_lower_limit_counts),
		cmocka_unit_test(test_who_gives_up_need_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
