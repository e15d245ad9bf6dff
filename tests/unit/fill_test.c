/*
 * Every page arrives once and right, whoever asks and whoever brings it, and
 * none arrives unprotected once protection has been asked for.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate/fill.h"
#include "tests/unit/huge_bytes.h"
#include "tests/unit/quiet_vm.h"
#include "vmm/bitmap.h"
#include "vmm/vm_internal.h"

#define RAM_BYTES (UINT64_C(32) << 20)
#define PAGES     (RAM_BYTES / VM_PAGE_BYTES)
#define THREADS   4u
#define LOOK_US   1500000 /* more than until the first look of collapse.c */

struct fixture {
	struct mig_guest *guest;
	struct mig_fill *_Atomic fill; /* set when faults may come */
	uint8_t *base;
	uint8_t *source;    /* what the pages are */
	atomic_bool answer; /* want places at once */
	atomic_uint wanted;
	atomic_uint drained;
	atomic_uint writes; /* write-protect faults */
	atomic_uint wrong;
};

static void on_want(void *ctx, uint64_t page)
{
	struct fixture *f = ctx;
	bool answer = f->answer; /* before anybody sees that it is wanted */

	atomic_fetch_add(&f->wanted, 1);
	if (answer && mig_fill_place(f->fill, page, 1,
				     f->source + page * VM_PAGE_BYTES) < 0)
		atomic_fetch_add(&f->wrong, 1);
}

static void on_drained(void *ctx)
{
	struct fixture *f = ctx;

	atomic_fetch_add(&f->drained, 1);
}

static const struct mig_fill_ops fill_ops = {
	.want = on_want,
	.drained = on_drained,
};

/* A page that says where it belongs, in every word. */
static void make_source(struct fixture *f)
{
	uint64_t *p;

	f->source = malloc(RAM_BYTES);
	assert_non_null(f->source);
	p = (uint64_t *)f->source;
	for (uint64_t i = 0; i < RAM_BYTES / 8; i++)
		p[i] = i * 0x9e3779b97f4a7c15u + 1;
}

/* Every page but those that are a multiple of `zero` pends; 0: all. */
static struct fixture *fixture_new(enum vm_mem_backend backend, uint64_t zero)
{
	const struct vm_config cfg = {
		.ram_bytes = RAM_BYTES,
		.nr_cpus = 4, /* faults come in several lanes */
		.mem_backend = backend,
	};
	struct fixture *f = calloc(1, sizeof(*f));
	uint64_t *pending = bitmap_new(PAGES);
	struct mig_fill *fill;
	char *err = NULL;
	struct vm *vm;

	assert_non_null(f);
	assert_non_null(pending);
	f->answer = true;
	make_source(f);
	for (uint64_t i = 0; i < PAGES; i++) {
		if (zero == 0 || i % zero != 0)
			bitmap_set(pending, i);
	}
	if (vm_new(&cfg, &quiet_vm_ops, f, &vm, &err) < 0 ||
	    mig_guest_new(vm, &f->guest) < 0)
		fail_msg("%s", err);
	f->base = vm_mem_base(vm_mem(vm));
	if (mig_fill_new(f->guest, pending, &fill_ops, f, &fill, &err) < 0)
		fail_msg("%s", err);
	f->fill = fill;
	return f;
}

static void fixture_free(struct fixture *f)
{
	assert_int_equal(f->wrong, 0);
	mig_guest_free(f->guest);
	free(f->source);
	free(f);
}

static uint64_t load(struct fixture *f, uint64_t page)
{
	return *(volatile uint64_t *)(f->base + page * VM_PAGE_BYTES + 8);
}

static uint64_t expect(struct fixture *f, uint64_t page)
{
	return *(uint64_t *)(f->source + page * VM_PAGE_BYTES + 8);
}

struct worker {
	struct fixture *f;
	uint64_t seed;
	pthread_t thread;
};

static uint64_t next_random(struct worker *w)
{
	w->seed = w->seed * 6364136223846793005u + 1442695040888963407u;
	return w->seed >> 33;
}

static void *reader(void *arg)
{
	struct worker *w = arg;

	for (unsigned int i = 0; i < PAGES; i++) {
		uint64_t page = next_random(w) % PAGES;
		uint64_t want = page % 7 ? expect(w->f, page) : 0;

		if (load(w->f, page) != want)
			atomic_fetch_add(&w->f->wrong, 1);
	}
	return NULL;
}

static void *placer(void *arg)
{
	struct worker *w = arg;
	struct fixture *f = w->f;

	for (unsigned int i = 0; i < PAGES / 4; i++) {
		uint64_t page = next_random(w) % PAGES;
		uint64_t nr = next_random(w) % 100;

		if (nr > PAGES - page)
			nr = PAGES - page;
		if (mig_fill_place(f->fill, page, nr,
				   f->source + page * VM_PAGE_BYTES) < 0)
			atomic_fetch_add(&f->wrong, 1);
	}
	return NULL;
}

static void start(struct worker *w, struct fixture *f, uint64_t seed,
		  void *(*run)(void *arg))
{
	*w = (struct worker){ .f = f, .seed = seed };
	assert_int_equal(pthread_create(&w->thread, NULL, run, w), 0);
}

static void check_crowd(enum vm_mem_backend backend)
{
	struct fixture *f = fixture_new(backend, 7);
	struct worker w[2 * THREADS];
	struct mig_fill *fill = f->fill;
	struct mig_faults faults;

	for (unsigned int i = 0; i < THREADS; i++) {
		start(&w[i], f, i, reader);
		start(&w[THREADS + i], f, 100 + i, placer);
	}
	for (unsigned int i = 0; i < 2 * THREADS; i++)
		pthread_join(w[i].thread, NULL);
	assert_int_equal(mig_fill_place(fill, 0, PAGES, f->source), 0);
	mig_fill_hold(fill);
	assert_true(f->guest->vm->wake_soon);
	mig_fill_free(fill); /* from here on no fault is being served */
	assert_null(f->guest->fill);
	assert_false(f->guest->vm->wake_soon);
	assert_int_equal(mig_fill_pending(fill), 0);
	assert_int_equal(f->drained, 1);
	mig_fill_faults(fill, &faults);
	assert_true(faults.all.count <= f->wanted);
	assert_true(faults.all.p50_us <= faults.all.p99_us);
	assert_true(faults.all.p99_us <= faults.all.max_us);
	mig_fill_drop(fill);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_true(load(f, i) == (i % 7 ? expect(f, i) : 0));
	fixture_free(f);
}

static void test_crowd(void **state)
{
	(void)state;
	check_crowd(VM_MEM_ANON);
	check_crowd(VM_MEM_MEMFD);
}

/* A page that the guest has written is its own, whatever comes late. */
static void test_late_copy_is_ignored(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON, 0);

	(void)state;
	load(f, 9);
	memset(f->base + 9 * VM_PAGE_BYTES, 0xee, VM_PAGE_BYTES);
	assert_int_equal(
		mig_fill_place(f->fill, 8, 4, f->source + 8 * VM_PAGE_BYTES),
		0);
	assert_true(load(f, 9) == UINT64_C(0xeeeeeeeeeeeeeeee));
	assert_true(load(f, 8) == expect(f, 8));
	assert_false(mig_fill_is_pending(f->fill, 11));
	assert_int_equal(mig_fill_place(f->fill, PAGES, 1, NULL), -EINVAL);
	fixture_free(f);
}

static void on_write(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)tid;
	atomic_fetch_add(&f->writes, 1);
	uffd_unprotect(f->guest->uffd, page, 1);
}

/* Half of them zeros, which the kernel cannot install protected by itself. */
static void *place_all(void *arg)
{
	struct worker *w = arg;
	struct fixture *f = w->f;

	for (uint64_t page = w->seed; page < PAGES; page += 2)
		mig_fill_place(f->fill, page, 1,
			       page % 4 < 2 ? NULL
					    : f->source + page * VM_PAGE_BYTES);
	return NULL;
}

static void check_protect(enum vm_mem_backend backend)
{
	struct fixture *f = fixture_new(backend, 0);
	uint64_t *pending = bitmap_new(PAGES);
	uint64_t *before = bitmap_new(PAGES);
	struct worker w[2];

	assert_non_null(pending);
	assert_non_null(before);
	assert_int_equal(uffd_start(f->guest->uffd, UFFD_WP, on_write, f), 0);
	start(&w[0], f, 0, place_all);
	start(&w[1], f, 1, place_all);
	while (mig_fill_pending(f->fill) > PAGES / 2)
		sched_yield();
	mig_fill_pending_or(f->fill, before);
	mig_fill_set_protect(f->fill, true);
	mig_fill_pending_or(f->fill, pending);
	pthread_join(w[0].thread, NULL);
	pthread_join(w[1].thread, NULL);
	for (uint64_t i = 0; i < PAGES; i++)
		f->base[i * VM_PAGE_BYTES] = 1;
	/* All that were still out, and none that was here before. */
	assert_true(f->writes >= bitmap_count(pending, PAGES));
	assert_true(f->writes <= bitmap_count(before, PAGES));
	mig_fill_set_protect(f->fill, false);
	assert_int_equal(uffd_stop(f->guest->uffd, UFFD_WP), 0);
	bitmap_free(before, PAGES);
	bitmap_free(pending, PAGES);
	fixture_free(f);
}

static void test_protect_lets_none_slip(void **state)
{
	(void)state;
	check_protect(VM_MEM_ANON);
	check_protect(VM_MEM_MEMFD);
}

static void *one_reader(void *arg)
{
	struct worker *w = arg;

	if (load(w->f, w->seed) != expect(w->f, w->seed))
		atomic_fetch_add(&w->f->wrong, 1);
	return NULL;
}

static void wait_wanted(struct fixture *f, unsigned int n)
{
	while (atomic_load(&f->wanted) < n)
		usleep(1000);
}

/* After a rejoin the new link is asked for what the old one owed. */
static void test_want_again(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON, 0);
	struct mig_faults faults;
	struct worker w[2];

	(void)state;
	f->answer = false;
	start(&w[0], f, 50, one_reader);
	start(&w[1], f, 60, one_reader);
	wait_wanted(f, 2);
	f->answer = true;
	mig_fill_want_again(f->fill);
	pthread_join(w[0].thread, NULL);
	pthread_join(w[1].thread, NULL);
	assert_int_equal(f->wanted, 4);
	mig_fill_faults(f->fill, &faults);
	assert_int_equal(faults.all.count, 2);
	assert_true(faults.all.max_us > 0);
	fixture_free(f);
}

static bool yes(void *ctx)
{
	(void)ctx;
	return true;
}

static bool no(void *ctx)
{
	(void)ctx;
	return false;
}

static void test_ensure(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON, 7);

	(void)state;
	assert_int_equal(mig_fill_ensure(f->fill, 0, 64, yes, NULL), 0);
	for (uint64_t i = 0; i < 64; i++)
		assert_false(mig_fill_is_pending(f->fill, i));
	assert_int_equal(mig_fill_ensure(f->fill, 7, 1, no, NULL), 0);
	f->answer = false;
	assert_int_equal(mig_fill_ensure(f->fill, 100, 1, no, NULL),
			 -ECANCELED);
	mig_fill_fail(f->fill);
	assert_int_equal(mig_fill_ensure(f->fill, 100, 1, yes, NULL), -EIO);
	fixture_free(f);
}

/* Nothing becomes huge before the fill has ended, were it all there. */
static void test_small_until_it_ends(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON, 0);
	uint64_t before;

	(void)state;
	if (!vm_mem_stays_small(vm_mem(f->guest->vm))) {
		fixture_free(f);
		skip();
	}
	assert_int_equal(mig_fill_place(f->fill, 0, PAGES, f->source), 0);
	before = huge_bytes();
	mig_collapse_start(&f->guest->collapse);
	usleep(LOOK_US);
	assert_int_equal(huge_bytes(), before);
	mig_fill_free(f->fill);
	if (vm_mem_collapse(vm_mem(f->guest->vm), 0) == -ENOMEM) {
		print_message("huge pages are not to be had here\n");
		fixture_free(f);
		skip();
	}
	for (int i = 0; i < 1000 && huge_bytes() < before + RAM_BYTES; i++)
		usleep(10000);
	assert_int_equal(huge_bytes(), before + RAM_BYTES);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_true(load(f, i) == expect(f, i));
	fixture_free(f);
}

/* One who still holds it when it ends finds it ended, not gone. */
static void test_held_over_its_end(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON, 0);
	struct mig_fill *held = mig_guest_fill_get(f->guest);

	(void)state;
	assert_ptr_equal(held, f->fill);
	mig_fill_free(f->fill);
	assert_null(mig_guest_fill_get(f->guest));
	assert_int_equal(mig_fill_place(held, 1, 1, NULL), -EIO);
	assert_int_equal(mig_fill_ensure(held, 1, 1, yes, NULL), -EIO);
	assert_int_equal(f->wanted, 0);
	mig_fill_set_protect(held, true);
	mig_guest_fill_put(held);
	assert_true(load(f, 1) == 0);
	fixture_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crowd),
		cmocka_unit_test(test_late_copy_is_ignored),
		cmocka_unit_test(test_protect_lets_none_slip),
		cmocka_unit_test(test_want_again),
		cmocka_unit_test(test_ensure),
		cmocka_unit_test(test_small_until_it_ends),
		cmocka_unit_test(test_held_over_its_end),
	};
	struct uffd_caps caps;

	uffd_probe(&caps);
	if (!caps.usable || access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: %s\n",
		       caps.usable ? "no access to /dev/kvm" : caps.why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
