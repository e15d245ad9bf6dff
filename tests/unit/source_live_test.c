/* Dirty pages of much memory: what was never populated is left out, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "tests/unit/source_fixture.h"

/* Two chunks and a piece of one, which ends within a word. */
#define CHUNK_PAGES UINT64_C(32768)
#define PAGES       (2 * CHUNK_PAGES + 70)

static struct mig_source *new_source(void)
{
	struct vm_mem *mem;

	assert_int_equal(vm_mem_new(PAGES * VM_PAGE_BYTES, VM_MEM_ANON, &mem),
			 0);
	return source_fixture_new(mem);
}

static void free_source(struct mig_source *s)
{
	vm_mem_free(s->mem);
	source_fixture_free(s);
}

static void touch(struct mig_source *s, uint64_t page)
{
	vm_mem_base(s->mem)[page * VM_PAGE_BYTES] = 1;
}

/* As `manual` does first. */
static void report_all(struct mig_source *s)
{
	memset(s->dirty, 0xff, bitmap_words(PAGES) * sizeof(*s->dirty));
}

static void expect_dirty(struct mig_source *s, const uint64_t *pages, size_t nr)
{
	assert_int_equal(mig_source_drop_unpopulated(s), 0);
	assert_int_equal(bitmap_count(s->dirty, PAGES), nr);
	for (size_t i = 0; i < nr; i++)
		assert_true(bitmap_test(s->dirty, pages[i]));
}

static void test_scan_finds_what_is_alive(void **state)
{
	struct mig_source *s = new_source();
	size_t first, end = 0;

	(void)state;
	touch(s, 3);
	touch(s, PAGES - 1);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	assert_int_equal(bitmap_count(s->todo, PAGES), 2);
	assert_true(bitmap_test(s->todo, 3) && bitmap_test(s->todo, PAGES - 1));

	assert_true(mig_source_next_live(s, &first, &end));
	assert_int_equal(first, 0);
	assert_int_equal(end, CHUNK_PAGES / 64);
	assert_true(mig_source_next_live(s, &first, &end));
	assert_int_equal(first, 2 * CHUNK_PAGES / 64);
	assert_int_equal(end, bitmap_words(PAGES));
	assert_false(mig_source_next_live(s, &first, &end));
	free_source(s);
}

static void test_nothing_alive(void **state)
{
	struct mig_source *s = new_source();
	size_t first, end = 0;

	(void)state;
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	assert_false(mig_source_next_live(s, &first, &end));
	report_all(s);
	expect_dirty(s, NULL, 0);
	free_source(s);
}

static void test_only_populated_stay_dirty(void **state)
{
	static const uint64_t touched[] = { 0, 64, CHUNK_PAGES - 1, PAGES - 1 };
	struct mig_source *s = new_source();

	(void)state;
	for (size_t i = 0; i < 4; i++)
		touch(s, touched[i]);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	report_all(s);
	expect_dirty(s, touched, 4);
	free_source(s);
}

/* Sent once, they must be sent again whatever has become of them: a balloon's. */
static void test_sent_stay_dirty(void **state)
{
	static const uint64_t expected[] = { 3, 5 };
	struct mig_source *s = new_source();

	(void)state;
	touch(s, 3);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	bitmap_set(s->sent, 5);
	bitmap_set(s->dirty, 3);
	bitmap_set(s->dirty, 4);
	bitmap_set(s->dirty, 5);
	expect_dirty(s, expected, 2);
	free_source(s);
}

static void test_chunks_come_to_life(void **state)
{
	static const uint64_t expected[] = { 3, CHUNK_PAGES + 9, PAGES - 70 };
	struct mig_source *s = new_source();

	(void)state;
	touch(s, 3);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	report_all(s);
	expect_dirty(s, expected, 1);
	touch(s, CHUNK_PAGES + 9);
	touch(s, PAGES - 70);
	report_all(s);
	expect_dirty(s, expected, 3);
	/* And without a scan of everything: only what was reported. */
	memset(s->dirty, 0, bitmap_words(PAGES) * sizeof(*s->dirty));
	bitmap_set(s->dirty, CHUNK_PAGES + 9);
	bitmap_set(s->dirty, CHUNK_PAGES + 10);
	expect_dirty(s, expected + 1, 1);
	free_source(s);
}

/* Everything that is due, wherever it is, counts once. */
static void test_next_todo_joins_all(void **state)
{
	struct mig_source *s = new_source();

	(void)state;
	touch(s, 3);
	touch(s, PAGES - 1);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	bitmap_set(s->dirty, 3);
	bitmap_set(s->dirty, 7);
	bitmap_set(s->later, 7);
	bitmap_set(s->later, PAGES - 2);
	assert_int_equal(mig_source_next_todo(s), 4);
	assert_int_equal(bitmap_count(s->todo, PAGES), 4);
	assert_int_equal(bitmap_count(s->later, PAGES), 0);
	free_source(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scan_finds_what_is_alive),
		cmocka_unit_test(test_nothing_alive),
		cmocka_unit_test(test_only_populated_stay_dirty),
		cmocka_unit_test(test_sent_stay_dirty),
		cmocka_unit_test(test_chunks_come_to_life),
		cmocka_unit_test(test_next_todo_joins_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
