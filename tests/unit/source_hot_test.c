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

#include "tests/unit/quiet_vm.h"
#include "tests/unit/source_fixture.h"

#define STRIPES 4
#define PAGES   (STRIPES * MIG_STRIPE_PAGES)
#define HALF    (MIG_STRIPE_PAGES / 2)

static const char *const trackers[] = { "manual", "log" };

/* A machine that does not run, of whose memory the first half of each stripe is used. */
static struct mig_source *new_source(const char *tracker)
{
	const struct vm_config cfg = { .ram_bytes = PAGES * VM_PAGE_BYTES,
				       .nr_cpus = 1 };
	struct mig_source *s;
	char *err = NULL;
	struct vm *vm;

	if (access("/dev/kvm", R_OK | W_OK) < 0)
		skip();
	if (vm_new(&cfg, &quiet_vm_ops, NULL, &vm, &err) < 0)
		fail_msg("%s", err);
	s = source_fixture_new(vm_mem(vm));
	s->vm = vm;
	if (mig_tracker_new(vm, tracker, &s->tracker, &err) < 0)
		fail_msg("%s", err);
	for (uint64_t page = 0; page < PAGES; page++) {
		if (page % MIG_STRIPE_PAGES < HALF)
			vm_mem_base(s->mem)[page * VM_PAGE_BYTES] = 1;
	}
	assert_int_equal(mig_tracker_start(s->tracker), 0);
	assert_int_equal(mig_source_scan_all(s, s->todo), 0);
	assert_int_equal(bitmap_count(s->todo, PAGES), STRIPES * HALF);
	return s;
}

static void free_source(struct mig_source *s)
{
	mig_tracker_free(s->tracker);
	vm_free(s->vm);
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

static void what_is_written_is_hot(const char *tracker)
{
	struct mig_source *s = new_source(tracker);

	assert_int_equal(mig_source_hot_begin(s), 0);
	assert_int_equal(mig_source_hot_look(s), 0);
	assert_int_equal(bitmap_count(s->hot, STRIPES), 0);
	write_page(s, 2 * MIG_STRIPE_PAGES + 64);
	assert_int_equal(mig_source_hot_look(s), 0);
	assert_int_equal(bitmap_count(s->hot, STRIPES), 1);
	assert_true(bitmap_test(s->hot, 2));
	write_page(s, MIG_STRIPE_PAGES - 1); /* not of the guest's until now */
	assert_int_equal(mig_source_hot_look(s), 0);
	assert_int_equal(bitmap_count(s->hot, STRIPES), 1);
	/* All of it is still to be sent, and once. */
	assert_int_equal(bitmap_count(s->todo, PAGES), STRIPES * HALF);
	free_source(s);
}

static void test_what_is_written_is_hot(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		what_is_written_is_hot(trackers[i]);
}

/*
 * What a device writes is reported once: whatever a look does with its answer, such a
 * page is sent again if it was sent before.
 */
static void nothing_is_lost(const char *tracker)
{
	static const uint64_t written[] = { 1, HALF - 1, HALF + 3,
					    MIG_STRIPE_PAGES + 5 };
	struct mig_source *s = new_source(tracker);

	assert_int_equal(mig_source_hot_begin(s), 0);
	send_stripe(s, 0);
	for (int i = 0; i < 4; i++)
		write_page(s, written[i]);
	assert_int_equal(mig_source_hot_look(s), 0);
	send_stripe(s, 1);
	assert_int_equal(mig_source_fetch(s), 0);
	mig_source_next_todo(s);
	for (int i = 0; i < 3; i++)
		assert_true(bitmap_test(s->todo, written[i]));
	/* It was sent after it had been written. */
	assert_false(bitmap_test(s->todo, written[3]));
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

	return cmocka_run_group_tests(tests, NULL, NULL);
}
