/* vCPUs run, stop, are saved, go on elsewhere, and end exactly once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/tiny_guest.h"

#define MIB (UINT64_C(1) << 20)

static const struct vm_config one_cpu = { .ram_bytes = 2 * MIB, .nr_cpus = 1 };
static const struct vm_config four_cpus = { .ram_bytes = 2 * MIB,
					    .nr_cpus = 4 };

/* reads port 0x500 for ever and reports any value that is not the next one */
static const uint8_t reading[] = {
	0xba, 0x00, 0x05, 0x00, 0x00,       /* mov edx, 0x500 */
	0xed,                               /* 1: in eax, dx */
	0x43,                               /* inc ebx */
	0x89, 0x1d, 0x00, 0x30, 0x00, 0x00, /* mov [0x3000], ebx */
	0x39, 0xd8,                         /* cmp eax, ebx */
	0x74, 0xf4,                         /* je 1b */
	0xef,                               /* out dx, eax */
	0xf4,                               /* hlt */
};

static const uint8_t talking[] = {
	0xba, 0x01, 0x05, 0x00, 0x00,      /* mov edx, 0x501 */
	0xb0, 'h',  0xee,                  /* out dx, 'h' */
	0xb0, 'i',  0xee,                  /* out dx, 'i' */
	0xbe, 0x40, 0x20, 0x00, 0x00,      /* mov esi, text */
	0xb9, 0x06, 0x00, 0x00, 0x00,      /* mov ecx, 6 */
	0xfc, 0xf3, 0x6e,                  /* cld; rep outsb */
	0xba, 0x00, 0x07, 0x00, 0x00,      /* mov edx, 0x700 */
	0xed,                              /* in eax, dx */
	0xa3, 0x00, 0x30, 0x00, 0x00,      /* mov [0x3000], eax */
	0xb8, 0x78, 0x56, 0x34, 0x12,      /* mov eax, 0x12345678 */
	0xa3, 0x10, 0x00, 0x00, 0xc8,      /* mov [0xc8000010], eax */
	0xa1, 0x20, 0x00, 0x00, 0xc8,      /* mov eax, [0xc8000020] */
	0xa3, 0x04, 0x30, 0x00, 0x00,      /* mov [0x3004], eax */
	0xba, 0x02, 0x05, 0x00, 0x00,      /* mov edx, 0x502 */
	0xee,                              /* out dx, al */
	0xf4, 0xeb, 0xfd,                  /* 1: hlt; jmp 1b */
	' ',  't',  'h',  'e',  'r',  'e', /* text, at 0x2040 */
};

/* an exception without an IDT */
static const uint8_t triple_faulting[] = {
	0x0f, 0x01, 0x1d, 0x00, 0x31, 0x00, 0x00, /* lidt [0x3100] */
	0x0f, 0x0b,                               /* ud2 */
};

/* INIT, then SIPI with vector 1, to all but itself */
static const uint8_t waking_all[] = {
	0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, /* mov dword [0xfee00300], */
	0x00, 0x45, 0x0c, 0x00,             /*	0xc4500 */
	0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, /* mov dword [0xfee00300], */
	0x01, 0x46, 0x0c, 0x00,             /*	0xc4601 */
	0x43,                               /* 1: inc ebx */
	0x89, 0x1d, 0x00, 0x30, 0x00, 0x00, /* mov [0x3000], ebx */
	0xeb, 0xf7,                         /* jmp 1b */
};

/* 16 bits: every vCPU counts at 0x3100 together, from where SIPI puts it */
static const uint8_t woken[] = {
	0xf0, 0x66, 0xff, 0x06, 0x00, 0x31, /* 1: lock inc dword [0x3100] */
	0xeb, 0xf8,                         /* jmp 1b */
};

static struct tiny *start(const struct vm_config *cfg, const uint8_t *code,
			  size_t bytes)
{
	struct tiny *t = tiny_new(cfg);

	tiny_code(t, code, bytes);
	assert_int_equal(vm_start(t->vm), 0);
	assert_false(vm_is_running(t->vm));
	return t;
}

static void test_starts_parked_and_stops(void **state)
{
	struct tiny *t = start(&one_cpu, tiny_counting, sizeof(tiny_counting));
	uint32_t seen;

	(void)state;
	tiny_sleep_ms(5);
	assert_int_equal(tiny_peek(t, DATA_GPA), 0);
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_not_equal(tiny_wait_change(t, DATA_GPA, 0), 0);
	assert_true(vm_is_running(t->vm));
	assert_int_equal(vm_pause(t->vm), 0);
	assert_int_equal(vm_pause(t->vm), 0);
	seen = tiny_peek(t, DATA_GPA);
	tiny_sleep_ms(5);
	assert_int_equal(tiny_peek(t, DATA_GPA), seen);
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_not_equal(tiny_wait_change(t, DATA_GPA, seen), seen);
	tiny_free(t); /* while it runs */
}

static void test_io_reaches_devices(void **state)
{
	struct tiny *t = start(&one_cpu, talking, sizeof(talking));

	(void)state;
	assert_int_equal(vm_resume(t->vm), 0);
	tiny_wait_event(t);
	assert_string_equal(t->text, "hi there");
	assert_int_equal(t->written, 0x12345678);
	assert_int_equal(tiny_peek(t, DATA_GPA), 0xffffffff);
	assert_int_equal(tiny_peek(t, DATA_GPA + 4), 0x12345678 + 0x20);
	assert_int_equal(vm_event_take(t->vm), VM_EVENT_POWEROFF);
	tiny_free(t);
}

/* No access is lost or done twice by stopping in the middle of it. */
static void test_pause_1000_times_in_port_io(void **state)
{
	struct tiny *t = start(&four_cpus, reading, sizeof(reading));

	(void)state;
	/* A vCPU that has not woken yet is parked at once: until some were at work. */
	for (int i = 0; i < 1000 || t->reads <= 100; i++) {
		assert_int_equal(vm_resume(t->vm), 0);
		if (i % 10 == 0)
			tiny_sleep_ms(1);
		assert_int_equal(vm_pause(t->vm), 0);
		/* Nothing half done: what was read is what was counted. */
		assert_int_equal(t->vm->cpus[0].io_pending, 0);
	}
	assert_int_equal(atomic_load(&t->wrong), 0);
	tiny_free(t);
}

static void test_aps_wait_for_sipi(void **state)
{
	struct tiny *t = tiny_new(&four_cpus);
	struct vm_state s;

	(void)state;
	assert_int_equal(vm_mem_write(t->vm->mem, AP_GPA, woken, sizeof(woken)),
			 0);
	tiny_code(t, waking_all, sizeof(waking_all));
	assert_int_equal(vm_start(t->vm), 0);
	assert_int_equal(vm_state_save(t->vm, &s, NULL), 0);
	assert_int_equal(s.cpus[0].mp_state.mp_state, KVM_MP_STATE_RUNNABLE);
	for (int i = 1; i < 4; i++)
		assert_int_equal(s.cpus[i].mp_state.mp_state,
				 KVM_MP_STATE_UNINITIALIZED);
	vm_state_fini(&s);
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_not_equal(tiny_wait_change(t, 0x3100, 0), 0);
	assert_int_equal(vm_pause(t->vm), 0);
	assert_int_equal(vm_state_save(t->vm, &s, NULL), 0);
	vm_state_fini(&s);
	tiny_free(t);
}

static void copy_ram(struct tiny *to, struct tiny *from)
{
	memcpy(vm_mem_base(to->vm->mem), vm_mem_base(from->vm->mem),
	       vm_mem_bytes(from->vm->mem));
}

static struct tiny *move(struct tiny *from, const struct vm_config *cfg,
			 uint64_t elapsed_ns)
{
	struct tiny *to = tiny_new(cfg);
	struct vm_state s;
	char *err = NULL;

	assert_int_equal(vm_pause(from->vm), 0);
	if (vm_state_save(from->vm, &s, &err) < 0)
		fail_msg("%s", err);
	copy_ram(to, from);
	assert_int_equal(vm_start(to->vm), 0);
	if (vm_state_load(to->vm, &s, elapsed_ns, &err) < 0)
		fail_msg("%s", err);
	vm_state_fini(&s);
	return to;
}

static void test_goes_on_in_another_vm(void **state)
{
	struct tiny *a = start(&four_cpus, reading, sizeof(reading));
	struct tiny *b;
	uint32_t seen;

	(void)state;
	assert_int_equal(vm_resume(a->vm), 0);
	tiny_wait_change(a, DATA_GPA, 0);
	for (int i = 0; i < 20; i++) {
		b = move(a, &four_cpus, 0);
		seen = tiny_peek(a, DATA_GPA);
		assert_int_equal(vm_resume(b->vm), 0);
		assert_true(tiny_wait_change(b, DATA_GPA, seen) > seen);
		assert_int_equal(tiny_peek(a, DATA_GPA), seen);
		assert_int_equal(atomic_load(&a->wrong), 0);
		tiny_free(a);
		a = b;
	}
	assert_int_equal(vm_pause(a->vm), 0);
	assert_int_equal(atomic_load(&a->wrong), 0);
	tiny_free(a);
}

/* Saving changes nothing: the same machine goes on. */
static void test_goes_on_after_save(void **state)
{
	struct tiny *t = start(&four_cpus, reading, sizeof(reading));
	struct vm_state s;
	uint32_t seen;

	(void)state;
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_equal(vm_state_save(t->vm, &s, NULL), -EBUSY);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(vm_pause(t->vm), 0);
		assert_int_equal(vm_state_save(t->vm, &s, NULL), 0);
		vm_state_fini(&s);
		seen = tiny_peek(t, DATA_GPA);
		assert_int_equal(vm_resume(t->vm), 0);
		assert_true(tiny_wait_change(t, DATA_GPA, seen) > seen);
	}
	assert_int_equal(vm_pause(t->vm), 0);
	assert_int_equal(atomic_load(&t->wrong), 0);
	tiny_free(t);
}

/* A software KVM may show the host's TSC and let nobody change it. */
static bool tsc_can_be_set(struct vm *vm)
{
	struct vm_state s;
	uint64_t tsc;

	assert_int_equal(vm_state_save(vm, &s, NULL), 0);
	tsc = s.cpus[0].tsc;
	assert_int_equal(vm_clock_load(vm, &s, UINT64_C(10000000000), NULL), 0);
	assert_int_equal(vm_clock_save(vm, &s, NULL), 0);
	tsc = s.cpus[0].tsc - tsc;
	vm_state_fini(&s);
	return tsc > (uint64_t)vm->tsc_khz * 5000;
}

static uint64_t host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* By the second that they are told, and by no more than what the move itself took. */
static void test_time_moves_on_and_stays_equal(void **state)
{
	const uint64_t second = 1000000000;
	struct tiny *a = start(&four_cpus, tiny_counting,
			       sizeof(tiny_counting)),
		    *b;
	struct vm_state before, after;
	uint64_t ns, cycles, khz = vm_tsc_khz(a->vm), begin_ns, max_ns;

	(void)state;
	assert_int_equal(vm_resume(a->vm), 0);
	tiny_wait_change(a, DATA_GPA, 0);
	assert_int_equal(vm_pause(a->vm), 0);
	begin_ns = host_ns();
	assert_int_equal(vm_state_save(a->vm, &before, NULL), 0);
	b = move(a, &four_cpus, second);
	assert_int_equal(vm_state_save(b->vm, &after, NULL), 0);
	max_ns = second + host_ns() - begin_ns + second / 100;
	ns = after.clock_ns - before.clock_ns;
	cycles = after.cpus[0].tsc - before.cpus[0].tsc;
	print_message("1 s elapsed: clock +%llu us, TSC +%llu us\n",
		      (unsigned long long)ns / 1000,
		      (unsigned long long)(cycles * 1000 / khz));
	assert_in_range(ns, second, max_ns);
	for (int i = 1; i < 4; i++)
		assert_true(after.cpus[i].tsc == after.cpus[0].tsc);
	if (tsc_can_be_set(a->vm))
		assert_in_range(cycles, khz * 1000,
				khz * (max_ns / 1000000 + 1));
	else
		print_message("this KVM's guests have the host's TSC\n");
	vm_state_fini(&before);
	vm_state_fini(&after);
	tiny_free(a);
	tiny_free(b);
}

static void test_triple_fault_is_a_reset(void **state)
{
	struct tiny *t = start(&one_cpu, triple_faulting,
			       sizeof(triple_faulting));

	(void)state;
	assert_int_equal(vm_resume(t->vm), 0);
	tiny_wait_event(t);
	assert_int_equal(vm_event_peek(t->vm), VM_EVENT_RESET);
	assert_string_equal(vm_event_reason(t->vm), "triple fault");
	assert_int_equal(vm_event_take(t->vm), VM_EVENT_RESET);
	assert_int_equal(vm_event_take(t->vm), VM_EVENT_NONE);

	/* Power-on state again: it can be started afresh. */
	assert_int_equal(vm_reset_cpus(t->vm, NULL), 0);
	tiny_code(t, tiny_counting, sizeof(tiny_counting));
	assert_int_equal(vm_resume(t->vm), 0);
	assert_int_not_equal(tiny_wait_change(t, DATA_GPA, 0), 0);
	tiny_free(t);
}

static void test_event_is_taken_once_wherever(void **state)
{
	struct tiny *a = start(&one_cpu, talking, sizeof(talking)), *b;

	(void)state;
	assert_int_equal(vm_resume(a->vm), 0);
	tiny_wait_event(a);
	assert_int_equal(vm_resume(a->vm), -ECANCELED);
	b = move(a, &one_cpu, 0);
	assert_int_equal(vm_resume(b->vm), -ECANCELED);
	assert_int_equal(vm_event_take(b->vm), VM_EVENT_POWEROFF);
	assert_string_equal(vm_event_reason(b->vm), "port 0x502");
	assert_int_equal(vm_event_take(b->vm), VM_EVENT_NONE);
	assert_int_equal(sem_trywait(&a->events), -1); /* told once */
	tiny_free(a);

	/* Taken: nothing is left to move. */
	a = move(b, &one_cpu, 0);
	assert_int_equal(vm_event_peek(a->vm), VM_EVENT_NONE);
	tiny_free(a);
	tiny_free(b);
}

static void refused(struct tiny *t, const struct vm_state *s, uint64_t elapsed)
{
	char *err = NULL;

	assert_int_equal(vm_state_load(t->vm, s, elapsed, &err), -EINVAL);
	assert_non_null(err);
	print_message("refused: %s\n", err);
	free(err);
}

static void test_bad_state_is_refused(void **state)
{
	struct tiny *t = start(&one_cpu, tiny_counting, sizeof(tiny_counting));
	struct vm_state good, s;
	struct vm_cpu_state cpu;
	struct vm_msr msr = { .index = 0xc0000081, .value = 1 };
	struct vm_device_state device;

	(void)state;
	assert_int_equal(vm_state_save(t->vm, &good, NULL), 0);
	s = good;
	s.nr_cpus = 2;
	refused(t, &s, 0);
	s = good;
	s.has_pit = false;
	refused(t, &s, 0);
	s = good;
	s.pending_event = VM_NR_EVENTS;
	refused(t, &s, 0);
	refused(t, &good, UINT64_MAX);
	s = good;
	device = (struct vm_device_state){ .name = "nobody" };
	s.devices = &device;
	s.nr_devices = 1;
	refused(t, &s, 0);
	device = (struct vm_device_state){ .name = "tiny", .bytes = 3 };
	refused(t, &s, 0);
	s = good;
	cpu = good.cpus[0];
	s.cpus = &cpu;
	cpu.tsc_khz++;
	refused(t, &s, 0);
	cpu = good.cpus[0];
	cpu.xsave_bytes = 16;
	refused(t, &s, 0);
	cpu = good.cpus[0];
	msr.index = 0xdead; /* no such MSR */
	cpu.msrs = &msr;
	cpu.nr_msrs = 1;
	refused(t, &s, 0);
	msr.value = 0; /* nothing lost by leaving it out */
	assert_int_equal(vm_state_load(t->vm, &s, 0, NULL), 0);
	assert_int_equal(vm_state_load(t->vm, &good, 0, NULL), 0);
	vm_state_fini(&good);
	tiny_free(t);
}

static void test_bad_configs_are_refused(void **state)
{
	const struct vm_config bad[] = {
		{ .ram_bytes = 2 * MIB, .nr_cpus = 0 },
		{ .ram_bytes = 2 * MIB, .nr_cpus = 65 },
		{ .ram_bytes = 2 * MIB + 1, .nr_cpus = 1 },
		{ .ram_bytes = 2 * MIB, .nr_cpus = 1, .dirty_ring_entries = 3 },
		{ .ram_bytes = 2 * MIB, .nr_cpus = 1, .nr_cpuid = 1000 },
		{ .ram_bytes = 1 << 30,
		  .nr_cpus = 1,
		  .mem_backend = VM_MEM_HUGETLB },
	};
	struct vm *vm;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *err = NULL;

		assert_true(vm_new(&bad[i], NULL, NULL, &vm, &err) < 0);
		assert_non_null(err);
		print_message("refused: %s\n", err);
		free(err);
	}
}

static double ms_to_build(uint64_t ram_bytes)
{
	const struct vm_config cfg = { .ram_bytes = ram_bytes, .nr_cpus = 1 };
	uint64_t begin_ns = host_ns();
	struct vm *vm;
	double ms;

	assert_int_equal(vm_new(&cfg, &tiny_vm_ops, NULL, &vm, NULL), 0);
	ms = (double)(host_ns() - begin_ns) / 1e6;
	assert_int_equal(vm_mem_resident_bytes(vm->mem), 0);
	vm_free(vm);
	return ms;
}

static void test_configured_memory_is_not_touched(void **state)
{
	(void)state;
	for (uint64_t mib = 64; mib <= 512 * 1024; mib *= 8)
		print_message("%llu MiB: built in %.1f ms\n",
			      (unsigned long long)mib, ms_to_build(mib * MIB));
	print_message("512 GiB: built in %.1f ms\n",
		      ms_to_build(VM_RAM_BYTES_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_starts_parked_and_stops),
		cmocka_unit_test(test_io_reaches_devices),
		cmocka_unit_test(test_pause_1000_times_in_port_io),
		cmocka_unit_test(test_aps_wait_for_sipi),
		cmocka_unit_test(test_goes_on_in_another_vm),
		cmocka_unit_test(test_goes_on_after_save),
		cmocka_unit_test(test_time_moves_on_and_stays_equal),
		cmocka_unit_test(test_triple_fault_is_a_reset),
		cmocka_unit_test(test_event_is_taken_once_wherever),
		cmocka_unit_test(test_bad_state_is_refused),
		cmocka_unit_test(test_bad_configs_are_refused),
		cmocka_unit_test(test_configured_memory_is_not_touched),
	};

	tiny_need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
