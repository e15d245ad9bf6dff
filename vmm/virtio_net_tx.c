/*
 * vmm/virtio_net_tx.c: frames from the guest to the tap (virtio 1.2, section
 * 5.1.6.2), and a few of our own after a move.
 */
#include "vmm/virtio_net.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

/*
 * Frames for switches to learn from where the guest is now: the first at once,
 * each of the others after a longer while, for a port that was not up yet.
 */
#define ANNOUNCE_FIRST_S 0.05
#define ANNOUNCE_STEP_S  0.1

/* Frames that make no sense and what the kernel refuses are lost, as on a wire. */
static int send_frame(struct virtio_net *n, const struct virtio_chain *c)
{
	if (c->out_bytes <= TAP_HEADER_BYTES ||
	    c->out_bytes > NET_FRAME_BYTES_MAX)
		return 0;
	if (writev(n->tap, c->iov, (int)c->nr_out) < 0 && errno == EAGAIN)
		return -EAGAIN;
	return 0;
}

/* 1: sent; 0: nothing to send or no room for it; or the ring is broken. */
static int send_next(struct virtio_net *n, struct virtio_queue *q)
{
	struct virtio_chain c;
	int ret = virtio_pop(q, &c);

	if (ret <= 0)
		return ret;
	if (send_frame(n, &c) < 0) {
		virtio_put_back(q);
		n->tap_full = true;
		ev_io_start(virtio_loop(&n->v), &n->tap_writable);
		return 0;
	}
	virtio_push(q, c.head, 0);
	return 1;
}

void virtio_net_tx_kicked(struct virtio_net *n)
{
	struct virtio_queue *q = &n->v.queues[NET_TX];
	int ret = 1;

	if (n->tap_full)
		return;
	for (int i = 0; i < NET_BUDGET && ret > 0; i++)
		ret = send_next(n, q);
	if (ret > 0)
		eventfd_write(q->kick_fd, 1); /* there may be more */
	virtio_notify(q);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct virtio_net *n = w->data;

	(void)revents;
	ev_io_stop(loop, w);
	n->tap_full = false;
	virtio_net_tx_kicked(n);
}

/*
 * "Which address is mine?", RFC 903: the only frame that every switch learns from
 * and that takes no knowledge of the guest's addresses.
 */
static void send_rarp(struct virtio_net *n)
{
	static const uint8_t request[] = {
		0x80, 0x35,             /* Ethernet type: RARP */
		0x00, 0x01, 0x08, 0x00, /* of Ethernet and IPv4 addresses */
		6,    4,                /* their lengths */
		0x00, 0x03,             /* request reverse */
	};
	uint8_t frame[TAP_HEADER_BYTES + 60] = {
		0
	}; /* the shortest there is */
	uint8_t *p = frame + TAP_HEADER_BYTES;

	memset(p, 0xff, NET_MAC_BYTES);
	memcpy(p + 6, n->mac, NET_MAC_BYTES);
	memcpy(p + 12, request, sizeof(request));
	memcpy(p + 22, n->mac, NET_MAC_BYTES); /* sender */
	memcpy(p + 32, n->mac, NET_MAC_BYTES); /* target: itself */
	/* A frame that finds no room is made up for by the next. */
	if (write(n->tap, frame, sizeof(frame)) < 0 && errno == EBADFD)
		virtio_net_lost(n);
}

static void announce(struct virtio_net *n)
{
	if (n->nr_announces == 0)
		return;
	n->nr_announces--;
	send_rarp(n);
	ev_timer_set(&n->announce, n->announce_delay_s, 0.);
	n->announce_delay_s += ANNOUNCE_STEP_S;
	ev_timer_start(virtio_loop(&n->v), &n->announce);
}

static void on_announce(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	announce(w->data);
}

void virtio_net_tx_announce(struct virtio_net *n)
{
	n->announce_delay_s = ANNOUNCE_FIRST_S;
	announce(n);
}

void virtio_net_tx_init(struct virtio_net *n)
{
	ev_io_init(&n->tap_writable, on_writable, n->tap, EV_WRITE);
	n->tap_writable.data = n;
	ev_timer_init(&n->announce, on_announce, 0., 0.);
	n->announce.data = n;
}

void virtio_net_tx_stop(struct virtio_net *n)
{
	ev_io_stop(virtio_loop(&n->v), &n->tap_writable);
	ev_timer_stop(virtio_loop(&n->v), &n->announce);
	n->tap_full = false;
}
