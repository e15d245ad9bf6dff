/* Who reads in order is followed, who jumps about is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migrate/follow.h"

#define STRIPE_PAGES 512u
#define READERS      MIG_FOLLOW_FAULTS

static int setup(void **state)
{
	static struct mig_follow f;

	mig_follow_init(&f, STRIPE_PAGES);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	mig_follow_fini(*state);
	return 0;
}

/* Where the bulk goes on from after a fault on the nth page of that stripe. */
static uint64_t after_fault(struct mig_follow *f, uint64_t stripe, uint64_t nth)
{
	mig_follow_fault(f, stripe * STRIPE_PAGES + nth);
	return mig_follow_at(f);
}

static void test_a_reader_is_followed(void **state)
{
	struct mig_follow *f = *state;

	assert_int_equal(mig_follow_at(f), 0);
	assert_int_equal(after_fault(f, 100, 5), 0);
	assert_int_equal(after_fault(f, 100, 4), 100);
	assert_int_equal(after_fault(f, 101, 511), 101);
	assert_int_equal(after_fault(f, 102, 0), 102);
	/* Not one that leaves something out, or goes back. */
	assert_int_equal(after_fault(f, 104, 0), 102);
	assert_int_equal(after_fault(f, 101, 0), 102);
}

static void test_from_the_first_page_on(void **state)
{
	struct mig_follow *f = *state;

	assert_int_equal(after_fault(f, 7, 0), 0);
	assert_int_equal(after_fault(f, 8, 0), 8);
	assert_int_equal(after_fault(f, 0, 0), 8);
	assert_int_equal(after_fault(f, 1, 0), 1);
}

static void test_a_page_asked_for_twice_is_no_reader(void **state)
{
	struct mig_follow *f = *state;

	assert_int_equal(after_fault(f, 100, 5), 0);
	assert_int_equal(after_fault(f, 100, 5), 0);
	assert_int_equal(after_fault(f, 100, 5), 0);
	assert_int_equal(after_fault(f, 100, 6), 100);
}

static void test_as_many_readers_as_have_a_lane(void **state)
{
	struct mig_follow *f = *state;

	for (uint64_t i = 0; i < 50; i++) {
		for (uint64_t r = 0; r < READERS; r++) {
			uint64_t stripe = r * 1000 + i;

			assert_int_equal(after_fault(f, stripe, i),
					 i ? stripe : 0);
		}
	}
}

static uint64_t stray(uint64_t i)
{
	return 1000 + i * 377 % 1000 * 3;
}

/* A fault of his own now and then is enough. */
static void test_a_reader_among_others_who_jump_about(void **state)
{
	struct mig_follow *f = *state;
	uint64_t n = 0;

	after_fault(f, 99, 0);
	for (uint64_t stripe = 100; stripe < 200; stripe++) {
		assert_int_equal(after_fault(f, stripe, 0), stripe);
		for (unsigned int i = 1; i < MIG_FOLLOW_FAULTS; i++)
			assert_int_equal(after_fault(f, stray(n++), 0), stripe);
	}
	/* One more, and he is forgotten. */
	after_fault(f, stray(n), 0);
	assert_int_equal(after_fault(f, 200, 0), 199);
	assert_int_equal(after_fault(f, 201, 0), 201);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_reader_is_followed),
		TEST(test_from_the_first_page_on),
		TEST(test_a_page_asked_for_twice_is_no_reader),
		TEST(test_as_many_readers_as_have_a_lane),
		TEST(test_a_reader_among_others_who_jump_about),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
