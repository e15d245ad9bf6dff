/*
 * Split rings: requests come out whole, the driver hears of them as it asked to,
 * stops lose and double nothing, and a ring that makes no sense breaks the device
 * and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "virtio_driver.h"

#define MIB        (UINT64_C(1) << 20)
#define ENTRIES    8
#define DESC_NEXT  1
#define DESC_WRITE 2
#define DESC_IND   4
#define ECHO_BYTES (1 << 16)
#define ALL_COMMON (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

/* Answers what it is sent, every bit turned round. Counts, on its worker. */
struct echo {
	struct virtio_device v;
	_Atomic unsigned int nr_started, nr_stopped, nr_reset, nr_done;
	_Atomic bool refuse_start;
	_Atomic bool hold; /* put back what is popped */
	uint8_t bytes[ECHO_BYTES];
};

static struct echo *to_echo(struct virtio_device *v)
{
	return (struct echo *)v;
}

static uint32_t answer(struct echo *e, const struct virtio_chain *c)
{
	size_t n = virtio_drain(c, 0, e->bytes, sizeof(e->bytes));

	for (size_t i = 0; i < n; i++)
		e->bytes[i] = (uint8_t)~e->bytes[i];
	return (uint32_t)virtio_fill(&e->v, c, 0, e->bytes, n);
}

static void echo_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct echo *e = to_echo(v);
	struct virtio_chain c;

	while (virtio_pop(q, &c) == 1) {
		uint32_t bytes;

		if (e->hold) {
			virtio_put_back(q);
			break;
		}
		bytes = answer(e, &c);
		e->nr_done++; /* before the driver can see it */
		virtio_push(q, c.head, bytes);
	}
	virtio_notify(q);
}

static int echo_start(struct virtio_device *v)
{
	to_echo(v)->nr_started++;
	return to_echo(v)->refuse_start ? -EIO : 0;
}

static void echo_stop(struct virtio_device *v)
{
	to_echo(v)->nr_stopped++;
}

static void echo_reset(struct virtio_device *v)
{
	to_echo(v)->nr_reset++;
}

static void echo_free(struct virtio_device *v)
{
	free(v);
}

static const struct virtio_ops echo_ops = {
	.name = "virtio-echo",
	.type = 42,
	.kicked = echo_kicked,
	.start = echo_start,
	.stop = echo_stop,
	.reset = echo_reset,
	.free = echo_free,
};

static struct echo *init_echo(struct vdrv *d, uint64_t ram_bytes,
			      uint64_t features)
{
	struct vm *vm = vdrv_machine(ram_bytes);
	struct echo *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	assert_int_equal(virtio_device_init(&e->v, &echo_ops, vm, 0, 2,
					    VIRTIO_QUEUE_ENTRIES_MAX, 0, 0),
			 0);
	vdrv_init(d, vm, &e->v, features);
	return e;
}

/* A running device with one queue. */
static struct echo *start_echo(struct vdrv *d, uint64_t features)
{
	struct echo *e = init_echo(d, 16 * MIB, features);

	vdrv_queue(d, 0, ENTRIES);
	vdrv_start(d);
	return e;
}

static void put(struct vdrv *d, uint64_t gpa, const char *text)
{
	memcpy(vdrv_hva(d, gpa), text, strlen(text));
}

static void expect_turned(struct vdrv *d, uint64_t gpa, const char *text)
{
	const uint8_t *p = vdrv_hva(d, gpa);

	for (size_t i = 0; text[i] != '\0'; i++)
		assert_int_equal(p[i], (uint8_t)~(uint8_t)text[i]);
}

static void test_pieces_on_both_sides(void **state)
{
	struct vdrv d;
	uint64_t buf;

	(void)state;
	start_echo(&d, 0);
	buf = vdrv_alloc(&d, 8192);
	put(&d, buf, "hello");
	put(&d, buf + 100, "world");
	const struct vdrv_piece pieces[] = { { buf, 5, false },
					     { buf + 100, 5, false },
					     { buf + 4090, 3, true },
					     { buf + 4093, 6, true },
					     { buf + 5000, 10, true } };
	uint16_t head = vdrv_add(&d, 0, pieces, 5);

	vdrv_kick(&d, 0);
	assert_int_equal(vdrv_wait(&d, 0, head), 10);
	expect_turned(&d, buf + 4090, "helloworl");
	expect_turned(&d, buf + 5000, "d");
	assert_int_equal(*vdrv_hva(&d, buf + 5001), 0);
	vdrv_wait_interrupt(&d, 1);
	assert_int_equal(vdrv_interrupts(&d, 0), 0);
	vdrv_fini(&d);
}

static void test_indirect_as_long_as_allowed(void **state)
{
	struct vdrv_piece pieces[VIRTIO_CHAIN_SEGS_MAX];
	struct vdrv d;
	uint64_t buf;
	uint16_t head;

	(void)state;
	start_echo(&d, ALL_COMMON);
	buf = vdrv_alloc(&d, 2 * VIRTIO_CHAIN_SEGS_MAX);
	for (unsigned int i = 0; i < VIRTIO_CHAIN_SEGS_MAX; i++) {
		pieces[i] = (struct vdrv_piece){ buf + 2 * i, 1, i >= 128 };
		*vdrv_hva(&d, buf + 2 * i) = (uint8_t)i;
	}
	head = vdrv_add_indirect(&d, 0, pieces, VIRTIO_CHAIN_SEGS_MAX);
	vdrv_kick(&d, 0);
	assert_int_equal(vdrv_wait(&d, 0, head), 128);
	for (unsigned int i = 0; i < 128; i++)
		assert_int_equal(*vdrv_hva(&d, buf + 2 * (128 + i)),
				 (uint8_t)~i);
	vdrv_fini(&d);
}

/* Section 2.7.5.3.2: ordinary descriptors, then one indirect. */
static void test_indirect_at_the_end_of_a_chain(void **state)
{
	struct vdrv d;
	uint64_t buf, table;

	(void)state;
	start_echo(&d, ALL_COMMON);
	buf = vdrv_alloc(&d, 4096);
	table = vdrv_alloc(&d, 4096);
	put(&d, buf, "ab");
	vdrv_set_desc(&d, 0, 0, buf, 2, DESC_NEXT, 5);
	/* The indirect one's WRITE flag means nothing (2.7.5.3.2). */
	vdrv_set_desc(&d, 0, 5, table, 16, DESC_IND | DESC_WRITE, 0);
	d.queues[0].desc_gpa = table;
	vdrv_set_desc(&d, 0, 0, buf + 16, 8, DESC_WRITE, 0);
	d.queues[0].is_free[0] = false;
	vdrv_publish(&d, 0, 0, 1);
	vdrv_kick(&d, 0);
	assert_int_equal(vdrv_wait(&d, 0, 0), 2);
	expect_turned(&d, buf + 16, "ab");
	vdrv_fini(&d);
}

/*
 * One request through the queue, kicked only if the device asks for it: once it has
 * found the queue empty. If it saw the request before that it never does.
 */
static void one(struct vdrv *d, uint64_t buf)
{
	const struct vdrv_piece p[] = { { buf, 4, false },
					{ buf + 8, 4, true } };
	uint16_t head = vdrv_add(d, 0, p, 2), used;
	uint32_t bytes;

	while (!vdrv_used(d, 0, &used, &bytes)) {
		vdrv_kick_if_wanted(d, 0);
		sched_yield();
	}
	assert_int_equal(used, head);
	assert_int_equal(bytes, 4);
}

static void test_event_idx_of_the_driver(void **state)
{
	struct vdrv d;
	uint64_t buf;

	(void)state;
	start_echo(&d, ALL_COMMON);
	buf = vdrv_alloc(&d, 4096);
	vdrv_set_used_event(&d, 0, 2); /* the third */
	one(&d, buf);
	one(&d, buf);
	vdrv_pause(&d);
	assert_int_equal(vdrv_interrupts(&d, 1), 0);
	vdrv_resume(&d);
	one(&d, buf);
	vdrv_wait_interrupt(&d, 1);
	one(&d, buf);
	vdrv_pause(&d);
	assert_int_equal(vdrv_interrupts(&d, 1), 0);
	vdrv_fini(&d);
}

static void test_driver_wants_no_interrupts(void **state)
{
	const struct vdrv_piece p = { MIB, 4, true };
	struct vdrv d;
	uint16_t head;

	(void)state;
	start_echo(&d, 0);
	vdrv_set_avail_flags(&d, 0, 1);
	head = vdrv_add(&d, 0, &p, 1);
	vdrv_kick(&d, 0);
	vdrv_wait(&d, 0, head);
	vdrv_pause(&d);
	assert_int_equal(vdrv_interrupts(&d, 1), 0);
	vdrv_fini(&d);
}

/* Both indices pass 65535, with batches that end on either side of it. */
static void test_indices_wrap(void **state)
{
	struct vdrv d;
	uint32_t bytes, nr = 0;
	uint64_t buf;
	uint16_t head;
	struct echo *e;

	(void)state;
	e = start_echo(&d, ALL_COMMON);
	buf = vdrv_alloc(&d, 4096);
	const struct vdrv_piece p = { buf, 4, true };

	for (unsigned int round = 0; nr < 70000; round++) {
		unsigned int batch = 1 + round % ENTRIES;

		for (unsigned int i = 0; i < batch; i++)
			vdrv_add(&d, 0, &p, 1);
		vdrv_kick(&d, 0);
		for (unsigned int i = 0; i < batch;) {
			if (vdrv_used(&d, 0, &head, &bytes))
				i++;
			else
				sched_yield();
		}
		nr += batch;
	}
	assert_int_equal(e->nr_done, nr);
	assert_int_equal(d.queues[0].used_idx, (uint16_t)nr);
	assert_false(vdrv_is_broken(&d));
	vdrv_fini(&d);
}

static void test_put_back_is_found_again(void **state)
{
	const struct vdrv_piece p = { MIB, 4, true };
	struct vdrv d;
	struct echo *e;
	uint16_t head;

	(void)state;
	e = init_echo(&d, 16 * MIB, ALL_COMMON);
	e->hold = true;
	vdrv_queue(&d, 0, ENTRIES);
	head = vdrv_add(&d, 0, &p, 1);
	vdrv_start(&d);
	vdrv_pause(&d);
	assert_int_equal(e->nr_done, 0);
	assert_int_equal(d.dev->queues[0].next_avail, 0);
	e->hold = false;
	vdrv_resume(&d); /* looks without a kick */
	vdrv_wait(&d, 0, head);
	vdrv_fini(&d);
}

static bool is_marked(const uint64_t *bitmap, uint64_t gpa)
{
	return bitmap[gpa / VM_PAGE_BYTES / 64] >> gpa / VM_PAGE_BYTES % 64 & 1;
}

/* What the device stored to, and nothing else, is marked for the tracker. */
static void test_stores_are_marked(void **state)
{
	uint64_t bitmap[16 * MIB / VM_PAGE_BYTES / 64] = { 0 };
	struct vdrv d;
	uint64_t buf;
	unsigned int nr = 0;
	uint16_t head;

	(void)state;
	init_echo(&d, 16 * MIB, ALL_COMMON);
	vdrv_queue(&d, 0, VIRTIO_QUEUE_ENTRIES_MAX);
	buf = vdrv_alloc(&d, 3 * VM_PAGE_BYTES);
	assert_int_equal(vm_mem_user_dirty_start(d.vm->mem), 0);
	vdrv_start(&d);
	const struct vdrv_piece pieces[] = {
		{ buf, 16, false },
		{ buf + VM_PAGE_BYTES + 4090, 16, true },
	};
	head = vdrv_add(&d, 0, pieces, 2);
	vdrv_kick(&d, 0);
	vdrv_wait(&d, 0, head);
	vdrv_pause(&d);
	vm_mem_user_dirty_fetch(d.vm->mem, bitmap);
	assert_false(is_marked(bitmap, buf));
	assert_true(is_marked(bitmap, buf + VM_PAGE_BYTES));
	assert_true(is_marked(bitmap, buf + 2 * VM_PAGE_BYTES));
	assert_true(is_marked(bitmap, d.queues[0].used_gpa));
	for (size_t i = 0; i < sizeof(bitmap) / 8; i++)
		nr += (unsigned int)__builtin_popcountll(bitmap[i]);
	assert_int_equal(nr, 3);
	vdrv_fini(&d);
}

static void test_move_goes_on_and_repeats_interrupts(void **state)
{
	const struct vdrv_piece p = { MIB + 512, 4, true };
	struct vdrv from, to;
	uint16_t head;

	(void)state;
	start_echo(&from, ALL_COMMON);
	for (int i = 0; i < 3; i++)
		one(&from, vdrv_alloc(&from, 4096));
	vdrv_pause(&from);
	head = vdrv_add(&from, 0, &p, 1); /* not seen over there */
	init_echo(&to, 16 * MIB, ALL_COMMON);
	vdrv_move(&from, &to);
	vdrv_fini(&from);
	assert_int_equal(vdrv_interrupts(&to, 1), 0);
	vdrv_resume(&to);
	vdrv_wait(&to, 0, head);
	vdrv_wait_interrupt(&to, 0);
	vdrv_wait_interrupt(&to, 1);
	one(&to, vdrv_alloc(&to, 4096));
	vdrv_fini(&to);
}

static void test_start_that_fails(void **state)
{
	struct vdrv d;
	struct echo *e;

	(void)state;
	e = init_echo(&d, 16 * MIB, 0);
	e->refuse_start = true;
	vdrv_queue(&d, 0, ENTRIES);
	vdrv_start(&d);
	vdrv_wait_broken(&d);
	vdrv_wait_interrupt(&d, 0);
	vdrv_pause(&d);
	assert_int_equal(e->nr_stopped, 0); /* it never started */
	vdrv_fini(&d);
}

static void look_at_both(struct virtio_device *v)
{
	echo_kicked(v, &v->queues[0]);
	echo_kicked(v, &v->queues[1]);
	virtio_push(&v->queues[1], 0, 0);
	to_echo(v)->nr_done++;
}

/* DRIVER_OK without queue 1: whoever looks at it by himself finds nothing. */
static void test_queue_that_nobody_enabled(void **state)
{
	struct vdrv d;
	struct echo *e;

	(void)state;
	e = start_echo(&d, ALL_COMMON);
	virtio_post(&e->v, look_at_both);
	while (e->nr_done == 0)
		sched_yield();
	assert_false(vdrv_is_broken(&d));
	vdrv_fini(&d);
}

static void test_reset_gives_a_new_life(void **state)
{
	struct vdrv d;
	struct echo *e;

	(void)state;
	e = start_echo(&d, ALL_COMMON);
	one(&d, vdrv_alloc(&d, 4096));
	vdrv_publish(&d, 0, 0, ENTRIES + 1);
	vdrv_kick(&d, 0);
	vdrv_wait_broken(&d);
	vdrv_reset(&d);
	assert_false(vdrv_is_broken(&d));
	assert_int_equal(e->nr_reset, 1);
	assert_int_equal(e->nr_stopped, 1);
	vdrv_agree(&d, 0);
	vdrv_queue(&d, 0, 64);
	vdrv_start(&d);
	const struct vdrv_piece p = { MIB, 4, true };
	uint16_t head = vdrv_add(&d, 0, &p, 1);

	vdrv_kick(&d, 0);
	vdrv_wait(&d, 0, head);
	vdrv_fini(&d);
}

#define STOPS  1000
#define STARTS 10

/* A start that is stopped before the device's thread wakes is none: until some were. */
static void *stop_and_start(void *arg)
{
	struct vdrv *d = arg;
	struct echo *e = to_echo(d->dev);

	for (int i = 0; i < STOPS || e->nr_started < STARTS; i++) {
		vdrv_pause(d);
		vdrv_resume(d);
		if (i >= STOPS)
			sched_yield();
	}
	return NULL;
}

/*
 * The driver keeps its queue full meanwhile. vdrv_used() fails for a request that
 * is used twice; one that is lost never comes back, and the wait for it fails.
 */
static void test_stops_lose_and_double_nothing(void **state)
{
	const struct vdrv_piece p = { MIB + 16384, 4, true };
	unsigned int in_flight = 0, nr_added = 0, nr_used = 0;
	pthread_t thread;
	bool joined = false;
	struct vdrv d;
	struct echo *e;
	uint32_t bytes;
	uint16_t head;

	(void)state;
	e = start_echo(&d, ALL_COMMON);
	assert_int_equal(pthread_create(&thread, NULL, stop_and_start, &d), 0);
	while (!joined || in_flight > 0) {
		if (!joined && pthread_tryjoin_np(thread, NULL) == 0)
			joined = true;
		while (!joined && in_flight < ENTRIES) {
			vdrv_add(&d, 0, &p, 1);
			nr_added++;
			in_flight++;
		}
		vdrv_kick(&d, 0);
		while (vdrv_used(&d, 0, &head, &bytes)) {
			nr_used++;
			in_flight--;
		}
	}
	vdrv_pause(&d);
	assert_int_equal(nr_used, nr_added);
	assert_int_equal(e->nr_done, nr_added);
	assert_int_equal(e->nr_started, e->nr_stopped);
	assert_false(vdrv_is_broken(&d));
	vdrv_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pieces_on_both_sides),
		cmocka_unit_test(test_indirect_as_long_as_allowed),
		cmocka_unit_test(test_indirect_at_the_end_of_a_chain),
		cmocka_unit_test(test_event_idx_of_the_driver),
		cmocka_unit_test(test_driver_wants_no_interrupts),
		cmocka_unit_test(test_indices_wrap),
		cmocka_unit_test(test_put_back_is_found_again),
		cmocka_unit_test(test_stores_are_marked),
		cmocka_unit_test(test_move_goes_on_and_repeats_interrupts),
		cmocka_unit_test(test_start_that_fails),
		cmocka_unit_test(test_queue_that_nobody_enabled),
		cmocka_unit_test(test_reset_gives_a_new_life),
		cmocka_unit_test(test_stops_lose_and_double_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
