#include "tests/bench/send_ways.h"

#include <errno.h>
#include <liburing.h>
#include <linux/errqueue.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#define CHUNK_BYTES ((size_t)1 << 20)
#define RING_SLOTS  8

static size_t chunk(size_t left)
{
	return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

/* The kernel's word that memory may be used again is read, as it must be. */
static void read_notices(int fd)
{
	char control[256];
	struct msghdr msg = { .msg_control = control };

	do {
		msg.msg_controllen = sizeof(control);
	} while (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0);
}

static int send_with(int fd, const uint8_t *data, size_t bytes, int flags)
{
	while (bytes > 0) {
		ssize_t n = send(fd, data, chunk(bytes), MSG_NOSIGNAL | flags);

		if (n < 0 &&
		    errno == ENOBUFS) { /* too much still unacknowledged */
			struct pollfd p = { .fd = fd };

			poll(&p, 1, 1); /* its error queue */
			read_notices(fd);
			n = 0;
		}
		if (n < 0)
			return -errno;
		data += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int plain(int fd, const uint8_t *data, size_t bytes)
{
	return send_with(fd, data, bytes, 0);
}

static int zerocopy(int fd, const uint8_t *data, size_t bytes)
{
	int one = 1, ret = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) < 0)
		return -errno;
	while (bytes > 0 && ret == 0) {
		size_t n = chunk(bytes);

		ret = send_with(fd, data, n, MSG_ZEROCOPY);
		read_notices(fd);
		data += n;
		bytes -= n;
	}
	return ret;
}

/* One result, and as many notices as have come before it. */
static int await_result(struct io_uring *ring, unsigned int *notices)
{
	for (;;) {
		struct io_uring_cqe *cqe;
		int ret = io_uring_wait_cqe(ring, &cqe);
		bool notice;

		if (ret < 0)
			return ret;
		notice = cqe->flags & IORING_CQE_F_NOTIF;
		ret = cqe->res;
		*notices += cqe->flags & IORING_CQE_F_MORE ? 1 : 0;
		*notices -= notice ? 1 : 0;
		io_uring_cqe_seen(ring, cqe);
		if (!notice)
			return ret;
	}
}

static int send_one(struct io_uring *ring, int fd, const uint8_t *data,
		    size_t bytes, bool zc, bool fixed, unsigned int *notices)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int ret;

	if (!zc)
		io_uring_prep_send(sqe, fd, data, bytes, MSG_NOSIGNAL);
	else if (!fixed)
		io_uring_prep_send_zc(sqe, fd, data, bytes, MSG_NOSIGNAL, 0);
	else
		io_uring_prep_send_zc_fixed(sqe, fd, data, bytes, MSG_NOSIGNAL,
					    0, 0);
	ret = io_uring_submit(ring);
	return ret < 0 ? ret : await_result(ring, notices);
}

static int by_ring(int fd, const uint8_t *data, size_t bytes, bool zc,
		   bool fixed)
{
	struct iovec all = { (void *)(uintptr_t)data, bytes };
	unsigned int notices = 0; /* that are still to come */
	struct io_uring ring;
	int ret;

	ret = io_uring_queue_init(RING_SLOTS, &ring,
				  IORING_SETUP_SINGLE_ISSUER);
	if (ret < 0)
		return ret;
	if (fixed)
		ret = io_uring_register_buffers(&ring, &all, 1);
	while (ret >= 0 && bytes > 0) {
		ret = send_one(&ring, fd, data, chunk(bytes), zc, fixed,
			       &notices);
		data += ret > 0 ? ret : 0;
		bytes -= ret > 0 ? (size_t)ret : 0;
	}
	while (ret >= 0 && notices > 0) {
		struct io_uring_cqe *cqe;

		ret = io_uring_wait_cqe(&ring, &cqe);
		if (ret == 0)
			io_uring_cqe_seen(&ring, cqe);
		notices--;
	}
	io_uring_queue_exit(&ring);
	return ret < 0 ? ret : 0;
}

static int ring_plain(int fd, const uint8_t *data, size_t bytes)
{
	return by_ring(fd, data, bytes, false, false);
}

static int ring_zc(int fd, const uint8_t *data, size_t bytes)
{
	return by_ring(fd, data, bytes, true, false);
}

static int ring_zc_fixed(int fd, const uint8_t *data, size_t bytes)
{
	return by_ring(fd, data, bytes, true, true);
}

send_way *send_way_named(const char *name)
{
	static const struct {
		const char *name;
		send_way *way;
	} ways[] = {
		{ "send", plain },
		{ "zerocopy", zerocopy },
		{ "uring", ring_plain },
		{ "uring-zc", ring_zc },
		{ "uring-zc-fixed", ring_zc_fixed },
	};

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		if (strcmp(name, ways[i].name) == 0)
			return ways[i].way;
	}
	return NULL;
}
