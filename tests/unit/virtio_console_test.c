/*
 * The console: every byte once and in order, whatever the sink takes, wherever the
 * machine stops.
 */
#include "virtio_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#define RAM_BYTES (UINT64_C(16) << 20)
#define ENTRIES   16
#define RX        0
#define TX        1

/* Where output goes: `room` more bytes fit. Worker and test. */
struct sink {
	pthread_mutex_t lock;
	char text[256 << 10];
	size_t bytes;
	size_t room;
};

static struct sink sink = { .lock = PTHREAD_MUTEX_INITIALIZER };

static size_t console_output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct sink *s = ctx;

	pthread_mutex_lock(&s->lock);
	if (bytes > s->room)
		bytes = s->room;
	memcpy(s->text + s->bytes, data, bytes);
	s->bytes += bytes;
	s->room -= bytes;
	pthread_mutex_unlock(&s->lock);
	return bytes;
}

static void make_room(struct sink *s, size_t room)
{
	pthread_mutex_lock(&s->lock);
	s->room = room;
	pthread_mutex_unlock(&s->lock);
}

static size_t sunk(struct sink *s)
{
	size_t bytes;

	pthread_mutex_lock(&s->lock);
	bytes = s->bytes;
	pthread_mutex_unlock(&s->lock);
	return bytes;
}

static const struct vm_ops ops = { .console_output = console_output };

static void up(struct vdrv *d)
{
	struct vm *vm = vdrv_machine(RAM_BYTES);
	struct virtio_device *v = NULL;

	vm->ops = &ops;
	vm->ctx = &sink;
	assert_int_equal(virtio_console_new(vm, &v, NULL), 0);
	vdrv_init(d, vm, v, VIRTIO_F_EVENT_IDX);
	vdrv_queue(d, RX, ENTRIES);
	vdrv_queue(d, TX, ENTRIES);
}

static int new_sink(void **state)
{
	(void)state;
	sink.bytes = 0;
	sink.room = sizeof(sink.text);
	return 0;
}

static uint16_t say(struct vdrv *d, const char *text, size_t bytes)
{
	struct vdrv_piece p[2] = { { vdrv_alloc(d, bytes), 1, false } };
	uint16_t head;

	memcpy(vdrv_hva(d, p[0].gpa), text, bytes);
	p[1] = (struct vdrv_piece){ p[0].gpa + 1, (uint32_t)bytes - 1, false };
	head = vdrv_add(d, TX, p, 2);
	vdrv_kick(d, TX);
	return head;
}

static uint16_t listen_for(struct vdrv *d, uint32_t bytes, uint64_t *ret_gpa)
{
	struct vdrv_piece p = { vdrv_alloc(d, bytes), bytes, true };

	*ret_gpa = p.gpa;
	return vdrv_add(d, RX, &p, 1);
}

static void fill_pattern(char *text, size_t bytes, unsigned int seed)
{
	for (size_t i = 0; i < bytes; i++)
		text[i] = (char)(i * 31 + i / 251 + seed);
}

static void test_output(void **state)
{
	static char text[200 << 10];
	struct vdrv d;

	(void)state;
	up(&d);
	vdrv_start(&d);
	vdrv_wait(&d, TX, say(&d, "hello", 5));
	fill_pattern(text, sizeof(text), 1);
	vdrv_wait(&d, TX, say(&d, text, sizeof(text)));
	assert_int_equal(sunk(&sink), 5 + sizeof(text));
	assert_memory_equal(sink.text, "hello", 5);
	assert_memory_equal(sink.text + 5, text, sizeof(text));
	vdrv_fini(&d);
}

/* A request counts as done only when the sink has all of it. */
static void test_full_sink_is_waited_for(void **state)
{
	static char text[9000];
	struct vdrv d;
	uint16_t head, used;
	uint32_t bytes;

	(void)state;
	up(&d);
	fill_pattern(text, sizeof(text), 2);
	make_room(&sink, 0);
	vdrv_start(&d);
	head = say(&d, text, sizeof(text));
	for (size_t room = 1; sunk(&sink) < sizeof(text); room += 777) {
		size_t before = sunk(&sink);

		assert_false(vdrv_used(&d, TX, &used, &bytes));
		make_room(&sink, room);
		while (sunk(&sink) < sizeof(text) &&
		       sunk(&sink) < before + room)
			virtio_console_output_ready(d.dev);
	}
	vdrv_wait(&d, TX, head);
	assert_int_equal(sunk(&sink), sizeof(text));
	assert_memory_equal(sink.text, text, sizeof(text));
	vdrv_fini(&d);
}

/* In the middle of a request: the other side goes on at the next byte. */
static void test_moved_in_the_middle(void **state)
{
	static char text[9000];
	struct vdrv a, b;
	uint16_t head, rx;
	uint64_t gpa;

	(void)state;
	up(&a);
	up(&b);
	fill_pattern(text, sizeof(text), 3);
	make_room(&sink, 5000);
	vdrv_start(&a);
	head = say(&a, text, sizeof(text));
	while (sunk(&sink) < 5000)
		virtio_console_output_ready(a.dev);
	assert_int_equal(virtio_console_input(a.dev, (uint8_t *)"typed", 5), 5);
	vdrv_move(&a, &b);
	make_room(&sink, sizeof(text));
	vdrv_start(&b);
	vdrv_wait(&b, TX, head);
	assert_int_equal(sunk(&sink), sizeof(text));
	assert_memory_equal(sink.text, text, sizeof(text));
	/* Typed there, read here. */
	rx = listen_for(&b, 100, &gpa);
	vdrv_kick(&b, RX);
	assert_int_equal(vdrv_wait(&b, RX, rx), 5);
	assert_memory_equal(vdrv_hva(&b, gpa), "typed", 5);
	vdrv_fini(&a);
	vdrv_fini(&b);
}

static void test_input_waits_for_buffers(void **state)
{
	struct vdrv d;
	uint64_t gpa[3];
	uint16_t heads[3];
	uint8_t much[4000];
	size_t taken;

	(void)state;
	up(&d);
	/* Before there is a driver, too, until there is no more room. */
	fill_pattern((char *)much, sizeof(much), 4);
	taken = virtio_console_input(d.dev, much, sizeof(much));
	assert_in_range(taken, 1, sizeof(much) - 1);
	assert_int_equal(virtio_console_input(d.dev, much, 1), 0);
	vdrv_start(&d);
	heads[0] = listen_for(&d, 10, &gpa[0]);
	heads[1] = listen_for(&d, sizeof(much), &gpa[1]);
	heads[2] = listen_for(&d, 10, &gpa[2]);
	vdrv_kick(&d, RX);
	assert_int_equal(vdrv_wait(&d, RX, heads[0]), 10);
	assert_memory_equal(vdrv_hva(&d, gpa[0]), much, 10);
	assert_int_equal(vdrv_wait(&d, RX, heads[1]), taken - 10);
	assert_memory_equal(vdrv_hva(&d, gpa[1]), much + 10, taken - 10);
	assert_int_equal(virtio_console_input(d.dev, (uint8_t *)"x", 1), 1);
	assert_int_equal(vdrv_wait(&d, RX, heads[2]), 1);
	assert_int_equal(vdrv_hva(&d, gpa[2])[0], 'x');
	vdrv_fini(&d);
}

/* Posted work on queues that the driver never made. */
static void test_no_queues_at_all(void **state)
{
	struct vm *vm = vdrv_machine(RAM_BYTES);
	struct virtio_device *v = NULL;
	struct vdrv d;

	(void)state;
	vm->ops = &ops;
	vm->ctx = &sink;
	assert_int_equal(virtio_console_new(vm, &v, NULL), 0);
	vdrv_init(&d, vm, v, 0);
	vdrv_start(&d);
	for (int i = 0; i < 100; i++) {
		virtio_console_input(d.dev, (uint8_t *)"x", 1);
		virtio_console_output_ready(d.dev);
	}
	vdrv_pause(&d);
	vdrv_resume(&d);
	assert_false(vdrv_is_broken(&d));
	vdrv_fini(&d);
}

/* Requests the wrong way round write nothing and read nothing. */
static void test_requests_the_wrong_way_round(void **state)
{
	struct vdrv d;
	struct vdrv_piece p = { 0 };
	uint64_t gpa;
	uint16_t head;

	(void)state;
	up(&d);
	vdrv_start(&d);
	p = (struct vdrv_piece){ vdrv_alloc(&d, 64), 64, true };
	head = vdrv_add(&d, TX, &p, 1);
	vdrv_kick(&d, TX);
	assert_int_equal(vdrv_wait(&d, TX, head), 0);
	p.is_writable = false;
	head = vdrv_add(&d, RX, &p, 1);
	vdrv_kick(&d, RX);
	virtio_console_input(d.dev, (uint8_t *)"y", 1);
	assert_int_equal(vdrv_wait(&d, RX, head), 0);
	head = listen_for(&d, 8, &gpa);
	vdrv_kick(&d, RX);
	assert_int_equal(vdrv_wait(&d, RX, head), 1);
	assert_int_equal(vdrv_hva(&d, gpa)[0], 'y');
	assert_int_equal(sunk(&sink), 0);
	vdrv_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_output, new_sink),
		cmocka_unit_test_setup(test_full_sink_is_waited_for, new_sink),
		cmocka_unit_test_setup(test_moved_in_the_middle, new_sink),
		cmocka_unit_test_setup(test_input_waits_for_buffers, new_sink),
		cmocka_unit_test_setup(test_no_queues_at_all, new_sink),
		cmocka_unit_test_setup(test_requests_the_wrong_way_round,
				       new_sink),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
