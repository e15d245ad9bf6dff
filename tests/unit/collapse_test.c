/* Memory becomes huge again: all of it, unless somebody holds it still. */
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

/* Not ours: a sanitizer's, say. */
static uint64_t other_huge_bytes;

static uint64_t our_huge_bytes(void)
{
	return huge_bytes() - other_huge_bytes;
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
	can = our_huge_bytes() == 0 && vm_mem_collapse(probe, 0) == 0 &&
	      our_huge_bytes() == VM_HUGE_PAGE_BYTES;
	vm_mem_free(probe);
	if (!can) {
		print_message("huge pages are not to be had here, or for "
			      "all\n");
		return NULL;
	}
	assert_int_equal(
		vm_mem_new(BLOCKS * VM_HUGE_PAGE_BYTES, VM_MEM_ANON, &m), 0);
	for (uint64_t i = 0; i < vm_mem_bytes(m); i += VM_PAGE_BYTES)
		vm_mem_base(m)[i] = (uint8_t)(i >> VM_PAGE_SHIFT);
	assert_int_equal(our_huge_bytes(), 0);
	return m;
}

static void wait_for_all(const struct vm_mem *m)
{
	for (int i = 0; i < PATIENCE_S * 100; i++) {
		if (our_huge_bytes() == vm_mem_bytes(m))
			return;
		usleep(10000);
	}
	fail_msg("only %llu bytes became huge",
		 (unsigned long long)our_huge_bytes());
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
	wait_for_all(m);
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
	usleep(100000);
	assert_int_equal(our_huge_bytes(), 0);
	mig_collapse_release(&c);
	while (our_huge_bytes() == 0)
		usleep(100);
	mig_collapse_hold(&c);
	bytes = our_huge_bytes();
	usleep(100000);
	assert_int_equal(our_huge_bytes(), bytes);
	mig_collapse_release(&c);
	wait_for_all(m);
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
		cmocka_unit_test(test_it_ends_while_it_is_held),
		cmocka_unit_test(test_it_never_began),
	};

	return cmocka_run_group_tests_name("collapse", tests, NULL, NULL);
}
