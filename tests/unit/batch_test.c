/* Page batches: round trips, and every way to lie in a header. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* As the compiler makes it: proto_page_sum() takes what suits the CPU. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "proto/wire.h"

#define RAM_PAGES 1000

static struct proto_batch sample(void)
{
	struct proto_batch b = {
		.type = PROTO_BATCH_DATA,
		.seq = 7,
		.nr_runs = 2,
		.nr_sums = 5,
		.runs = { { 3, 2 }, { 997, 3 } },
		.sums = { 1, 2, 3, 4, 5 },
	};

	return b;
}

static int round_trip(const struct proto_batch *in, struct proto_batch *out)
{
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	size_t bytes = proto_batch_encode(in, head), tail;
	int ret = proto_batch_tail_bytes(head, &tail);

	if (ret < 0)
		return ret;
	assert_int_equal(bytes, PROTO_BATCH_BYTES + tail);
	return proto_batch_decode(head, bytes, RAM_PAGES, out);
}

static void test_round_trip(void **state)
{
	struct proto_batch in = sample(), out;

	(void)state;
	assert_int_equal(round_trip(&in, &out), 0);
	assert_int_equal(out.type, PROTO_BATCH_DATA);
	assert_int_equal(out.seq, 7);
	assert_int_equal(out.nr_runs, 2);
	assert_memory_equal(out.runs, in.runs, 2 * sizeof(in.runs[0]));
	assert_memory_equal(out.sums, in.sums, 5 * sizeof(in.sums[0]));
}

static void test_runs_stay_inside_ram(void **state)
{
	static const struct proto_run bad[] = {
		{ 0, 0 },          { RAM_PAGES, 1 },  { RAM_PAGES - 1, 2 },
		{ UINT64_MAX, 1 }, { 1, UINT64_MAX }, { UINT64_MAX - 1, 3 },
	};
	struct proto_batch out;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct proto_batch in = { .type = PROTO_BATCH_ZERO,
					  .nr_runs = 1,
					  .runs = { bad[i] } };

		assert_int_equal(round_trip(&in, &out), -EBADMSG);
	}
}

static void test_pages_and_sums_must_agree(void **state)
{
	struct proto_batch in = sample(), out;

	(void)state;
	in.nr_sums = 4;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
	in = sample();
	in.type = PROTO_BATCH_ZERO;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
	in = sample();
	in.type = PROTO_BATCH_BARRIER;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
	in = sample();
	in.type = PROTO_BATCH_MARK;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
	in = sample();
	in.type = (enum proto_batch_type)77;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
}

/* Whoever announces pages has memory set aside for them: not for all of RAM. */
static void test_no_more_is_announced_than_a_huge_page(void **state)
{
	struct proto_batch in = { .type = PROTO_BATCH_AHEAD,
				  .nr_runs = 1,
				  .runs = { { 0, PROTO_AHEAD_PAGES_MAX } } };
	struct proto_batch out;

	(void)state;
	assert_int_equal(round_trip(&in, &out), 0);
	in.runs[0].nr_pages++;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
	in.runs[0].nr_pages = 1;
	in.nr_sums = 1;
	assert_int_equal(round_trip(&in, &out), -EBADMSG);
}

static void test_long_zero_runs_are_fine(void **state)
{
	struct proto_batch in = { .type = PROTO_BATCH_ZERO,
				  .nr_runs = 1,
				  .runs = { { 0, RAM_PAGES } } };
	struct proto_batch out;

	(void)state;
	assert_int_equal(round_trip(&in, &out), 0);
	assert_int_equal(out.runs[0].nr_pages, RAM_PAGES);
}

/* Any single flipped bit of header, runs or sums is noticed. */
static void test_every_bit_counts(void **state)
{
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	struct proto_batch in = sample(), out;
	size_t bytes = proto_batch_encode(&in, head), bit, tail;

	(void)state;
	for (bit = 0; bit < bytes * 8; bit++) {
		head[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (proto_batch_tail_bytes(head, &tail) == 0 &&
		    PROTO_BATCH_BYTES + tail == bytes)
			assert_int_equal(proto_batch_decode(head, bytes,
							    RAM_PAGES, &out),
					 -EBADMSG);
		head[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	assert_int_equal(proto_batch_decode(head, bytes, RAM_PAGES, &out), 0);
}

static void test_truncation_is_noticed(void **state)
{
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	struct proto_batch in = sample(), out;
	size_t bytes = proto_batch_encode(&in, head), n;

	(void)state;
	for (n = 0; n < bytes; n++)
		assert_int_equal(proto_batch_decode(head, n, RAM_PAGES, &out),
				 -EBADMSG);
}

/* A page in the wrong place is as wrong as one with a wrong bit. */
static void test_page_sum_knows_its_place(void **state)
{
	uint8_t page[PROTO_PAGE_BYTES] = { 1, 2, 3 };
	uint64_t sum = proto_page_sum(5, page);

	(void)state;
	assert_int_equal(proto_page_sum(5, page), sum);
	assert_int_not_equal(proto_page_sum(6, page), sum);
	page[PROTO_PAGE_BYTES - 1] ^= 0x80;
	assert_int_not_equal(proto_page_sum(5, page), sum);
}

/* The peer's CPU may have other vectors: the sum is XXH3's by any of them. */
static void test_page_sum_is_the_same_everywhere(void **state)
{
	uint8_t page[PROTO_PAGE_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)(i * 31 + i / 256);
	for (uint64_t n = 0; n < 100; n++) {
		page[n * 40] ^= (uint8_t)n;
		assert_int_equal(proto_page_sum(n, page),
				 XXH3_64bits_withSeed(page, sizeof(page), n));
	}
}

static void test_zero_page_is_zero_to_the_last_byte(void **state)
{
	uint8_t *page = calloc(1, PROTO_PAGE_BYTES);
	size_t i;

	(void)state;
	assert_true(proto_page_is_zero(page));
	for (i = 0; i < PROTO_PAGE_BYTES; i++) {
		page[i] = 1;
		assert_false(proto_page_is_zero(page));
		page[i] = 0;
	}
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_runs_stay_inside_ram),
		cmocka_unit_test(test_pages_and_sums_must_agree),
		cmocka_unit_test(test_no_more_is_announced_than_a_huge_page),
		cmocka_unit_test(test_long_zero_runs_are_fine),
		cmocka_unit_test(test_every_bit_counts),
		cmocka_unit_test(test_truncation_is_noticed),
		cmocka_unit_test(test_page_sum_knows_its_place),
		cmocka_unit_test(test_page_sum_is_the_same_everywhere),
		cmocka_unit_test(test_zero_page_is_zero_to_the_last_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
