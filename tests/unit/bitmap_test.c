/* Bitmaps of pages: those that begin on huge pages and those that do not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>

#include "vmm/bitmap.h"
#include "vmm/mem.h"

/* Of 160 MiB of RAM, of 64 GiB and of a page more. */
static const uint64_t sizes[] = { 40960, UINT64_C(1) << 24,
				  (UINT64_C(1) << 24) + 1 };

static uint64_t *new_map(uint64_t bits)
{
	uint64_t *map = bitmap_new(bits);

	assert_non_null(map);
	assert_int_equal(bitmap_count(map, bits), 0);
	return map;
}

/* What is given back around one must not be a neighbour's. */
static void test_new_ones_are_clear_and_apart(void **state)
{
	uint64_t *maps[8];
	size_t i, j;

	(void)state;
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		for (j = 0; j < 8; j++) {
			maps[j] = new_map(sizes[i]);
			bitmap_set(maps[j], j);
			bitmap_set(maps[j], sizes[i] - 1);
		}
		for (j = 0; j < 8; j++) {
			assert_int_equal(bitmap_count(maps[j], sizes[i]), 2);
			assert_true(bitmap_test(maps[j], j));
			bitmap_free(maps[j], sizes[i]);
		}
	}
	bitmap_free(NULL, 64);
}

static void test_big_ones_begin_on_huge_pages(void **state)
{
	uint64_t *map = new_map(sizes[1]);

	(void)state;
	assert_int_equal((uintptr_t)map % VM_HUGE_PAGE_BYTES, 0);
	bitmap_free(map, sizes[1]);
}

static uint64_t mapped_bytes(void)
{
	uint64_t pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f) {
		if (fscanf(f, "%" SCNu64, &pages) != 1)
			pages = 0;
		fclose(f);
	}
	assert_true(pages > 0);
	return pages * VM_PAGE_BYTES;
}

/* Also where a bitmap does not end with a page. */
static void test_freed_leave_nothing_mapped(void **state)
{
	uint64_t before_bytes, i;

	(void)state;
	bitmap_free(new_map(sizes[2]), sizes[2]);
	before_bytes = mapped_bytes();
	for (i = 0; i < 100; i++)
		bitmap_free(new_map(sizes[2]), sizes[2]);
	/* 100 tails would be 200 MiB; a sanitizer's own memory is less. */
	assert_true(mapped_bytes() < before_bytes + (50u << 20));
}

static void test_move_takes_what_it_gives(void **state)
{
	const uint64_t bits = 1000;
	uint64_t *from = new_map(bits), *to = new_map(bits);

	(void)state;
	bitmap_set(from, 5);
	bitmap_set(from, 999);
	bitmap_set(to, 6);
	bitmap_move(to, from, bits);
	assert_int_equal(bitmap_count(from, bits), 0);
	assert_int_equal(bitmap_count(to, bits), 3);
	assert_true(bitmap_test(to, 5) && bitmap_test(to, 6) &&
		    bitmap_test(to, 999));
	bitmap_set(from, 7);
	bitmap_move(NULL, from, bits);
	assert_int_equal(bitmap_count(from, bits), 0);
	bitmap_free(from, bits);
	bitmap_free(to, bits);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new_ones_are_clear_and_apart),
		cmocka_unit_test(test_big_ones_begin_on_huge_pages),
		cmocka_unit_test(test_freed_leave_nothing_mapped),
		cmocka_unit_test(test_move_takes_what_it_gives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
