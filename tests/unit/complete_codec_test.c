/* COMPLETE: what one end says of its faults the other reads, and no more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "migrate/complete_codec.h"

static void test_there_and_back(void **state)
{
	struct mig_stats out = {
		.faults = { .all = { 9, 10, 20, 30 },
			    .request = { 9, 1, 2, 3 },
			    .wire = { 9, 4, 5, 6 },
			    .place = { 9, 7, 8, 9 },
			    .nr_cpus = 2,
			    .blocked_us = { 100, 200 },
			    .others_us = 300 },
		.pages_stale = 40,
		.pages_duplicate = 50,
	};
	Vmmd__Complete msg = VMMD__COMPLETE__INIT;
	struct mig_stats in = { .rounds = 0 };
	struct mig_faults_msg parts;

	(void)state;
	mig_complete_fill(&out, &msg, &parts);
	mig_complete_read(&msg, &in);
	assert_memory_equal(&in.faults, &out.faults, sizeof(in.faults));
	assert_int_equal(in.pages_stale, 40);
	assert_int_equal(in.pages_duplicate, 50);
}

/* It says four numbers. */
static void test_an_older_receiver(void **state)
{
	Vmmd__Complete msg = VMMD__COMPLETE__INIT;
	struct mig_stats in = { .rounds = 0 };

	(void)state;
	msg.faults = 5;
	msg.fault_max_us = 6;
	mig_complete_read(&msg, &in);
	assert_int_equal(in.faults.all.count, 5);
	assert_int_equal(in.faults.all.max_us, 6);
	assert_int_equal(in.faults.wire.count, 0);
	assert_int_equal(in.faults.nr_cpus, 0);
}

static void test_more_vcpus_than_there_can_be(void **state)
{
	uint64_t blocked_us[VM_CPUS_MAX + 5];
	Vmmd__Complete msg = VMMD__COMPLETE__INIT;
	struct mig_stats in = { .pages_stale = 77 };

	(void)state;
	for (size_t i = 0; i < VM_CPUS_MAX + 5; i++)
		blocked_us[i] = i;
	msg.n_blocked_us = VM_CPUS_MAX + 5;
	msg.blocked_us = blocked_us;
	mig_complete_read(&msg, &in);
	assert_int_equal(in.faults.nr_cpus, VM_CPUS_MAX);
	assert_int_equal(in.faults.blocked_us[VM_CPUS_MAX - 1],
			 VM_CPUS_MAX - 1);
	assert_int_equal(in.pages_stale, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_an_older_receiver),
		cmocka_unit_test(test_more_vcpus_than_there_can_be),
	};

	return cmocka_run_group_tests_name("complete_codec", tests, NULL, NULL);
}
