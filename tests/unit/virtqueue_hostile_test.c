/*
 * Rings that no driver makes: each ends in DEVICE_NEEDS_RESET with the reason that
 * it should have, the machine lives on, and a reset gives the device back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "virtio_driver.h"

#define MIB        (UINT64_C(1) << 20)
#define ENTRIES    8
#define DESC_NEXT  1
#define DESC_WRITE 2
#define DESC_IND   4
#define RAM_BYTES  (VM_LOW_RAM_MAX + 16 * MIB) /* on both sides of the hole */
#define LOW_END    VM_LOW_RAM_MAX
#define HIGH_END   (VM_HIGH_RAM_GPA + 16 * MIB)
#define BUF        (8 * MIB)
#define TABLE      (9 * MIB)

static void sink_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct virtio_chain c;

	(void)v;
	while (virtio_pop(q, &c) == 1)
		virtio_push(q, c.head, 0);
	virtio_notify(q);
}

static void sink_free(struct virtio_device *v)
{
	free(v);
}

static const struct virtio_ops sink_ops = {
	.name = "virtio-sink",
	.type = 42,
	.kicked = sink_kicked,
	.free = sink_free,
};

static void init_sink(struct vdrv *d, uint64_t features)
{
	struct vm *vm = vdrv_machine(RAM_BYTES);
	struct virtio_device *v = calloc(1, sizeof(*v));

	assert_non_null(v);
	assert_int_equal(virtio_device_init(v, &sink_ops, vm, 0, 1,
					    VIRTIO_QUEUE_ENTRIES_MAX, 0, 0),
			 0);
	vdrv_init(d, vm, v, features);
	vdrv_queue(d, 0, ENTRIES);
}

static void desc(struct vdrv *d, uint16_t i, uint64_t gpa, uint32_t bytes,
		 uint16_t flags, uint16_t next)
{
	vdrv_set_desc(d, 0, i, gpa, bytes, flags, next);
}

/* Descriptor i of an indirect table at TABLE. */
static void indirect(struct vdrv *d, uint16_t i, uint64_t gpa, uint32_t bytes,
		     uint16_t flags, uint16_t next)
{
	uint64_t own = d->queues[0].desc_gpa;

	d->queues[0].desc_gpa = TABLE;
	desc(d, i, gpa, bytes, flags, next);
	d->queues[0].desc_gpa = own;
}

/* avail.idx */

static void idx_jumps_by_one_too_many(struct vdrv *d)
{
	desc(d, 0, BUF, 16, 0, 0);
	vdrv_publish(d, 0, 0, ENTRIES + 1);
}

static void idx_goes_back(struct vdrv *d)
{
	vdrv_publish(d, 0, 0, UINT16_MAX);
}

static void idx_jumps_half_way_round(struct vdrv *d)
{
	vdrv_publish(d, 0, 0, 0x8000);
}

/* Indices of descriptors */

static void head_beyond_the_table(struct vdrv *d)
{
	vdrv_publish(d, 0, ENTRIES, 1);
}

static void head_of_all_ones(struct vdrv *d)
{
	vdrv_publish(d, 0, UINT16_MAX, 1);
}

static void next_beyond_the_table(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_NEXT, ENTRIES);
	vdrv_publish(d, 0, 0, 1);
}

static void next_of_all_ones(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_NEXT, UINT16_MAX);
	vdrv_publish(d, 0, 0, 1);
}

/* Loops */

static void loop_of_one(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_NEXT, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void loop_of_all(struct vdrv *d)
{
	for (uint16_t i = 0; i < ENTRIES; i++)
		desc(d, i, BUF, 16, DESC_NEXT, (uint16_t)((i + 1) % ENTRIES));
	vdrv_publish(d, 0, 3, 1);
}

static void loop_in_an_indirect_table(struct vdrv *d)
{
	desc(d, 0, TABLE, 32, DESC_IND, 0);
	indirect(d, 0, BUF, 16, DESC_NEXT | DESC_WRITE, 1);
	indirect(d, 1, BUF, 16, DESC_NEXT | DESC_WRITE, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void more_segments_than_allowed(struct vdrv *d)
{
	desc(d, 0, TABLE, 16 * (VIRTIO_CHAIN_SEGS_MAX + 1), DESC_IND, 0);
	for (uint16_t i = 0; i <= VIRTIO_CHAIN_SEGS_MAX; i++)
		indirect(d, i, BUF, 16,
			 i < VIRTIO_CHAIN_SEGS_MAX ? DESC_NEXT : 0,
			 (uint16_t)(i + 1));
	vdrv_publish(d, 0, 0, 1);
}

/* Addresses and lengths */

static void buffer(struct vdrv *d, uint64_t gpa, uint32_t bytes)
{
	desc(d, 0, gpa, bytes, DESC_WRITE, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void buffer_at_the_end_of_low_ram(struct vdrv *d)
{
	buffer(d, LOW_END, 1);
}

static void buffer_into_the_hole(struct vdrv *d)
{
	buffer(d, LOW_END - 8, 9);
}

static void buffer_in_the_hole(struct vdrv *d)
{
	buffer(d, VM_PCI_MMIO_GPA, 4096);
}

static void buffer_over_the_hole(struct vdrv *d)
{
	buffer(d, LOW_END - 4096, (UINT32_C(1) << 30) + 8192);
}

static void buffer_out_of_high_ram(struct vdrv *d)
{
	buffer(d, HIGH_END - 4, 5);
}

static void buffer_far_beyond(struct vdrv *d)
{
	buffer(d, UINT64_C(1) << 52, 4096);
}

static void buffer_that_wraps(struct vdrv *d)
{
	buffer(d, UINT64_MAX - 7, 16);
}

static void buffer_at_the_last_byte(struct vdrv *d)
{
	buffer(d, UINT64_MAX, UINT32_MAX);
}

static void buffer_of_nothing(struct vdrv *d)
{
	buffer(d, BUF, 0);
}

static void nothing_at_the_end_of_a_chain(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_NEXT, 1);
	desc(d, 1, BUF, 0, DESC_WRITE, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void second_buffer_outside(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_NEXT, 1);
	desc(d, 1, HIGH_END, 16, DESC_WRITE, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void chain_of_four_gib(struct vdrv *d)
{
	desc(d, 0, 0, UINT32_C(3) << 30, DESC_NEXT, 1);
	desc(d, 1, 0, UINT32_C(1) << 30, 0, 0);
	vdrv_publish(d, 0, 0, 1);
}

/* Directions */

static void readable_after_writable(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_WRITE | DESC_NEXT, 1);
	desc(d, 1, BUF, 16, 0, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void readable_after_writable_in_a_table(struct vdrv *d)
{
	desc(d, 0, BUF, 16, DESC_WRITE | DESC_NEXT, 1);
	desc(d, 1, TABLE, 16, DESC_IND, 0);
	indirect(d, 0, BUF, 16, 0, 0);
	vdrv_publish(d, 0, 0, 1);
}

/* Indirect tables */

static void table(struct vdrv *d, uint64_t gpa, uint32_t bytes)
{
	desc(d, 0, gpa, bytes, DESC_IND, 0);
	indirect(d, 0, BUF, 16, 0, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void table_of_nothing(struct vdrv *d)
{
	table(d, TABLE, 0);
}

static void table_of_an_odd_size(struct vdrv *d)
{
	table(d, TABLE, 24);
}

static void table_smaller_than_one(struct vdrv *d)
{
	table(d, TABLE, 15);
}

static void table_outside(struct vdrv *d)
{
	table(d, HIGH_END, 16);
}

static void table_into_the_hole(struct vdrv *d)
{
	table(d, LOW_END - 16, 32);
}

static void table_that_wraps(struct vdrv *d)
{
	table(d, UINT64_MAX - 15, 0xfffffff0);
}

static void table_that_goes_on(struct vdrv *d)
{
	desc(d, 0, TABLE, 16, DESC_IND | DESC_NEXT, 1);
	indirect(d, 0, BUF, 16, 0, 0);
	desc(d, 1, BUF, 16, DESC_WRITE, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void table_in_a_table(struct vdrv *d)
{
	desc(d, 0, TABLE, 16, DESC_IND, 0);
	indirect(d, 0, TABLE, 16, DESC_IND, 0);
	vdrv_publish(d, 0, 0, 1);
}

static void next_beyond_an_indirect_table(struct vdrv *d)
{
	desc(d, 0, TABLE, 32, DESC_IND, 0);
	indirect(d, 0, BUF, 16, DESC_NEXT, 2);
	vdrv_publish(d, 0, 0, 1);
}

static void outside_from_an_indirect_table(struct vdrv *d)
{
	desc(d, 0, TABLE, 16, DESC_IND, 0);
	indirect(d, 0, HIGH_END - 1, 2, 0, 0);
	vdrv_publish(d, 0, 0, 1);
}

/* The rings' own places, as registers say them. */

static struct virtio_queue *regs(struct vdrv *d)
{
	return &d->dev->queues[0];
}

static void size_of_zero(struct vdrv *d)
{
	regs(d)->entries = 0;
}

static void size_of_no_power(struct vdrv *d)
{
	regs(d)->entries = 6;
}

static void size_too_large(struct vdrv *d)
{
	regs(d)->entries = 2 * VIRTIO_QUEUE_ENTRIES_MAX;
}

static void desc_not_aligned(struct vdrv *d)
{
	regs(d)->desc_gpa += 8;
}

static void avail_not_aligned(struct vdrv *d)
{
	regs(d)->avail_gpa += 1;
}

static void used_not_aligned(struct vdrv *d)
{
	regs(d)->used_gpa += 2;
}

static void desc_outside(struct vdrv *d)
{
	regs(d)->desc_gpa = HIGH_END - 16 * ENTRIES + 16;
}

static void avail_event_outside(struct vdrv *d)
{
	regs(d)->avail_gpa = LOW_END - 4 - 2 * ENTRIES;
}

static void used_event_outside(struct vdrv *d)
{
	regs(d)->used_gpa = LOW_END - 4 - 8 * ENTRIES;
}

static void used_in_the_hole(struct vdrv *d)
{
	regs(d)->used_gpa = VM_PCI_MMIO_GPA;
}

static void rings_at_the_last_bytes(struct vdrv *d)
{
	regs(d)->desc_gpa = UINT64_MAX & ~UINT64_C(15);
	regs(d)->avail_gpa = UINT64_MAX & ~UINT64_C(15);
	regs(d)->used_gpa = UINT64_MAX & ~UINT64_C(15);
}

static const struct attack {
	const char *name;
	void (*spoil)(struct vdrv *d);
	const char *why;
} attacks[] = {
#define ATTACK(fn, why) { #fn, fn, why }
	ATTACK(idx_jumps_by_one_too_many, "the available ring jumped"),
	ATTACK(idx_goes_back, "the available ring jumped"),
	ATTACK(idx_jumps_half_way_round, "the available ring jumped"),
	ATTACK(head_beyond_the_table, "a descriptor beyond its table"),
	ATTACK(head_of_all_ones, "a descriptor beyond its table"),
	ATTACK(next_beyond_the_table, "a descriptor beyond its table"),
	ATTACK(next_of_all_ones, "a descriptor beyond its table"),
	ATTACK(loop_of_one, "a chain too long"),
	ATTACK(loop_of_all, "a chain too long"),
	ATTACK(loop_in_an_indirect_table, "a chain too long"),
	ATTACK(more_segments_than_allowed, "a chain too long"),
	ATTACK(buffer_at_the_end_of_low_ram, "a descriptor outside memory"),
	ATTACK(buffer_into_the_hole, "a descriptor outside memory"),
	ATTACK(buffer_in_the_hole, "a descriptor outside memory"),
	ATTACK(buffer_over_the_hole, "a descriptor outside memory"),
	ATTACK(buffer_out_of_high_ram, "a descriptor outside memory"),
	ATTACK(buffer_far_beyond, "a descriptor outside memory"),
	ATTACK(buffer_that_wraps, "a descriptor outside memory"),
	ATTACK(buffer_at_the_last_byte, "a descriptor outside memory"),
	ATTACK(buffer_of_nothing, "an empty descriptor"),
	ATTACK(nothing_at_the_end_of_a_chain, "an empty descriptor"),
	ATTACK(second_buffer_outside, "a descriptor outside memory"),
	ATTACK(chain_of_four_gib, "a chain of 4 GiB or more"),
	ATTACK(readable_after_writable,
	       "a readable descriptor after a writable one"),
	ATTACK(readable_after_writable_in_a_table,
	       "a readable descriptor after a writable one"),
	ATTACK(table_of_nothing, "an indirect table of a bad size"),
	ATTACK(table_of_an_odd_size, "an indirect table of a bad size"),
	ATTACK(table_smaller_than_one, "an indirect table of a bad size"),
	ATTACK(table_outside, "an indirect table outside memory"),
	ATTACK(table_into_the_hole, "an indirect table outside memory"),
	ATTACK(table_that_wraps, "an indirect table outside memory"),
	ATTACK(table_that_goes_on, "an indirect descriptor that goes on"),
	ATTACK(table_in_a_table, "an indirect descriptor in an indirect table"),
	ATTACK(next_beyond_an_indirect_table, "a descriptor beyond its table"),
	ATTACK(outside_from_an_indirect_table, "a descriptor outside memory"),
	ATTACK(size_of_zero, "a queue that is not in memory"),
	ATTACK(size_of_no_power, "a queue that is not in memory"),
	ATTACK(size_too_large, "a queue that is not in memory"),
	ATTACK(desc_not_aligned, "a queue that is not in memory"),
	ATTACK(avail_not_aligned, "a queue that is not in memory"),
	ATTACK(used_not_aligned, "a queue that is not in memory"),
	ATTACK(desc_outside, "a queue that is not in memory"),
	ATTACK(avail_event_outside, "a queue that is not in memory"),
	ATTACK(used_event_outside, "a queue that is not in memory"),
	ATTACK(used_in_the_hole, "a queue that is not in memory"),
	ATTACK(rings_at_the_last_bytes, "a queue that is not in memory"),
#undef ATTACK
};

/* The device works: one request goes round. */
static void expect_works(struct vdrv *d)
{
	const struct vdrv_piece p = { BUF, 16, true };
	uint16_t head = vdrv_add(d, 0, &p, 1);

	vdrv_kick(d, 0);
	vdrv_wait(d, 0, head);
	assert_false(vdrv_is_broken(d));
}

static void expect_broken(struct vdrv *d, const struct attack *a)
{
	const char *why = vdrv_wait_broken(d);

	if (strcmp(why, a->why) != 0)
		fail_msg("%s: broken by %s", a->name, why);
	vdrv_wait_interrupt(d, 0);
	/* Nothing came back, and a kick does not wake it up again. */
	vdrv_kick(d, 0);
	vdrv_pause(d);
	assert_int_equal(d->dev->queues[0].next_used, 0);
	vdrv_resume(d);
	assert_true(vdrv_is_broken(d));
}

static void attack(const struct attack *a, uint64_t features)
{
	struct vdrv d;

	init_sink(&d, features);
	a->spoil(&d);
	vdrv_start(&d);
	vdrv_kick(&d, 0);
	expect_broken(&d, a);
	vdrv_reset(&d);
	vdrv_agree(&d, features);
	vdrv_queue(&d, 0, ENTRIES);
	vdrv_start(&d);
	expect_works(&d);
	vdrv_fini(&d);
}

static void test_attacks(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(attacks) / sizeof(attacks[0]); i++) {
		attack(&attacks[i], VIRTIO_F_INDIRECT_DESC);
		attack(&attacks[i],
		       VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX);
	}
}

static void test_indirect_that_nobody_agreed_to(void **state)
{
	const struct attack a = { "indirect", NULL,
				  "an indirect descriptor nobody agreed to" };
	struct vdrv d;

	(void)state;
	init_sink(&d, 0);
	table(&d, TABLE, 16);
	vdrv_start(&d);
	expect_broken(&d, &a);
	vdrv_fini(&d);
}

/* A ring that was good for a while, with other requests in front. */
static void test_attack_behind_good_requests(void **state)
{
	struct vdrv d;

	(void)state;
	init_sink(&d, 0);
	vdrv_start(&d);
	for (int i = 0; i < 20; i++)
		expect_works(&d);
	vdrv_publish(&d, 0, ENTRIES, 1);
	vdrv_kick(&d, 0);
	assert_string_equal(vdrv_wait_broken(&d),
			    "a descriptor beyond its table");
	vdrv_pause(&d);
	assert_int_equal(d.dev->queues[0].next_used, 20);
	vdrv_fini(&d);
}

/* Broken here is broken over there, until the driver resets it. */
static void test_broken_moves(void **state)
{
	struct vdrv from, to;

	(void)state;
	init_sink(&from, 0);
	vdrv_publish(&from, 0, ENTRIES, 1);
	vdrv_start(&from);
	vdrv_wait_broken(&from);
	init_sink(&to, 0);
	vdrv_move(&from, &to);
	vdrv_fini(&from);
	assert_true(vdrv_is_broken(&to));
	vdrv_resume(&to);
	vdrv_reset(&to);
	vdrv_agree(&to, 0);
	vdrv_queue(&to, 0, ENTRIES);
	vdrv_start(&to);
	expect_works(&to);
	vdrv_fini(&to);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_attacks),
		cmocka_unit_test(test_indirect_that_nobody_agreed_to),
		cmocka_unit_test(test_attack_behind_good_requests),
		cmocka_unit_test(test_broken_moves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
