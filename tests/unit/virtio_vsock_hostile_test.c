/*
 * Guests and host programs that keep no rules, sockets that are in the way, and a
 * guest that came from elsewhere.
 */
#include "vsock_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Whatever comes for a stream that there is not is answered by a reset, once. */
static void test_unknown_streams_are_reset(void **state)
{
	struct vsock_fixture f;

	(void)state;
	vsock_up(&f, 4);
	for (int op = 0; op < 300; op++) {
		if (op == VSOCK_OP_RST || op == VSOCK_OP_REQUEST)
			continue;
		vsock_say(&f, (enum vsock_op)op, 5, 6);
		vsock_expect(&f, VSOCK_OP_RST, 5, 6);
	}
	vsock_say(&f, VSOCK_OP_RST, 5, 6); /* this one by nothing */
	vsock_say(&f, VSOCK_OP_REQUEST, 7, 8);
	vsock_expect(&f, VSOCK_OP_RST, 7, 8);
	vsock_down(&f);
}

/* What a stream must not get ends it. */
static void test_wrong_operations_end_streams(void **state)
{
	const enum vsock_op wrong[] = { 0, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE,
					8, 0xffff };
	struct vsock_fixture f;
	uint32_t port;

	(void)state;
	vsock_up(&f, 4);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		int fd = vsock_stream(&f, &port);

		vsock_say(&f, wrong[i], 52, port);
		vsock_expect(&f, VSOCK_OP_RST, 52, port);
		vsock_read_end(fd);
		close(fd);
	}
	vsock_down(&f);
}

static void raw(struct vsock_fixture *f, const struct vsock_header *h,
		uint32_t bytes)
{
	struct vdrv_piece p = { vdrv_alloc(&f->d, 4096), bytes, false };

	memcpy(vdrv_hva(&f->d, p.gpa), h, sizeof(*h));
	vdrv_add(&f->d, VSOCK_TX, &p, 1);
	vdrv_kick(&f->d, VSOCK_TX);
}

/* Not even a stream's packet: no answer, and the next is looked at. */
static void test_malformed_packets_are_ignored(void **state)
{
	const struct vsock_header good = { .src_cid = VSOCK_CID,
					   .dst_cid = VSOCK_HOST_CID,
					   .src_port = 1,
					   .dst_port = 2,
					   .type = 1,
					   .op = VSOCK_OP_RW };
	struct vsock_header h;
	struct vsock_fixture f;

	(void)state;
	vsock_up(&f, 4);
	raw(&f, &good, sizeof(good) - 1);
	raw(&f, &good, 1);
	h = good;
	h.len = 1;
	raw(&f, &h, sizeof(h));
	h.len = UINT32_MAX;
	raw(&f, &h, 4096);
	h = good;
	h.src_cid = 3;
	raw(&f, &h, sizeof(h));
	h = good;
	h.dst_cid = 4;
	raw(&f, &h, sizeof(h));
	h = good;
	h.type = 2;
	raw(&f, &h, sizeof(h));
	vsock_say(&f, VSOCK_OP_RW, 10, 11);
	vsock_expect(&f, VSOCK_OP_RST, 10, 11);
	vsock_down(&f);
}

/* Answers wait for buffers; when too many wait, the guest's packets do. */
static void test_answers_without_buffers(void **state)
{
	enum { PACKETS = 200 };
	struct vsock_fixture f;
	bool seen[PACKETS] = { false };

	(void)state;
	vsock_up(&f, 0);
	for (uint32_t i = 0; i < PACKETS; i++)
		vsock_say(&f, VSOCK_OP_RW, i, 6);
	vsock_give(&f, 2);
	for (uint32_t i = 0; i < PACKETS; i++) {
		struct vsock_header h = vsock_next(&f, NULL);

		assert_int_equal(h.op, VSOCK_OP_RST);
		assert_true(h.dst_port < PACKETS && !seen[h.dst_port]);
		seen[h.dst_port] = true;
	}
	vsock_down(&f);
}

/* As many as there may be, and one more; when one ends there is room again. */
static void test_too_many_streams(void **state)
{
	struct vsock_fixture f;
	int listener, fds[VSOCK_CONNS_MAX];

	(void)state;
	vsock_up(&f, 16);
	listener = vsock_host_program(&f, 77);
	for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++) {
		vsock_say(&f, VSOCK_OP_REQUEST, i, 77);
		vsock_expect(&f, VSOCK_OP_RESPONSE, i, 77);
		fds[i] = accept(listener, NULL, NULL);
		assert_true(fds[i] >= 0);
	}
	vsock_say(&f, VSOCK_OP_REQUEST, 5000, 77);
	vsock_expect(&f, VSOCK_OP_RST, 5000, 77);
	vsock_say(&f, VSOCK_OP_RST, 9, 77);
	vsock_read_end(fds[9]);
	vsock_say(&f, VSOCK_OP_REQUEST, 5000, 77);
	vsock_expect(&f, VSOCK_OP_RESPONSE, 5000, 77);
	for (uint32_t i = 0; i < VSOCK_CONNS_MAX; i++)
		close(fds[i]);
	close(vsock_accept(listener));
	vsock_down(&f);
}

/* Host programs beyond that wait until there is room. */
static void test_too_many_host_programs(void **state)
{
	struct vsock_fixture f;
	int fds[VSOCK_CONNS_MAX], fd;
	uint32_t port;

	(void)state;
	vsock_up(&f, 4);
	for (int i = 0; i < VSOCK_CONNS_MAX; i++)
		fds[i] = vsock_host(&f);
	fd = vsock_host(&f);
	vsock_write(fd, "CONNECT 5\n", 10);
	close(fds[100]);
	port = vsock_next(&f, NULL).src_port;
	vsock_say(&f, VSOCK_OP_RST, 5, port);
	vsock_read_end(fd);
	close(fd);
	for (int i = 0; i < VSOCK_CONNS_MAX; i++) {
		if (i != 100)
			close(fds[i]);
	}
	vsock_down(&f);
}

static void test_tiny_receive_buffer_breaks(void **state)
{
	struct vsock_fixture f;
	struct vdrv_piece p = { .bytes = 43, .is_writable = true };

	(void)state;
	vsock_up(&f, 0);
	p.gpa = vdrv_alloc(&f.d, 64);
	vdrv_add(&f.d, VSOCK_RX, &p, 1);
	vdrv_kick(&f.d, VSOCK_RX);
	vsock_say(&f, VSOCK_OP_RW, 1, 2);
	assert_string_equal(vdrv_wait_broken(&f.d),
			    "a receive buffer has no room for a packet");
	vsock_down(&f);
}

/* The streams of a guest that moved, and of one that was reset, are no more. */
static void test_streams_end_with_a_move(void **state)
{
	struct vsock_fixture a, b;
	struct vdrv_piece p = { .bytes = 8, .is_writable = true };
	uint32_t port;
	uint16_t head, used;
	uint32_t bytes;
	int fd;

	(void)state;
	vsock_up(&a, 8);
	fd = vsock_stream(&a, &port);
	vsock_up_stopped(&b);
	vsock_say(&a, VSOCK_OP_CREDIT_REQUEST, 52, port);
	vsock_expect(&a, VSOCK_OP_CREDIT_UPDATE, 52, port);
	memcpy(b.buffers, a.buffers, sizeof(a.buffers));
	vdrv_move(&a.d, &b.d);
	vdrv_start(&b.d);
	/* It is told as soon as it has a buffer for it, and once. */
	vsock_say(&b, VSOCK_OP_RW, 52, port);
	vsock_expect(&b, VSOCK_OP_RST, 52, port);
	p.gpa = vdrv_alloc(&b.d, 8);
	memset(vdrv_hva(&b.d, p.gpa), 0xff, 8);
	head = vdrv_add(&b.d, VSOCK_EVENT, &p, 1);
	vdrv_kick(&b.d, VSOCK_EVENT);
	assert_int_equal(vdrv_wait(&b.d, VSOCK_EVENT, head), 4);
	assert_memory_equal(vdrv_hva(&b.d, p.gpa), "\0\0\0\0\xff", 5);
	vdrv_add(&b.d, VSOCK_EVENT, &p, 1);
	vdrv_kick(&b.d, VSOCK_EVENT);
	vdrv_pause(&b.d);
	vdrv_resume(&b.d);
	close(vsock_stream(&b, &port));
	assert_false(vdrv_used(&b.d, VSOCK_EVENT, &used, &bytes));
	/* Here it would have gone on, had the move failed. */
	vdrv_reset(&a.d);
	vsock_read_end(fd);
	close(fd);
	vsock_down(&a);
	vsock_down(&b);
}

static void refused(const char *path, uint32_t cid, int ret)
{
	struct vm_vsock_config cfg = { .cid = cid, .path = path };
	struct vm *vm = vdrv_machine(UINT64_C(4) << 20);
	struct virtio_device *v = NULL;
	char *err = NULL;

	assert_int_equal(virtio_vsock_new(vm, &cfg, &v, &err), ret);
	assert_non_null(err);
	assert_null(v);
	free(err);
	vdrv_machine_free(vm);
}

static void test_sockets_in_the_way(void **state)
{
	struct vsock_fixture f;
	struct vm_vsock_config cfg = { .cid = 3 };
	struct vm *vm = vdrv_machine(UINT64_C(4) << 20);
	struct virtio_device *v = NULL;
	struct stat st;
	struct vdrv d;
	char path[128], long_path[120];
	int fd;

	(void)state;
	vsock_up(&f, 4);
	assert_int_equal(stat(f.path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* Of one who is alive; no socket at all; a path with no room. */
	refused(f.path, 3, -EADDRINUSE);
	refused(f.dir, 3, -EADDRINUSE);
	memset(long_path, 'x', sizeof(long_path));
	long_path[97] = '\0';
	refused(long_path, 3, -ENAMETOOLONG);
	refused("/nowhere/to/be/found", 3, -ENOENT);
	for (uint32_t cid = 0; cid < 3; cid++)
		refused(f.path, cid, -EINVAL);
	refused(f.path, UINT32_MAX, -EINVAL);
	/* One that a dead process left behind. */
	close(vsock_host_program(&f, 1));
	snprintf(path, sizeof(path), "%s_1", f.path);
	cfg.path = path;
	assert_int_equal(virtio_vsock_new(vm, &cfg, &v, NULL), 0);
	assert_string_equal(virtio_vsock_info(v)->path, path);
	assert_int_equal(virtio_vsock_info(v)->cid, 3);
	vdrv_init(&d, vm, v, 0);
	vdrv_fini(&d);
	assert_int_equal(access(path, F_OK), -1);
	/* The living one still answers. */
	fd = vsock_host(&f);
	close(fd);
	vsock_down(&f);
}

static int many_files(void **state)
{
	struct rlimit r;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &r), 0);
	r.rlim_cur = r.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_unknown_streams_are_reset),
		cmocka_unit_test(test_wrong_operations_end_streams),
		cmocka_unit_test(test_malformed_packets_are_ignored),
		cmocka_unit_test(test_answers_without_buffers),
		cmocka_unit_test(test_too_many_streams),
		cmocka_unit_test(test_too_many_host_programs),
		cmocka_unit_test(test_tiny_receive_buffer_breaks),
		cmocka_unit_test(test_streams_end_with_a_move),
		cmocka_unit_test(test_sockets_in_the_way),
	};

	return cmocka_run_group_tests(tests, many_files, NULL);
}
