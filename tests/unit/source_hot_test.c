/* Stripes that the guest writes are found and sent last, and nothing is lost by that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/source_fixture.h"
#include "tests/unit/tiny_guest.h"

#define STRIPES 4
#define PAGES   (STRIPES * MIG_STRIPE_PAGES)
#define HALF    (MIG_STRIPE_PAGES / 2)

#define WATCHED (2 * MIG_STRIPE_PAGES + 64) /* of the sample */
#define OTHER   (3 * MIG_STRIPE_PAGES + 65) /* not */

static const char *const trackers[] = { "manual", "log" };

static struct tiny *tiny;

/* Writes to WATCHED and OTHER, and powers off. */
static void set_code(void)
{
	uint8_t code[] = {
		0xc6, 0x05, 0, 0, 0,    0,    2,    0xc6, 0x05, 0,
		0,    0,    0, 2, 0x66, 0xba, 0x02, 0x05, 0xee, 0xf4
	};
	const uint32_t first = WATCHED * VM_PAGE_BYTES;
	const uint32_t second = OTHER * VM_PAGE_BYTES;

	memcpy(code + 2, &first, sizeof(first));
	memcpy(code + 9, &second, sizeof(second));
	tiny_code(tiny, code, sizeof(code));
}

/* Of a machine's memory the first half of each stripe is used. */
static struct mig_source *new_source(const char *tracker)
{
	const struct vm_config cfg = { .ram_bytes = PAGES * VM_PAGE_BYTES,
				       .nr_cpus = 1 };
	struct mig_source *s;
	char *err = NULL;

	tiny = tiny_new(&cfg);
	s = source_fixture_new(vm_mem(tiny->vm));
	s->vm = tiny->vm;
	if (mig_tracker_new(s->vm, tracker, &s->tracker, &err) < 0)
		fail_msg("%s", err);
	for (uint64_t page = 0; page < PAGES; page++) {
		if (page % MIG_STRIPE_PAGES < HALF)
			vm_mem_base(s->mem)[page * VM_PAGE_BYTES] = 1;
	}
	set_code();
	assert_int_equal(mig_tracker_start(s->tracker), 0);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	assert_int_equal(bitmap_count(s->todo, PAGES), STRIPES * HALF);
	return s;
}

static void free_source(struct mig_source *s)
{
	mig_tracker_free(s->tracker);
	tiny_free(tiny);
	source_fixture_free(s);
}

static void write_page(struct mig_source *s, uint64_t page)
{
	uint8_t byte = 2;

	assert_int_equal(vm_mem_write(s->mem, page * VM_PAGE_BYTES, &byte, 1),
			 0);
}

/* As a job does, which rearms a stripe when it comes to it. */
static void send_stripe(struct mig_source *s, uint64_t stripe)
{
	uint64_t first = stripe * MIG_STRIPE_PAGES;

	assert_int_equal(
		mig_tracker_rearm(s->tracker, s->todo, first, MIG_STRIPE_PAGES),
		0);
	for (uint64_t page = first; page < first + HALF; page++) {
		bitmap_clear(s->todo, page);
		bitmap_set(s->sent, page);
	}
}

static void test_what_is_written_is_hot(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct mig_source *s = new_source(trackers[i]);

		assert_int_equal(mig_source_hot_begin(s), 0);
		assert_int_equal(mig_source_hot_look(s), 0);
		assert_int_equal(bitmap_count(s->hot, STRIPES), 0);
		assert_int_equal(vm_start(s->vm), 0);
		assert_int_equal(vm_resume(s->vm), 0);
		tiny_wait_event(tiny);
		assert_int_equal(mig_source_hot_look(s), 0);
		assert_true(bitmap_test(s->hot, 2));
		/* Only those that protect all of memory know of this one. */
		assert_int_equal(bitmap_test(s->hot, 3), i > 0);
		assert_int_equal(bitmap_count(s->hot, STRIPES), 1 + i);
		/* All of it is still to be sent, and once. */
		assert_int_equal(bitmap_count(s->todo, PAGES), STRIPES * HALF);
		assert_int_equal(bitmap_count(s->later, PAGES), 0);
		free_source(s);
	}
}

/*
 * What a device writes is reported once: whatever a look does with its answer, such a
 * page is sent again if it was sent before.
 */
static void nothing_is_lost(const char *tracker)
{
	static const uint64_t written[] = { 1, HALF - 1, HALF + 3 };
	struct mig_source *s = new_source(tracker);

	assert_int_equal(mig_source_hot_begin(s), 0);
	send_stripe(s, 0);
	for (int i = 0; i < 3; i++)
		write_page(s, written[i]);
	assert_int_equal(mig_source_hot_look(s), 0);
	send_stripe(s, 1);
	assert_int_equal(mig_source_fetch(s), 0);
	mig_source_next_todo(s);
	for (int i = 0; i < 3; i++)
		assert_true(bitmap_test(s->todo, written[i]));
	assert_int_equal(bitmap_count(s->todo, PAGES), 2 * HALF + 3);
	free_source(s);
}

static void test_nothing_is_lost(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		nothing_is_lost(trackers[i]);
}

/* With one channel; ret_fds: the peer's ends of the link and of that. */
static void connect_source(struct mig_source *s, int ret_fds[2])
{
	static const uint8_t id[PROTO_SESSION_BYTES];
	int control[2], data[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, control), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, data), 0);
	assert_int_equal(
		mig_session_new(id, control[0], 1, 0, NULL, NULL, &s->session),
		0);
	mig_session_attach(s->session, &s->session->data_fds[0], data[0]);
	s->cfg.channels = 1;
	mig_rate_init(&s->rate, 0);
	assert_int_equal(mig_crew_start("channel", 1, &s->crew), 0);
	ret_fds[0] = control[1];
	ret_fds[1] = data[1];
}

static void disconnect_source(struct mig_source *s, const int fds[2])
{
	mig_crew_free(s->crew);
	mig_session_free(s->session);
	mig_rate_fini(&s->rate);
	close(fds[0]);
	close(fds[1]);
}

static void receive_batch(int fd, struct proto_batch *ret)
{
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	size_t tail_bytes;

	assert_int_equal(recv(fd, head, PROTO_BATCH_BYTES, MSG_WAITALL),
			 PROTO_BATCH_BYTES);
	assert_int_equal(proto_batch_tail_bytes(head, &tail_bytes), 0);
	assert_int_equal(
		recv(fd, head + PROTO_BATCH_BYTES, tail_bytes, MSG_WAITALL),
		tail_bytes);
	assert_int_equal(proto_batch_decode(head,
					    PROTO_BATCH_BYTES + tail_bytes,
					    PAGES, ret),
			 0);
}

static void test_what_is_hot_is_sent_last(void **state)
{
	static const uint64_t order[STRIPES] = { 0, 2, 1, 3 };
	struct mig_source *s = new_source("manual");
	struct proto_batch *b = calloc(1, sizeof(*b));
	int fds[2];

	(void)state;
	assert_non_null(b);
	connect_source(s, fds);
	for (uint64_t page = 0; page < PAGES; page++) {
		if (page % MIG_STRIPE_PAGES != 7)
			bitmap_clear(s->todo, page);
	}
	bitmap_set(s->hot, 1);
	bitmap_set(s->hot, 3);
	mig_source_send_todo(s);
	assert_int_equal(mig_crew_wait(s->crew), 0);
	receive_batch(fds[1], b);
	assert_int_equal(b->nr_runs, STRIPES);
	for (int i = 0; i < STRIPES; i++)
		assert_int_equal(b->runs[i].first_page,
				 order[i] * MIG_STRIPE_PAGES + 7);
	assert_int_equal(bitmap_count(s->todo, PAGES), 0);
	disconnect_source(s, fds);
	free(b);
	free_source(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_hot),
		cmocka_unit_test(test_nothing_is_lost),
		cmocka_unit_test(test_what_is_hot_is_sent_last),
	};

	tiny_need_kvm();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
