/*
 * vmm/virtio_net_rx.c: frames from the tap into the guest's receive buffers
 * (virtio 1.2, section 5.1.6.4).
 *
 * The size of a frame is known only once it is read. So buffers are popped for
 * the largest before one is read, and those that it did not need wait for the
 * next. The tap is watched only while there are buffers: without, frames queue
 * in the kernel, which drops what is too much.
 */
#include "vmm/virtio_net.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

/* In the header: how many buffers the frame takes. */
#define NUM_BUFFERS_AT 10

static bool has_enough(const struct virtio_net *n)
{
	const struct net_rx *rx = &n->rx;

	if (!virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF))
		return rx->nr_buffers > 0;
	/* One piece is left for on_readable()'s own. */
	return rx->bytes >= NET_FRAME_BYTES_MAX ||
	       rx->nr_buffers == VIRTIO_QUEUE_ENTRIES_MAX ||
	       rx->nr_iov + VIRTIO_CHAIN_SEGS_MAX >= NET_RX_IOVS;
}

/* A negative errno: the ring is broken. */
static int take_buffers(struct virtio_net *n)
{
	struct net_rx *rx = &n->rx;
	struct virtio_chain c;
	int ret;

	while (!has_enough(n)) {
		ret = virtio_pop(&n->v.queues[NET_RX], &c);
		if (ret <= 0)
			return ret;
		if (c.in_bytes < TAP_HEADER_BYTES) {
			virtio_put_back(&n->v.queues[NET_RX]);
			virtio_broken(&n->v, "a receive buffer has no room for "
					     "the header");
			return -EINVAL;
		}
		rx->buffers[rx->nr_buffers++] =
			(struct net_rx_buffer){ .head = c.head,
						.nr_iov = (uint16_t)c.nr_in,
						.bytes = c.in_bytes };
		memcpy(rx->iov + rx->nr_iov, c.iov + c.nr_out,
		       c.nr_in * sizeof(c.iov[0]));
		rx->nr_iov += c.nr_in;
		rx->bytes += c.in_bytes;
	}
	return 0;
}

/* The kernel stored the first `bytes` bytes of the waiting buffers. */
static void mark(struct virtio_net *n, uint64_t bytes)
{
	const uint8_t *ram = vm_mem_base(n->v.mem);

	for (const struct iovec *v = n->rx.iov; bytes > 0; v++) {
		uint64_t part = v->iov_len < bytes ? v->iov_len : bytes;

		vm_mem_mark_dirty(n->v.mem,
				  (uint64_t)((uint8_t *)v->iov_base - ram),
				  part);
		bytes -= part;
	}
}

/* Every buffer has room for a header, but maybe not in one piece. */
static void set_num_buffers(struct net_rx *rx, uint16_t nr)
{
	const uint8_t value[2] = { (uint8_t)nr, (uint8_t)(nr >> 8) };
	const struct iovec *v = rx->iov;
	size_t at = NUM_BUFFERS_AT;

	for (size_t i = 0; i < sizeof(value); i++, at++) {
		for (; at >= v->iov_len; v++)
			at -= v->iov_len;
		((uint8_t *)v->iov_base)[at] = value[i];
	}
}

static void forget_buffers(struct net_rx *rx, unsigned int nr)
{
	unsigned int nr_iov = 0;

	for (unsigned int i = 0; i < nr; i++) {
		nr_iov += rx->buffers[i].nr_iov;
		rx->bytes -= rx->buffers[i].bytes;
	}
	rx->nr_buffers -= nr;
	rx->nr_iov -= nr_iov;
	memmove(rx->buffers, rx->buffers + nr,
		rx->nr_buffers * sizeof(rx->buffers[0]));
	memmove(rx->iov, rx->iov + nr_iov, rx->nr_iov * sizeof(rx->iov[0]));
}

/*
 * A frame of `bytes` bytes is in the first of the buffers. All of them show up in
 * the used ring at once: a driver that sees the first also wants the rest.
 */
static void deliver(struct virtio_net *n, uint64_t bytes)
{
	struct virtio_used used[VIRTIO_QUEUE_ENTRIES_MAX];
	struct net_rx *rx = &n->rx;
	uint64_t left = bytes;
	unsigned int nr = 0;

	while (left > 0) {
		const struct net_rx_buffer *b = &rx->buffers[nr];
		uint64_t part = b->bytes < left ? b->bytes : left;

		used[nr++] = (struct virtio_used){ b->head, (uint32_t)part };
		left -= part;
	}
	set_num_buffers(rx, (uint16_t)nr);
	mark(n, bytes);
	virtio_push_many(&n->v.queues[NET_RX], used, nr);
	forget_buffers(rx, nr);
}

/* 1: a frame was read; 0: none, or nowhere to put it; or a negative errno. */
static int receive(struct virtio_net *n)
{
	struct net_rx *rx = &n->rx;
	uint8_t beyond;
	ssize_t got;
	int ret;

	ret = take_buffers(n);
	if (ret < 0)
		return ret;
	if (rx->nr_buffers == 0) {
		ev_io_stop(virtio_loop(&n->v), &n->tap_readable);
		return 0;
	}
	/* The byte behind all buffers tells a frame that is too long. */
	rx->iov[rx->nr_iov] = (struct iovec){ .iov_base = &beyond,
					      .iov_len = 1 };
	got = readv(n->tap, rx->iov, (int)rx->nr_iov + 1);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if ((uint64_t)got > rx->bytes)
		mark(n, rx->bytes); /* dropped, but stored */
	else if (got > TAP_HEADER_BYTES)
		deliver(n, (uint64_t)got);
	return 1;
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct virtio_net *n = w->data;
	int ret = 1;

	(void)loop;
	(void)revents;
	for (int i = 0; i < NET_BUDGET && ret > 0; i++)
		ret = receive(n);
	if (ret < 0) {
		ev_io_stop(virtio_loop(&n->v), &n->tap_readable);
		if (ret == -EBADFD)
			virtio_net_lost(n);
	}
	virtio_notify(&n->v.queues[NET_RX]);
}

void virtio_net_rx_init(struct virtio_net *n)
{
	ev_io_init(&n->tap_readable, on_readable, n->tap, EV_READ);
	n->tap_readable.data = n;
}

void virtio_net_rx_kicked(struct virtio_net *n)
{
	if (take_buffers(n) == 0 && n->rx.nr_buffers > 0)
		ev_io_start(virtio_loop(&n->v), &n->tap_readable);
}

void virtio_net_rx_stop(struct virtio_net *n)
{
	ev_io_stop(virtio_loop(&n->v), &n->tap_readable);
	for (; n->rx.nr_buffers > 0; n->rx.nr_buffers--)
		virtio_put_back(&n->v.queues[NET_RX]);
	n->rx.nr_iov = 0;
	n->rx.bytes = 0;
}
