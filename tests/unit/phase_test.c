/* The phase table: what it promises about who may run the guest. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "migrate/phase.h"

static struct mig_phases at(enum mig_phase phase)
{
	struct mig_phases p = { phase };

	return p;
}

/* Phases from which the guest may run at the source again at once. */
static bool is_before_token(enum mig_phase phase)
{
	return phase == MIG_SETUP || phase == MIG_PRECOPY ||
	       phase == MIG_SWITCHOVER;
}

static void test_lost_before_the_token_fails(void **state)
{
	(void)state;
	for (int ph = MIG_SETUP; ph <= MIG_SWITCHOVER; ph++) {
		struct mig_phases p = at((enum mig_phase)ph);

		assert_int_equal(mig_phase_step(&p, ON_LOST), 0);
		assert_int_equal(mig_phase(&p), MIG_FAILED);
	}
}

/* Once the token has gone, a lost link pauses us; it never resumes the source. */
static void test_lost_after_the_token_pauses(void **state)
{
	(void)state;
	for (int ph = MIG_COMMIT; ph <= MIG_POSTCOPY; ph++) {
		struct mig_phases p = at((enum mig_phase)ph);

		assert_int_equal(mig_phase_step(&p, ON_LOST), 0);
		assert_int_equal(mig_phase(&p), MIG_PAUSED);
		assert_int_equal(mig_phase_step(&p, ON_AGREED), -EPROTO);
		assert_int_equal(mig_phase_step(&p, ON_CANCEL), -EPROTO);
		assert_int_equal(mig_phase(&p), MIG_PAUSED);
	}
}

/* The only ways to FAILED or CANCELLED after the token. */
static void test_only_proof_leads_back(void **state)
{
	(void)state;
	for (int ph = MIG_SETUP; ph < MIG_NR_PHASES; ph++) {
		for (int ev = 0; ev < MIG_NR_EVENTS; ev++) {
			struct mig_phases p = at((enum mig_phase)ph);

			if (is_before_token((enum mig_phase)ph) ||
			    mig_phase_step(&p, (enum mig_event)ev) < 0)
				continue;
			if (mig_phase(&p) == MIG_FAILED)
				assert_int_equal(ev, ON_NEVER_RAN);
			if (mig_phase(&p) == MIG_CANCELLED)
				assert_int_equal(ph, MIG_COMMIT);
		}
	}
}

static void test_an_end_is_an_end(void **state)
{
	(void)state;
	for (int ph = MIG_SETUP; ph < MIG_NR_PHASES; ph++) {
		struct mig_phases p = at((enum mig_phase)ph);

		if (!mig_phase_is_end((enum mig_phase)ph))
			continue;
		for (int ev = 0; ev < MIG_NR_EVENTS; ev++)
			assert_int_equal(mig_phase_step(&p, (enum mig_event)ev),
					 -EPROTO);
		assert_int_equal(mig_phase(&p), ph);
	}
}

static void test_the_straight_way(void **state)
{
	static const enum mig_event way[] = {
		ON_AGREED,  ON_STOPPED, ON_REVIVED,  ON_STOPPED, ON_TOKEN,
		ON_RUNNING, ON_LOST,    ON_REJOINED, ON_DRAINED
	};
	struct mig_phases p = at(MIG_SETUP);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(way) / sizeof(way[0]); i++)
		assert_int_equal(mig_phase_step(&p, way[i]), 0);
	assert_int_equal(mig_phase(&p), MIG_COMPLETE);
}

static void test_every_phase_has_a_name(void **state)
{
	(void)state;
	for (int ph = MIG_SETUP; ph < MIG_NR_PHASES; ph++)
		assert_string_not_equal(mig_phase_name((enum mig_phase)ph),
					"?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost_before_the_token_fails),
		cmocka_unit_test(test_lost_after_the_token_pauses),
		cmocka_unit_test(test_only_proof_leads_back),
		cmocka_unit_test(test_an_end_is_an_end),
		cmocka_unit_test(test_the_straight_way),
		cmocka_unit_test(test_every_phase_has_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
