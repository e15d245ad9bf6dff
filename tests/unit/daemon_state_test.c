/* What can be asked of a guest's process follows from its state, as a table. */
#include "cli/daemon_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const enum daemon_verb verbs[] = { DO_PAUSE,  DO_RESUME,   DO_MIGRATE,
					  DO_REJOIN, DO_SNAPSHOT, DO_CANCEL,
					  DO_TYPE,   DO_BALLOON,  DO_POWERDOWN,
					  DO_ADJUST };
#define NR_VERBS (sizeof(verbs) / sizeof(verbs[0]))

static unsigned int accepted(enum daemon_state state, enum daemon_stuck stuck)
{
	unsigned int set = 0;
	size_t i;

	for (i = 0; i < NR_VERBS; i++) {
		if (daemon_state_accepts(state, stuck, verbs[i]))
			set |= verbs[i];
	}
	return set;
}

/* Nothing that needs the guest is possible while there is none to have. */
static void test_no_guest_no_requests(void **state)
{
	(void)state;
	assert_int_equal(accepted(DAEMON_STARTING, NOT_STUCK), 0);
	assert_int_equal(accepted(DAEMON_INCOMING, NOT_STUCK), 0);
	assert_int_equal(accepted(DAEMON_STOPPING, NOT_STUCK), 0);
	assert_int_equal(accepted(DAEMON_ENDED, NOT_STUCK), 0);
}

/* One operation at a time has the guest; what it leaves is to end it, or type. */
static void test_an_operation_keeps_others_out(void **state)
{
	(void)state;
	assert_int_equal(accepted(DAEMON_WORKING, NOT_STUCK), DO_TYPE);
	assert_int_equal(accepted(DAEMON_SAVING, NOT_STUCK),
			 DO_CANCEL | DO_TYPE);
	assert_int_equal(accepted(DAEMON_MIGRATING, NOT_STUCK),
			 DO_CANCEL | DO_ADJUST | DO_TYPE);
}

/* It may run elsewhere: nothing but going on with the migration is allowed. */
static void test_a_guest_handed_over_is_never_run_here(void **state)
{
	(void)state;
	assert_int_equal(accepted(DAEMON_MIGRATION_PAUSED, NOT_STUCK),
			 DO_REJOIN);
}

static void test_an_idle_guest_takes_requests(void **state)
{
	const unsigned int idle = DO_PAUSE | DO_RESUME | DO_MIGRATE |
				  DO_SNAPSHOT | DO_TYPE | DO_BALLOON;

	(void)state;
	assert_int_equal(accepted(DAEMON_PAUSED, NOT_STUCK), idle);
	/* Who is paused cannot hear its power button. */
	assert_int_equal(accepted(DAEMON_RUNNING, NOT_STUCK),
			 idle | DO_POWERDOWN);
}

/* A vCPU may wait for a page that does not come: nothing may wait for it. */
static void test_a_stuck_arrival_cannot_be_parked(void **state)
{
	static const enum daemon_stuck stuck[] = { STUCK_MIGRATION,
						   STUCK_DAMAGE };
	size_t i, s;

	(void)state;
	for (i = 0; i < 2; i++) {
		for (s = 0; s < DAEMON_NR_STATES; s++)
			assert_int_equal(
				accepted((enum daemon_state)s, stuck[i]) &
					(DO_PAUSE | DO_SNAPSHOT | DO_MIGRATE),
				0);
	}
}

static void test_names(void **state)
{
	size_t i, j;

	(void)state;
	for (i = 0; i < DAEMON_NR_STATES; i++) {
		for (j = 0; j < i; j++)
			assert_string_not_equal(
				daemon_state_text((enum daemon_state)i,
						  NOT_STUCK),
				daemon_state_text((enum daemon_state)j,
						  NOT_STUCK));
	}
	assert_string_equal(daemon_state_text(DAEMON_RUNNING, STUCK_MIGRATION),
			    "paused-migration");
	assert_string_equal(daemon_state_text(DAEMON_PAUSED, STUCK_DAMAGE),
			    "paused-damaged");
	/* The end is the end, whatever was stuck. */
	assert_string_equal(daemon_state_text(DAEMON_STOPPING, STUCK_DAMAGE),
			    "stopping");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_no_guest_no_requests),
		cmocka_unit_test(test_an_operation_keeps_others_out),
		cmocka_unit_test(test_a_guest_handed_over_is_never_run_here),
		cmocka_unit_test(test_an_idle_guest_takes_requests),
		cmocka_unit_test(test_a_stuck_arrival_cannot_be_parked),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
