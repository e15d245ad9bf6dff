/*
 * Streams between host programs and the guest: who connects, that every byte
 * arrives once, that neither side is sent more than it has room for, and how they
 * end.
 */
#include "vsock_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void pattern(uint8_t *to, size_t at, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (uint8_t)((at + i) * 13 + (at + i) / 509);
}

static void rw(struct vsock_fixture *f, uint32_t guest_port, uint32_t host_port,
	       const void *data, uint32_t bytes)
{
	struct vsock_header h = { .op = VSOCK_OP_RW,
				  .src_port = guest_port,
				  .dst_port = host_port,
				  .buf_alloc = VSOCK_GUEST_ROOM };

	vsock_packet(f, h, data, bytes);
}

static void test_host_connects(void **state)
{
	struct vsock_fixture f;
	struct vsock_header h;
	uint8_t data[VSOCK_BUFFER];
	char text[16];
	int fd;

	(void)state;
	vsock_up(&f, 8);
	fd = vsock_host(&f);
	/* In pieces, and with what is already the guest's behind it. */
	vsock_write(fd, "CONN", 4);
	vsock_write(fd, "ECT 52\nhello", 12);
	h = vsock_next(&f, NULL);
	assert_int_equal(h.op, VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 52);
	assert_int_equal(h.buf_alloc, VSOCK_BUF_BYTES);
	vsock_say(&f, VSOCK_OP_RESPONSE, 52, h.src_port);
	vsock_read(fd, text, 3);
	assert_memory_equal(text, "OK ", 3);
	h = vsock_next(&f, data);
	assert_int_equal(h.op, VSOCK_OP_RW);
	assert_int_equal(h.len, 5);
	assert_memory_equal(data, "hello", 5);
	vsock_read(fd, text,
		   11); /* the port, ten digits, and the end of line */
	assert_int_equal(text[10], '\n');
	rw(&f, 52, h.src_port, "world", 5);
	vsock_read(fd, text, 5);
	assert_memory_equal(text, "world", 5);
	close(fd);
	h = vsock_expect(&f, VSOCK_OP_SHUTDOWN, 52, h.src_port);
	assert_int_equal(h.flags, VSOCK_NO_SEND | VSOCK_NO_RECEIVE);
	vsock_down(&f);
}

static void test_guest_connects(void **state)
{
	struct vsock_fixture f;
	struct vsock_header h;
	uint8_t data[VSOCK_BUFFER];
	char text[8];
	int listener, fd;

	(void)state;
	vsock_up(&f, 8);
	listener = vsock_host_program(&f, 1234);
	vsock_say(&f, VSOCK_OP_REQUEST, 7000, 1234);
	h = vsock_expect(&f, VSOCK_OP_RESPONSE, 7000, 1234);
	assert_int_equal(h.buf_alloc, VSOCK_BUF_BYTES);
	fd = vsock_accept(listener);
	rw(&f, 7000, 1234, "ping", 4);
	vsock_read(fd, text, 4);
	assert_memory_equal(text, "ping", 4);
	vsock_write(fd, "pong", 4);
	h = vsock_next(&f, data);
	assert_int_equal(h.op, VSOCK_OP_RW);
	assert_memory_equal(data, "pong", 4);
	close(fd);
	vsock_expect(&f, VSOCK_OP_SHUTDOWN, 7000, 1234);
	/* Nobody listens there any more, nor anywhere else. */
	vsock_say(&f, VSOCK_OP_REQUEST, 7001, 1234);
	vsock_expect(&f, VSOCK_OP_RST, 7001, 1234);
	vsock_down(&f);
}

static void test_guest_refuses(void **state)
{
	struct vsock_fixture f;
	struct vsock_header h;
	int fd;

	(void)state;
	vsock_up(&f, 8);
	fd = vsock_host(&f);
	vsock_write(fd, "CONNECT 99\n", 11);
	h = vsock_next(&f, NULL);
	vsock_say(&f, VSOCK_OP_RST, 99, h.src_port);
	vsock_read_end(fd);
	close(fd);
	vsock_down(&f);
}

static void test_bad_greetings(void **state)
{
	static const char *const bad[] = {
		"\n",
		"CONNECT\n",
		"CONNECT \n",
		"CONNECT -1\n",
		"CONNECT 4294967296\n",
		"CONNECT 1 2\n",
		"connect 52\n",
		"CONNECT 99999999999999999999999999999999999999999",
		"GET / HTTP/1.1 is not what we speak here\n",
	};
	struct vsock_fixture f;
	uint32_t port;

	(void)state;
	vsock_up(&f, 8);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int fd = vsock_host(&f);

		vsock_write(fd, bad[i], strlen(bad[i]));
		vsock_read_end(fd);
		close(fd);
	}
	/* The guest heard of none of them. */
	close(vsock_stream(&f, &port));
	vsock_down(&f);
}

/* A host program that does not read: the guest gets credit as it does. */
static void test_guest_to_host_is_held_back(void **state)
{
	enum { TOTAL = 1 << 20, PIECE = 3000 };
	struct vsock_fixture f;
	uint8_t piece[PIECE], got[PIECE];
	uint32_t port, sent = 0, forwarded = 0, read = 0;
	int small = 4096, fd;

	(void)state;
	vsock_up(&f, 8);
	fd = vsock_stream(&f, &port);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	while (read < TOTAL) {
		while (sent < TOTAL &&
		       VSOCK_BUF_BYTES - (sent - forwarded) >= PIECE) {
			uint32_t n = TOTAL - sent < PIECE ? TOTAL - sent
							  : PIECE;

			pattern(piece, sent, n);
			rw(&f, 52, port, piece, n);
			sent += n;
		}
		/* As much as it waits for must be on its way without help. */
		for (uint32_t n; read < sent; read += n) {
			n = sent - read < PIECE ? sent - read : PIECE;
			vsock_read(fd, got, n);
			pattern(piece, read, n);
			assert_memory_equal(got, piece, n);
		}
		if (sent < TOTAL)
			forwarded = vsock_expect(&f, VSOCK_OP_CREDIT_UPDATE, 52,
						 port)
					    .fwd_cnt;
		assert_true(forwarded <= sent);
	}
	close(fd);
	vsock_down(&f);
}

/* A guest that sends more than it may is cut off. */
static void test_guest_beyond_its_credit(void **state)
{
	static uint8_t much[60 << 10];
	struct vsock_fixture f;
	struct vsock_header h = { .op = 0 };
	uint32_t port;
	int fd;

	(void)state;
	vsock_up(&f, 100); /* updates for 6 MB: more than the socket takes */
	fd = vsock_stream(&f, &port);
	for (int i = 0; i < 200 && h.op != VSOCK_OP_RST; i++) {
		uint16_t head;
		uint32_t bytes;

		rw(&f, 52, port, much, sizeof(much));
		/* Credit updates as long as the socket still takes something. */
		while (vdrv_used(&f.d, VSOCK_RX, &head, &bytes))
			memcpy(&h, vdrv_hva(&f.d, f.buffers[head]), sizeof(h));
	}
	while (h.op != VSOCK_OP_RST)
		h = vsock_next(&f, NULL);
	close(fd);
	vsock_down(&f);
}

static void test_host_to_guest_is_held_back(void **state)
{
	struct vsock_fixture f;
	struct vsock_header h, room = { .op = VSOCK_OP_CREDIT_UPDATE,
					.src_port = 52,
					.buf_alloc = 1000 };
	uint8_t want[10000], data[VSOCK_BUFFER];
	uint32_t got = 0, port;
	int fd;

	(void)state;
	vsock_up(&f, 8);
	fd = vsock_stream(&f, &port);
	room.dst_port = port;
	vsock_packet(&f, room, NULL, 0);
	room.op =
		VSOCK_OP_CREDIT_REQUEST; /* once it is answered, room is known */
	vsock_packet(&f, room, NULL, 0);
	vsock_expect(&f, VSOCK_OP_CREDIT_UPDATE, 52, port);
	pattern(want, 0, sizeof(want));
	vsock_write(fd, want, sizeof(want));
	while (got < sizeof(want)) {
		uint32_t begin = got;

		while (got < begin + 1000) {
			h = vsock_next(&f, data);
			assert_int_equal(h.op, VSOCK_OP_RW);
			assert_true(h.len <= begin + 1000 - got);
			assert_memory_equal(data, want + got, h.len);
			got += h.len;
		}
		/* No more comes before the guest has made room. */
		vsock_packet(&f, room, NULL, 0);
		vsock_expect(&f, VSOCK_OP_CREDIT_UPDATE, 52, port);
		room.fwd_cnt = got;
		vsock_packet(&f, room, NULL, 0);
		vsock_expect(&f, VSOCK_OP_CREDIT_UPDATE, 52, port);
	}
	close(fd);
	vsock_down(&f);
}

/* Half of a stream may end before the other. */
static void test_halves_end_one_by_one(void **state)
{
	struct vsock_fixture f;
	struct vsock_header h, end = { .op = VSOCK_OP_SHUTDOWN,
				       .src_port = 52,
				       .flags = VSOCK_NO_SEND,
				       .buf_alloc = VSOCK_GUEST_ROOM };
	char text[8];
	uint32_t port;
	int fd;

	(void)state;
	vsock_up(&f, 8);
	fd = vsock_stream(&f, &port);
	end.dst_port = port;
	shutdown(fd, SHUT_WR);
	h = vsock_expect(&f, VSOCK_OP_SHUTDOWN, 52, port);
	assert_int_equal(h.flags, VSOCK_NO_SEND);
	rw(&f, 52, port, "late", 4);
	vsock_read(fd, text, 4);
	vsock_packet(&f, end, NULL, 0);
	vsock_read_end(fd);
	vsock_expect(&f, VSOCK_OP_RST, 52, port);
	close(fd);

	/* And the other way round. */
	fd = vsock_stream(&f, &port);
	end.dst_port = port;
	rw(&f, 52, port, "last", 4);
	vsock_packet(&f, end, NULL, 0);
	vsock_read(fd, text, 4);
	assert_memory_equal(text, "last", 4);
	vsock_read_end(fd);
	vsock_write(fd, "more", 4);
	h = vsock_next(&f, (uint8_t *)text);
	assert_int_equal(h.op, VSOCK_OP_RW);
	assert_memory_equal(text, "more", 4);
	close(fd);
	for (h.op = 0; h.op != VSOCK_OP_RST;)
		h = vsock_next(&f, NULL);
	vsock_down(&f);
}

/* A pause on the way breaks no stream. */
static void test_pauses_break_nothing(void **state)
{
	enum { ROUNDS = 200, BYTES = 3000 };
	struct vsock_fixture f;
	struct vsock_header h;
	uint8_t piece[BYTES], got[BYTES];
	uint32_t port, forwarded = 0;
	int fd;

	(void)state;
	vsock_up(&f, 4);
	fd = vsock_stream(&f, &port);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		struct vsock_header out = { .op = VSOCK_OP_RW,
					    .src_port = 52,
					    .dst_port = port,
					    .buf_alloc = VSOCK_GUEST_ROOM,
					    .fwd_cnt = forwarded };

		pattern(piece, i, BYTES);
		vsock_packet(&f, out, piece, BYTES);
		vsock_write(fd, piece, BYTES);
		vdrv_pause(&f.d);
		vdrv_resume(&f.d);
		vsock_read(fd, got, BYTES);
		assert_memory_equal(got, piece, BYTES);
		for (uint32_t n = 0; n < BYTES; n += h.len) {
			h = vsock_next(&f, got + n);
			if (h.op == VSOCK_OP_CREDIT_UPDATE)
				continue;
			assert_int_equal(h.op, VSOCK_OP_RW);
			forwarded += h.len;
		}
		assert_memory_equal(got, piece, BYTES);
	}
	close(fd);
	vsock_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_host_connects),
		cmocka_unit_test(test_guest_connects),
		cmocka_unit_test(test_guest_refuses),
		cmocka_unit_test(test_bad_greetings),
		cmocka_unit_test(test_guest_to_host_is_held_back),
		cmocka_unit_test(test_guest_beyond_its_credit),
		cmocka_unit_test(test_host_to_guest_is_held_back),
		cmocka_unit_test(test_halves_end_one_by_one),
		cmocka_unit_test(test_pauses_break_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
