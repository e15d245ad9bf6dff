/* When precopy ends: a promise about downtime, and no endless trying. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "migrate/converge.h"

#define MIB (1u << 20)

static struct mig_source_config config(enum mig_mode mode)
{
	struct mig_source_config cfg = {
		.mode = mode,
		.channels = 1,
		.downtime_limit_ms = 20,
	};

	return cfg;
}

/* 1 GB/s measured: 10 MB take 10 ms and fit in 20, 30 MB do not. */
static void test_fits_what_was_measured(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c;

	(void)state;
	mig_converge_init(&c, &cfg);
	assert_int_equal(
		mig_converge_next(&c, 30000000 / 4096, 1000 * MIB, 1000 * 1049),
		MIG_ANOTHER_ROUND);
	assert_int_equal(
		mig_converge_next(&c, 10000000 / 4096, 1000 * MIB, 1000 * 1049),
		MIG_SWITCH_PRECOPY);
}

/* The limit on bandwidth holds in the pause too. */
static void test_bandwidth_limit_counts(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c;

	(void)state;
	cfg.max_bandwidth = 10 * MIB;
	mig_converge_init(&c, &cfg);
	assert_int_equal(mig_converge_next(&c, 100, 1000 * MIB, 1000 * 1000),
			 MIG_ANOTHER_ROUND);
	assert_int_equal(mig_converge_next(&c, 20, 1000 * MIB, 1000 * 1000),
			 MIG_SWITCH_PRECOPY);
}

static void test_hybrid_gives_up_when_nothing_is_gained(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_HYBRID);
	struct mig_converge c;
	int rounds = 0;

	(void)state;
	mig_converge_init(&c, &cfg);
	while (mig_converge_next(&c, 1000000, 100 * MIB, 100000) ==
	       MIG_ANOTHER_ROUND)
		assert_true(++rounds < 10);
	assert_true(rounds >= 2);
}

static void test_hybrid_is_bounded_even_when_it_gains(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_HYBRID);
	uint64_t pages = UINT64_C(1) << 40;
	struct mig_converge c;
	int rounds = 0;

	(void)state;
	mig_converge_init(&c, &cfg);
	while (mig_converge_next(&c, pages, 100 * MIB, 100000) ==
	       MIG_ANOTHER_ROUND) {
		pages = pages / 10 * 6;
		assert_true(++rounds < 30);
	}
}

static void test_precopy_never_goes_postcopy(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c;
	int i;

	(void)state;
	mig_converge_init(&c, &cfg);
	for (i = 0; i < 1000; i++)
		assert_int_equal(
			mig_converge_next(&c, 1000000, 100 * MIB, 100000),
			MIG_ANOTHER_ROUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fits_what_was_measured),
		cmocka_unit_test(test_bandwidth_limit_counts),
		cmocka_unit_test(test_hybrid_gives_up_when_nothing_is_gained),
		cmocka_unit_test(test_hybrid_is_bounded_even_when_it_gains),
		cmocka_unit_test(test_precopy_never_goes_postcopy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
