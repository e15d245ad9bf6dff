/* KVM's dirty reports say exactly what the guest wrote, in both slots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/prctl.h>

#include "tests/unit/tiny_guest.h"
#include "vmm/dirty.h"

#define GIB (UINT64_C(1) << 30)

/*
 * Writes to every third page from the address at 0x3000 on, as many as 0x3008
 * says, then powers off.
 */
static const uint8_t writing[] = {
	0x48, 0x8b, 0x3c, 0x25, 0x00, 0x30, 0x00, 0x00, /* mov rdi, [0x3000] */
	0x48, 0x8b, 0x0c, 0x25, 0x08, 0x30, 0x00, 0x00, /* mov rcx, [0x3008] */
	0x88, 0x0f,                                     /* 1: mov [rdi], cl */
	0x48, 0x81, 0xc7, 0x00, 0x30, 0x00, 0x00,       /* add rdi, 3 * 4096 */
	0x48, 0xff, 0xc9,                               /* dec rcx */
	0x75, 0xf2,                                     /* jnz 1b */
	0xba, 0x02, 0x05, 0x00, 0x00,                   /* mov edx, 0x502 */
	0xee,                                           /* out dx, al */
	0xeb, 0xfe,                                     /* 1: jmp 1b */
};

struct work {
	uint64_t gpa;
	uint64_t nr_pages;
};

static const struct work small = { 16 << 20, 512 };
static const struct work high = { VM_HIGH_RAM_GPA + 4096, 700 };
static const struct work large = { 16 << 20, 6000 };

static uint64_t *new_bitmap(struct tiny *t)
{
	uint64_t *b = calloc((vm_mem_pages(t->vm->mem) + 63) / 64, 8);

	assert_non_null(b);
	return b;
}

/* The vCPU has its code. */
static void run_code(struct tiny *t, struct work w)
{
	assert_int_equal(vm_mem_write(t->vm->mem, DATA_GPA, &w, sizeof(w)), 0);
	assert_int_equal(vm_resume(t->vm), 0);
	tiny_wait_event(t);
	if (vm_event_take(t->vm) != VM_EVENT_POWEROFF)
		fail_msg("%s", vm_event_reason(t->vm));
}

static void run_once(struct tiny *t, struct work w)
{
	assert_int_equal(vm_reset_cpus(t->vm, NULL), 0);
	tiny_code64(t, writing, sizeof(writing));
	run_code(t, w);
}

static uint64_t count(struct tiny *t, const uint64_t *b)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < (vm_mem_pages(t->vm->mem) + 63) / 64; i++)
		n += (uint64_t)__builtin_popcountll(b[i]);
	return n;
}

/* At least those pages, which are then taken out of the bitmap. */
static void take_written(struct tiny *t, uint64_t *b, struct work w)
{
	uint64_t offset;

	assert_int_equal(vm_mem_gpa_to_offset(t->vm->mem, w.gpa, 0, &offset),
			 0);
	for (uint64_t i = 0; i < w.nr_pages; i++) {
		uint64_t page = offset / 4096 + 3 * i;

		assert_true(b[page / 64] >> page % 64 & 1);
		b[page / 64] &= ~(UINT64_C(1) << page % 64);
	}
}

static void take_all(struct tiny *t, uint64_t *b, struct work w)
{
	assert_int_equal(vm_dirty_ring_collect(t->vm, b), 0);
	take_written(t, b, w);
	memset(b, 0, (vm_mem_pages(t->vm->mem) + 63) / 64 * 8);
}

/* Exactly those pages. */
static void expect_written(struct tiny *t, uint64_t *b, struct work w)
{
	take_written(t, b, w);
	assert_int_equal(count(t, b), 0);
}

static struct tiny *start(uint32_t ring_entries)
{
	const struct vm_config cfg = { .ram_bytes = 5 * GIB,
				       .nr_cpus = 1,
				       .dirty_ring_entries = ring_entries };
	struct tiny *t = tiny_new(&cfg);

	assert_int_equal(vm_start(t->vm), 0);
	/*
	 * KVM may map a page writable when it is first read, and calls it dirty
	 * then: let it read code and data before anybody counts.
	 */
	run_once(t, small);
	return t;
}

static void log_is_exact(struct tiny *t, enum vm_dirty_log how)
{
	uint64_t *b = new_bitmap(t);

	assert_int_equal(vm_dirty_log_fetch(t->vm, b), -EINVAL);
	assert_int_equal(vm_dirty_log_start(t->vm, how), 0);
	assert_int_equal(vm_dirty_log_start(t->vm, how), -EALREADY);
	for (int i = 0; i < 3; i++) {
		run_once(t, small);
		assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
		expect_written(t, b, small);
		run_once(t, high);
		assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
		expect_written(t, b, high);
	}
	assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
	assert_int_equal(count(t, b), 0);
	assert_int_equal(vm_dirty_log_stop(t->vm), 0);
	assert_int_equal(vm_dirty_log_stop(t->vm), 0);
	run_once(t, small);
	free(b);
}

static void test_log_is_exact_each_time(void **state)
{
	struct tiny *t = start(0);

	(void)state;
	log_is_exact(t, VM_DIRTY_LOG_FETCH);
	tiny_free(t);
}

/* On and off twice: what one tracking left behind is no business of the next. */
static void test_wp_all_is_exact_each_time(void **state)
{
	struct tiny *t = start(0);
	struct vm_dirty_caps caps;

	(void)state;
	vm_dirty_caps_vm(t->vm, &caps);
	if (!caps.wp_all || !caps.log_flags) {
		tiny_free(t);
		print_message("KVM_CAP_X86_WRITE_PROTECT_ALL: no\n");
		skip();
	}
	log_is_exact(t, VM_DIRTY_LOG_WP_ALL);
	log_is_exact(t, VM_DIRTY_LOG_WP_ALL);
	log_is_exact(t, VM_DIRTY_LOG_FETCH);
	tiny_free(t);
}

static void need_ring(void)
{
	struct vm_dirty_caps caps;
	int fd;

	assert_int_equal(vm_kvm_open(&fd, NULL), 0);
	vm_dirty_caps(fd, &caps);
	close(fd);
	if (caps.ring_entries_max == 0) {
		print_message("KVM_CAP_DIRTY_LOG_RING: no\n");
		skip();
	}
}

/* KVM denies it to a vm with rings; asking all the same changes nothing. */
static void test_wp_all_is_refused_with_a_ring(void **state)
{
	struct vm_dirty_caps caps;
	struct tiny *t;

	(void)state;
	need_ring();
	t = start(1024);
	vm_dirty_caps_vm(t->vm, &caps);
	assert_false(caps.wp_all);
	assert_false(caps.log_flags);
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_WP_ALL),
			 -EINVAL);
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_FETCH), 0);
	assert_int_equal(vm_dirty_log_stop(t->vm), 0);
	tiny_free(t);
}

static void test_manual_clears_only_what_it_is_told(void **state)
{
	struct tiny *t = start(0);
	uint64_t pages = vm_mem_pages(t->vm->mem);
	struct vm_dirty_caps caps;
	uint64_t *b = new_bitmap(t);

	(void)state;
	vm_dirty_caps_vm(t->vm, &caps);
	if (!caps.manual) {
		free(b);
		tiny_free(t);
		print_message("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: no\n");
		skip();
	}
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_MANUAL), 0);
	assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
	assert_int_equal(count(t, b), caps.initially_set ? pages : 0);
	/* One range across both slots. */
	assert_int_equal(vm_dirty_log_clear(t->vm, b, 0, pages), 0);
	memset(b, 0, pages / 8);
	assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
	assert_int_equal(count(t, b), 0);

	run_once(t, small);
	assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
	assert_int_equal(count(t, b), 512);
	/* 64 pages hold 22 of them; the other 490 stay reported. */
	assert_int_equal(vm_dirty_log_clear(t->vm, b, 4096, 64), 0);
	memset(b, 0, pages / 8);
	assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
	assert_int_equal(count(t, b), 490);
	run_once(t, small);
	assert_int_equal(vm_dirty_log_fetch(t->vm, b), 0);
	expect_written(t, b, small);

	assert_int_equal(vm_dirty_log_clear(t->vm, b, 1, 64), -EINVAL);
	assert_int_equal(vm_dirty_log_clear(t->vm, b, 0, 63), -EINVAL);
	assert_int_equal(vm_dirty_log_clear(t->vm, b, 64, pages), -EINVAL);
	assert_int_equal(vm_dirty_log_stop(t->vm), 0);
	free(b);
	tiny_free(t);
}

/* A ring smaller than what is written gets full again and again. */
static void ring_is_exact(uint32_t entries)
{
	struct tiny *t = start(entries);
	uint64_t *b = new_bitmap(t);

	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_MANUAL),
			 -EINVAL);
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_FETCH), 0);
	for (int i = 0; i < 3; i++) {
		run_once(t, small);
		assert_int_equal(vm_dirty_ring_collect(t->vm, b), 0);
		expect_written(t, b, small);
		run_once(t, high);
		assert_int_equal(vm_dirty_ring_collect(t->vm, b), 0);
		expect_written(t, b, high);
		run_once(t, large);
		assert_int_equal(vm_dirty_ring_collect(t->vm, b), 0);
		expect_written(t, b, large);
	}
	assert_int_equal(vm_dirty_log_stop(t->vm), 0);
	/* What is left from one tracking does not show up in the next. */
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_FETCH), 0);
	run_once(t, small);
	assert_int_equal(vm_dirty_log_stop(t->vm), 0);
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_FETCH), 0);
	assert_int_equal(vm_dirty_ring_collect(t->vm, b), 0);
	assert_int_equal(count(t, b), 0);
	free(b);
	tiny_free(t);
}

static void test_ring_is_exact(void **state)
{
	(void)state;
	need_ring();
	ring_is_exact(65536);
	ring_is_exact(4096);
	ring_is_exact(1024);
}

/*
 * As writing[], in 32-bit mode at CPL 0. Where KVM interprets that it does not look
 * at the ring meanwhile, which is overrun when there are more pages than entries.
 */
static const uint8_t overrunning[] = {
	0x8b, 0x3d, 0x00, 0x30, 0x00, 0x00, /* mov edi, [0x3000] */
	0x8b, 0x0d, 0x08, 0x30, 0x00, 0x00, /* mov ecx, [0x3008] */
	0x88, 0x0f,                         /* 1: mov [edi], cl */
	0x81, 0xc7, 0x00, 0x30, 0x00, 0x00, /* add edi, 3 * 4096 */
	0x49,                               /* dec ecx */
	0x75, 0xf5,                         /* jnz 1b */
	0xba, 0x02, 0x05, 0x00, 0x00,       /* mov edx, 0x502 */
	0xee,                               /* out dx, al */
	0xeb, 0xfe,                         /* 1: jmp 1b */
};

struct collector {
	struct vm *vm;
	uint64_t *bitmap;
	atomic_bool over;
	pthread_t thread;
};

/* As in a precopy: while the guest writes. */
static void *collect_on(void *arg)
{
	struct collector *c = arg;

	while (!atomic_load(&c->over)) {
		if (vm_dirty_ring_collect(c->vm, c->bitmap) < 0)
			return c;
		usleep(200);
	}
	return NULL;
}

static void run_collecting(struct tiny *t, uint64_t *b, struct work w)
{
	struct collector c = { .vm = t->vm, .bitmap = b };
	void *failed;

	assert_int_equal(pthread_create(&c.thread, NULL, collect_on, &c), 0);
	run_code(t, w);
	atomic_store(&c.over, true);
	pthread_join(c.thread, &failed);
	assert_null(failed);
}

/*
 * The same pages before and after each overrun: KVM forgot what it overwrote, and
 * did not protect it again. On hardware nothing is overrun, and all is exact.
 */
static void test_an_overrun_ring_loses_nothing(void **state)
{
	static const struct work work = { 16 << 20, 150 };
	static const uint64_t overruns[] = { 300, 5, 250, 600, 257, 2000, 100 };
	struct tiny *t;
	uint64_t *b;

	(void)state;
	need_ring();
	t = start(256);
	b = new_bitmap(t);
	assert_int_equal(vm_dirty_log_start(t->vm, VM_DIRTY_LOG_FETCH), 0);
	for (size_t i = 0; i < 300; i++) {
		const struct work over = { 64 << 20, overruns[i % 7] };

		run_once(t, work);
		if (i % 2)
			take_all(t, b, work);
		assert_int_equal(vm_reset_cpus(t->vm, NULL), 0);
		tiny_code(t, overrunning, sizeof(overrunning));
		if (i % 3)
			run_code(t, over);
		else
			run_collecting(t, b, over);
		take_all(t, b, over);
		run_once(t, work);
		take_all(t, b, work);
	}
	free(b);
	tiny_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_log_is_exact_each_time),
		cmocka_unit_test(test_manual_clears_only_what_it_is_told),
		cmocka_unit_test(test_wp_all_is_exact_each_time),
		cmocka_unit_test(test_wp_all_is_refused_with_a_ring),
		cmocka_unit_test(test_ring_is_exact),
		cmocka_unit_test(test_an_overrun_ring_loses_nothing),
	};

	tiny_need_kvm();
	/* khugepaged has KVM map anew what it collapses: reported, not written. */
	assert_int_equal(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
