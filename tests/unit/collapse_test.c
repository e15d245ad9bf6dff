/* Memory becomes huge: all of it, whenever it is filled, unless somebody holds it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "migrate/collapse.h"
#include "tests/unit/huge_bytes.h"

#define BLOCKS     16u
#define PATIENCE_S 60
#define LOOK_US    1500000 /* more than until the first look */

/* Not ours: a sanitizer's, say, or of a test that went before. */
static uint64_t other_huge_bytes;

static uint64_t our_huge_bytes(void)
{
	return huge_bytes() - other_huge_bytes;
}

static void discard(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	assert_int_equal(vm_mem_discard(m, offset, bytes), 0);
}

static void fill(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	for (uint64_t i = offset; i < offset + bytes; i += VM_PAGE_BYTES)
		vm_mem_base(m)[i] = (uint8_t)(i >> VM_PAGE_SHIFT);
}

/* All written, in small pages; NULL where they cannot be huge. */
static struct vm_mem *new_mem(void)
{
	struct vm_mem *probe, *m = NULL;
	int can;

	other_huge_bytes = huge_bytes();
	assert_int_equal(vm_mem_new(VM_HUGE_PAGE_BYTES, VM_MEM_ANON, &probe),
			 0);
	for (uint64_t i = 0; i < VM_HUGE_PAGE_BYTES; i += VM_PAGE_BYTES)
		vm_mem_base(probe)[i] = 1;
	can = our_huge_bytes() == 0 && vm_mem_collapse(probe, 0) == 1 &&
	      our_huge_bytes() == VM_HUGE_PAGE_BYTES;
	vm_mem_free(probe);
	if (!can) {
		print_message("huge pages are not to be had here, or for "
			      "all\n");
		return NULL;
	}
	assert_int_equal(
		vm_mem_new(BLOCKS * VM_HUGE_PAGE_BYTES, VM_MEM_ANON, &m), 0);
	fill(m, 0, vm_mem_bytes(m));
	assert_int_equal(our_huge_bytes(), 0);
	return m;
}

static void wait_for(uint64_t bytes)
{
	for (int i = 0; i < PATIENCE_S * 100; i++) {
		if (our_huge_bytes() == bytes)
			return;
		usleep(10000);
	}
	fail_msg("%llu bytes are huge, not %llu",
		 (unsigned long long)our_huge_bytes(),
		 (unsigned long long)bytes);
}

static void test_all_of_it(void **state)
{
	struct vm_mem *m = new_mem();
	struct mig_collapse c;

	(void)state;
	if (!m)
		skip();
	mig_collapse_init(&c, m);
	mig_collapse_start(&c);
	mig_collapse_start(&c); /* it has begun already */
	wait_for(vm_mem_bytes(m));
	for (uint64_t i = 0; i < vm_mem_bytes(m); i += VM_PAGE_BYTES)
		assert_int_equal(vm_mem_base(m)[i],
				 (uint8_t)(i >> VM_PAGE_SHIFT));
	mig_collapse_fini(&c);
	vm_mem_free(m);
}

/* Held from before the start; and from somewhere in between. */
static void test_nothing_while_it_is_held(void **state)
{
	struct vm_mem *m = new_mem();
	struct mig_collapse c;
	uint64_t bytes;

	(void)state;
	if (!m)
		skip();
	mig_collapse_init(&c, m);
	mig_collapse_hold(&c);
	mig_collapse_start(&c);
	usleep(LOOK_US);
	assert_int_equal(our_huge_bytes(), 0);
	mig_collapse_release(&c);
	while (our_huge_bytes() == 0)
		usleep(100);
	mig_collapse_hold(&c);
	bytes = our_huge_bytes();
	usleep(LOOK_US);
	assert_int_equal(our_huge_bytes(), bytes);
	mig_collapse_release(&c);
	wait_for(vm_mem_bytes(m));
	mig_collapse_fini(&c);
	vm_mem_free(m);
}

/* What is filled after the first look becomes huge, and so again; the rest costs no more. */
static void test_what_is_filled_later(void **state)
{
	struct vm_mem *m = new_mem();
	struct mig_collapse c;
	uint64_t last = 0;

	(void)state;
	if (!m || !vm_mem_stays_small(m)) {
		vm_mem_free(m);
		skip();
	}
	last = vm_mem_bytes(m) - VM_HUGE_PAGE_BYTES;
	discard(m, 0, vm_mem_bytes(m));
	mig_collapse_init(&c, m);
	mig_collapse_start(&c);
	usleep(LOOK_US);
	for (int i = 0; i < 2; i++) {
		fill(m, last, VM_HUGE_PAGE_BYTES);
		fill(m, 0, VM_HUGE_PAGE_BYTES - VM_PAGE_BYTES);
		wait_for(VM_HUGE_PAGE_BYTES);
		assert_int_equal(vm_mem_resident_bytes(m),
				 2 * VM_HUGE_PAGE_BYTES - VM_PAGE_BYTES);
		discard(m, last, VM_HUGE_PAGE_BYTES);
	}
	mig_collapse_fini(&c);
	vm_mem_free(m);
}

static void test_it_ends_while_it_is_held(void **state)
{
	struct vm_mem *m = new_mem();
	struct mig_collapse c;

	(void)state;
	if (!m)
		skip();
	mig_collapse_init(&c, m);
	mig_collapse_hold(&c);
	mig_collapse_start(&c);
	mig_collapse_fini(&c);
	assert_int_equal(our_huge_bytes(), 0);
	vm_mem_free(m);
}

static void test_it_never_began(void **state)
{
	struct vm_mem *m = NULL;
	struct mig_collapse c;

	(void)state;
	assert_int_equal(vm_mem_new(VM_HUGE_PAGE_BYTES, VM_MEM_ANON, &m), 0);
	mig_collapse_init(&c, m);
	mig_collapse_fini(&c);
	vm_mem_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_of_it),
		cmocka_unit_test(test_nothing_while_it_is_held),
		cmocka_unit_test(test_what_is_filled_later),
		cmocka_unit_test(test_it_ends_while_it_is_held),
		cmocka_unit_test(test_it_never_began),
	};

	return cmocka_run_group_tests_name("collapse", tests, NULL, NULL);
}
