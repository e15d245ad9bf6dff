/* vCPU threads have short time slices while they shall wake soon, and only then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/tiny_guest.h"
#include "vmm/slice.h"

#define SHORT_NS 100000

static const struct vm_config two_cpus = { .ram_bytes = 2 << 20, .nr_cpus = 2 };

enum slice {
	SLICE_SHORT,
	SLICE_NORMAL,
	SLICE_NONE, /* a real-time thread, as one may be in a pause */
};

/* SCHED_ATTR_SIZE_VER0, see slice.c. */
static enum slice slice_of(pid_t tid)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime_ns, deadline, period;
	} a;

	assert_int_equal(syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0), 0);
	if (a.policy != SCHED_OTHER)
		return SLICE_NONE;
	return a.runtime_ns == SHORT_NS ? SLICE_SHORT : SLICE_NORMAL;
}

static bool kernel_has_slices(void)
{
	pid_t me = gettid();
	bool ret = vm_thread_slice_short(me, true) &&
		   slice_of(me) == SLICE_SHORT;

	vm_thread_slice_short(me, false);
	return ret;
}

static bool all_have(const struct tiny *t, enum slice want)
{
	for (unsigned int i = 0; i < t->vm->nr_cpus; i++) {
		if (slice_of(t->vm->cpus[i].tid) != want)
			return false;
	}
	return true;
}

/* A thread that was parked sees to it when it goes on. */
static void wait_for(const struct tiny *t, enum slice want)
{
	for (int ms = 0; !all_have(t, want); ms++) {
		assert_true(ms < TINY_PATIENCE_S * 1000);
		tiny_sleep_ms(1);
	}
}

static struct tiny *start(bool wake_soon)
{
	struct tiny *t = tiny_new(&two_cpus);

	tiny_code(t, tiny_counting, sizeof(tiny_counting));
	vm_cpus_wake_soon(t->vm, wake_soon);
	assert_int_equal(vm_start(t->vm), 0);
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_not_equal(tiny_wait_change(t, DATA_GPA, 0), 0);
	return t;
}

static void test_said_while_they_run(void **state)
{
	struct tiny *t = start(false);

	(void)state;
	wait_for(t, SLICE_NORMAL);
	vm_cpus_wake_soon(t->vm, true);
	wait_for(t, SLICE_SHORT);
	vm_cpus_wake_soon(t->vm, false);
	wait_for(t, SLICE_NORMAL);
	tiny_free(t);
}

static void test_said_before_they_begin(void **state)
{
	struct tiny *t = start(true);

	(void)state;
	wait_for(t, SLICE_SHORT);
	tiny_free(t);
}

/* In a pause they may be real-time threads, which have no such slice. */
static void test_said_in_a_pause(void **state)
{
	struct tiny *t = start(false);

	(void)state;
	for (int i = 0; i < 20; i++) {
		bool on = i % 2 == 0;

		assert_int_equal(vm_pause(t->vm), 0);
		vm_cpus_wake_soon(t->vm, on);
		assert_int_equal(vm_resume(t->vm), 0);
		wait_for(t, on ? SLICE_SHORT : SLICE_NORMAL);
	}
	tiny_free(t);
}

static void test_threads_that_ended_are_left_alone(void **state)
{
	struct tiny *t = start(true);

	(void)state;
	wait_for(t, SLICE_SHORT);
	vm_cpus_stop(t->vm);
	assert_int_equal(t->vm->cpus[0].tid, 0);
	vm_cpus_wake_soon(t->vm, true);
	assert_int_equal(vm_start(t->vm), 0);
	assert_int_equal(vm_resume(t->vm), 0);
	wait_for(t, SLICE_SHORT); /* new threads, and they know */
	tiny_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_said_while_they_run),
		cmocka_unit_test(test_said_before_they_begin),
		cmocka_unit_test(test_said_in_a_pause),
		cmocka_unit_test(test_threads_that_ended_are_left_alone),
	};

	tiny_need_kvm();
	if (!kernel_has_slices()) {
		printf("SKIPPED: no time slices of threads' own here (Linux "
		       "6.12)\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
