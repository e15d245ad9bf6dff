/* Who reads in order is followed, who jumps about is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "migrate/follow.h"

#define READERS MIG_FOLLOW_FAULTS

/* Where the bulk goes on from after a fault there. */
static uint64_t after_fault(struct mig_follow *f, uint64_t stripe)
{
	mig_follow_fault(f, stripe);
	return mig_follow_at(f);
}

static void test_a_reader_is_followed(void **state)
{
	struct mig_follow f = { 0 };

	(void)state;
	assert_int_equal(mig_follow_at(&f), 0);
	assert_int_equal(after_fault(&f, 100), 0);
	assert_int_equal(after_fault(&f, 100), 100);
	assert_int_equal(after_fault(&f, 101), 101);
	assert_int_equal(after_fault(&f, 101), 101);
	assert_int_equal(after_fault(&f, 102), 102);
	/* Not one that leaves something out, or goes back. */
	assert_int_equal(after_fault(&f, 104), 102);
	assert_int_equal(after_fault(&f, 99), 102);
}

static void test_from_the_first_stripe_on(void **state)
{
	struct mig_follow f = { 0 };

	(void)state;
	mig_follow_fault(&f, 7);
	assert_int_equal(after_fault(&f, 8), 8);
	assert_int_equal(after_fault(&f, 0), 8);
	assert_int_equal(after_fault(&f, 1), 1);
}

static void test_as_many_readers_as_have_a_lane(void **state)
{
	struct mig_follow f = { 0 };

	(void)state;
	for (uint64_t i = 0; i < 50; i++) {
		for (uint64_t r = 0; r < READERS; r++) {
			uint64_t stripe = r * 1000 + i;
			uint64_t at = after_fault(&f, stripe);

			assert_int_equal(at, i ? stripe : 0);
		}
	}
}

static void test_nobody_who_jumps_about(void **state)
{
	struct mig_follow f = { 0 };

	(void)state;
	mig_follow_fault(&f, 500);
	mig_follow_fault(&f, 501);
	for (uint64_t i = 0; i < 1000; i++)
		assert_int_equal(after_fault(&f, 1000 + i * 377 % 1000 * 3),
				 501);
	/* By then the one who read in order is forgotten. */
	assert_int_equal(after_fault(&f, 502), 501);
	assert_int_equal(after_fault(&f, 503), 503);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_reader_is_followed),
		cmocka_unit_test(test_from_the_first_stripe_on),
		cmocka_unit_test(test_as_many_readers_as_have_a_lane),
		cmocka_unit_test(test_nobody_who_jumps_about),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
