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

/* 1 GB/s measured, and what a pause costs beside pages: nothing yet but the stop. */
static struct mig_converge fast(const struct mig_source_config *cfg)
{
	struct mig_converge c;

	mig_converge_init(&c, cfg);
	mig_converge_flow(&c, 1000000000, 1000000);
	return c;
}

static uint64_t pages(uint64_t bytes)
{
	return bytes / 4096;
}

/* 20 ms less the stop, a fifth of it kept back: 15 MB fit, 16 do not. */
static void test_fits_what_was_measured(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c = fast(&cfg);

	(void)state;
	assert_int_equal(mig_converge_next(&c, pages(16000000)),
			 MIG_ANOTHER_ROUND);
	assert_int_equal(mig_converge_next(&c, pages(15000000)),
			 MIG_SWITCH_PRECOPY);
}

/* Every part of the pause takes its time from the pages. */
static void test_all_costs_count(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	static const unsigned int times[MIG_NR_COSTS] = { 1, 1, 1, 1, 2 };

	(void)state;
	for (int cost = 0; cost < MIG_NR_COSTS; cost++) {
		struct mig_converge c = fast(&cfg);
		uint64_t left = 20000 - 5000 * times[cost];

		if (cost != MIG_COST_STOP)
			left -= 500;
		left = left * 8 / 10 * 1000;
		mig_converge_cost(&c, (enum mig_cost)cost, 5000);
		assert_int_equal(mig_converge_next(&c, pages(left + 100000)),
				 MIG_ANOTHER_ROUND);
		assert_int_equal(mig_converge_next(&c, pages(left - 100000)),
				 MIG_SWITCH_PRECOPY);
	}
}

/* One slow sync is remembered for a while, not for ever. */
static void test_peaks_fade(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c = fast(&cfg);

	(void)state;
	mig_converge_cost(&c, MIG_COST_SYNC, 19000);
	mig_converge_cost(&c, MIG_COST_SYNC, 0);
	assert_int_equal(mig_converge_next(&c, pages(10000000)),
			 MIG_ANOTHER_ROUND);
	for (int i = 0; i < 10; i++)
		mig_converge_cost(&c, MIG_COST_SYNC, 0);
	assert_int_equal(mig_converge_next(&c, pages(10000000)),
			 MIG_SWITCH_PRECOPY);
}

/* The slower of the last two rounds is what the pause is reckoned with. */
static void test_a_slow_round_counts(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c = fast(&cfg);

	(void)state;
	mig_converge_flow(&c, 10000000, 100000);
	assert_int_equal(mig_converge_next(&c, pages(10000000)),
			 MIG_ANOTHER_ROUND);
	mig_converge_flow(&c, 10000000, 10000);
	assert_int_equal(mig_converge_next(&c, pages(10000000)),
			 MIG_ANOTHER_ROUND);
	mig_converge_flow(&c, 10000000, 10000);
	assert_int_equal(mig_converge_next(&c, pages(10000000)),
			 MIG_SWITCH_PRECOPY);
}

/* A host that is dearer than the limit can be left all the same. */
static void test_a_few_pages_always_fit(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c = fast(&cfg);

	(void)state;
	mig_converge_cost(&c, MIG_COST_STATE, 100000);
	assert_int_equal(mig_converge_next(&c, pages(1000000)),
			 MIG_SWITCH_PRECOPY);
	assert_false(mig_converge_too_much(&c, pages(1000000), 100000));
	assert_true(mig_converge_too_much(&c, pages(3000000), 100000));
}

/* In the pause: what has passed and what is still to come leave the room. */
static void test_too_much(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c = fast(&cfg);

	(void)state;
	mig_converge_cost(&c, MIG_COST_LOAD, 3000);
	mig_converge_cost(&c, MIG_COST_RTT, 1000);
	assert_false(mig_converge_too_much(&c, pages(9900000), 5000));
	assert_true(mig_converge_too_much(&c, pages(10100000), 5000));
}

/* The limit on bandwidth holds in the pause too. */
static void test_bandwidth_limit_counts(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c;

	(void)state;
	cfg.max_bandwidth = 10 * MIB;
	c = fast(&cfg);
	assert_int_equal(mig_converge_next(&c, 100), MIG_ANOTHER_ROUND);
	assert_int_equal(mig_converge_next(&c, 20), MIG_SWITCH_PRECOPY);
}

/* 5 MB in 5 ms fit into 20 ms, whatever the line did when it was held back. */
static void test_another_bandwidth_limit_is_another_line(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c;

	(void)state;
	cfg.max_bandwidth = 10000000;
	mig_converge_init(&c, &cfg);
	mig_converge_flow(&c, 1000000000, 100000000);
	assert_int_equal(mig_converge_next(&c, pages(5000000)),
			 MIG_ANOTHER_ROUND);
	c.max_bandwidth = 0;
	assert_int_equal(mig_converge_next(&c, pages(5000000)),
			 MIG_ANOTHER_ROUND);
	/* Half of it at the old rate. */
	mig_converge_flow(&c, 5000000, 252500);
	assert_int_equal(mig_converge_next(&c, pages(5000000)),
			 MIG_ANOTHER_ROUND);
	mig_converge_flow(&c, 5000000, 5000);
	assert_int_equal(mig_converge_next(&c, pages(5000000)),
			 MIG_SWITCH_PRECOPY);
}

static void test_hybrid_gives_up_when_nothing_is_gained(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_HYBRID);
	struct mig_converge c = fast(&cfg);
	int rounds = 0;

	(void)state;
	while (mig_converge_next(&c, 1000000) == MIG_ANOTHER_ROUND)
		assert_true(++rounds < 10);
	assert_true(rounds >= 2);
}

/* Over a slow line: 100 MB/s, so 25000 pages take 1.024 s. */
static struct mig_converge slow(void)
{
	struct mig_source_config cfg = config(MIG_MODE_HYBRID);
	struct mig_converge c;

	mig_converge_init(&c, &cfg);
	mig_converge_flow(&c, 1000000000, 10000000);
	return c;
}

static void test_a_window_is_as_long_as_the_next_round(void **state)
{
	struct mig_converge c = slow();

	(void)state;
	assert_false(mig_converge_window(&c, 20000, 1000000, 1e6 + 1));
	assert_int_equal(mig_converge_next(&c, 25000), MIG_ANOTHER_ROUND);
	assert_true(mig_converge_window(&c, 20000, 1000000, 1e6));
	assert_int_equal(mig_converge_next(&c, 25000), MIG_SWITCH_POSTCOPY);
}

struct forecast {
	struct mig_window closed, running;
	uint64_t pages;
	enum mig_next next;
};

static void test_hybrid_gives_up_on_what_it_foresees(void **state)
{
	static const struct forecast forecasts[] = {
		/* 80 % again, and 60 %. */
		{ { 20000, 1024000 }, { 0, 0 }, 25000, MIG_SWITCH_POSTCOPY },
		{ { 15000, 1024000 }, { 0, 0 }, 25000, MIG_ANOTHER_ROUND },
		/* Twice as long as the round: half of it holds. */
		{ { 20000, 2048000 }, { 0, 0 }, 25000, MIG_ANOTHER_ROUND },
		{ { 40000, 2048000 }, { 0, 0 }, 25000, MIG_SWITCH_POSTCOPY },
		/* A burst that is over; one that goes on; who knows. */
		{ { 25000, 1024000 }, { 9, 500000 }, 25000, MIG_ANOTHER_ROUND },
		{ { 25000, 1024000 },
		  { 12000, 500000 },
		  25000,
		  MIG_SWITCH_POSTCOPY },
		{ { 25000, 1024000 },
		  { 9, 100000 },
		  25000,
		  MIG_SWITCH_POSTCOPY },
		/* So little that it fits into the pause. */
		{ { 480, 1000000 }, { 0, 0 }, 500, MIG_ANOTHER_ROUND },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(forecasts) / sizeof(*forecasts); i++) {
		const struct forecast *f = &forecasts[i];
		struct mig_converge c = slow();

		mig_converge_window(&c, f->closed.pages, f->closed.us, 0);
		if (f->running.us > 0)
			mig_converge_window(&c, f->running.pages, f->running.us,
					    1e9);
		print_message("%zu\n", i);
		assert_int_equal(mig_converge_next(&c, f->pages), f->next);
	}
}

static void test_a_forecast_is_for_one_round(void **state)
{
	struct mig_converge c = slow();

	(void)state;
	assert_true(mig_converge_window(&c, 15000, 1000000, 0));
	assert_int_equal(mig_converge_next(&c, 25000), MIG_ANOTHER_ROUND);
	assert_int_equal(mig_converge_next(&c, 15000), MIG_ANOTHER_ROUND);
}

/* What the line did under another limit, or for a moment only, is no reason. */
static void test_a_line_at_its_worst_is_not_given_up(void **state)
{
	struct mig_converge c = slow();

	(void)state;
	mig_converge_flow(&c, 2000000,
			  1000000); /* stood still for most of it */
	assert_true(mig_converge_window(&c, 40000, 6000000, 0));
	assert_int_equal(mig_converge_next(&c, 50000), MIG_ANOTHER_ROUND);
	c = slow();
	c.max_bandwidth = 1000000;
	mig_converge_flow(&c, 2000000, 1000000);
	assert_true(mig_converge_window(&c, 25000, 1000000, 0));
	assert_int_equal(mig_converge_next(&c, 25000), MIG_ANOTHER_ROUND);
}

static void test_hybrid_is_bounded_even_when_it_gains(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_HYBRID);
	struct mig_converge c = fast(&cfg);
	uint64_t left_pages = UINT64_C(1) << 40;
	int rounds = 0;

	(void)state;
	while (mig_converge_next(&c, left_pages) == MIG_ANOTHER_ROUND) {
		left_pages = left_pages / 10 * 6;
		assert_true(++rounds < 30);
	}
}

static void test_precopy_never_goes_postcopy(void **state)
{
	struct mig_source_config cfg = config(MIG_MODE_PRECOPY);
	struct mig_converge c = fast(&cfg);

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_int_equal(mig_converge_next(&c, 1000000),
				 MIG_ANOTHER_ROUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fits_what_was_measured),
		cmocka_unit_test(test_all_costs_count),
		cmocka_unit_test(test_peaks_fade),
		cmocka_unit_test(test_a_slow_round_counts),
		cmocka_unit_test(test_a_few_pages_always_fit),
		cmocka_unit_test(test_too_much),
		cmocka_unit_test(test_bandwidth_limit_counts),
		cmocka_unit_test(test_another_bandwidth_limit_is_another_line),
		cmocka_unit_test(test_hybrid_gives_up_when_nothing_is_gained),
		cmocka_unit_test(test_hybrid_gives_up_on_what_it_foresees),
		cmocka_unit_test(test_a_window_is_as_long_as_the_next_round),
		cmocka_unit_test(test_a_forecast_is_for_one_round),
		cmocka_unit_test(test_a_line_at_its_worst_is_not_given_up),
		cmocka_unit_test(test_hybrid_is_bounded_even_when_it_gains),
		cmocka_unit_test(test_precopy_never_goes_postcopy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
