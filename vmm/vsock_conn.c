/*
 * vmm/vsock_conn.c: one stream between a unix socket of the host and a socket of
 * the guest, with the credit of section 5.10.6.3: each side sends no more than
 * the other has room for.
 */
#include "vmm/virtio_vsock.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void set_due(struct vsock_conn *c, unsigned int due)
{
	c->due |= due;
	c->s->unsettled = true;
}

void vsock_conn_end(struct vsock_conn *c, bool tell_guest)
{
	if (c->state == VSOCK_DEAD)
		return;
	vsock_conn_unwatch(c);
	/* A guest that was never asked knows of nothing. */
	tell_guest = tell_guest && c->state != VSOCK_GREETING &&
		     !(c->due & VSOCK_DUE_REQUEST);
	c->state = VSOCK_DEAD;
	c->due = tell_guest ? VSOCK_DUE_RST : 0;
	c->s->unsettled = true;
	close(c->fd);
	c->fd = -1;
	free(c->buf);
	c->buf = NULL;
}

/* How much more the guest has room for. What it says may be nonsense. */
static uint32_t credit(const struct vsock_conn *c)
{
	uint32_t under_way = c->sent - c->peer_forwarded;

	return under_way < c->peer_buf_alloc ? c->peer_buf_alloc - under_way
					     : 0;
}

static bool may_read(const struct vsock_conn *c)
{
	if (c->state == VSOCK_GREETING)
		return true;
	return c->state == VSOCK_OPEN && c->due == 0 &&
	       !c->host_sends_no_more && !c->guest_hears_no_more &&
	       !c->s->rx_empty && credit(c) > 0;
}

static void watch_if(struct ev_loop *loop, ev_io *w, bool wanted)
{
	if (wanted)
		ev_io_start(loop, w);
	else
		ev_io_stop(loop, w);
}

void vsock_conn_watch(struct vsock_conn *c)
{
	struct ev_loop *loop = virtio_loop(&c->s->v);

	watch_if(loop, &c->readable, may_read(c));
	watch_if(loop, &c->writable,
		 c->state == VSOCK_OPEN && c->buf_bytes > 0);
}

void vsock_conn_unwatch(struct vsock_conn *c)
{
	ev_io_stop(virtio_loop(&c->s->v), &c->readable);
	ev_io_stop(virtio_loop(&c->s->v), &c->writable);
}

/* Either side has said that it is done: an end, or half of one. */
static void close_if_done(struct vsock_conn *c)
{
	if (c->state != VSOCK_OPEN || !c->guest_sends_no_more ||
	    c->buf_bytes > 0)
		return;
	if (c->guest_hears_no_more || c->host_sends_no_more)
		vsock_conn_end(c, true);
	else
		shutdown(c->fd, SHUT_WR);
}

/* From the ring to the socket, as much as it takes. */
static void flush(struct vsock_conn *c)
{
	while (c->buf_bytes > 0) {
		uint32_t n = VSOCK_BUF_BYTES - c->buf_first;
		ssize_t put;

		if (n > c->buf_bytes)
			n = c->buf_bytes;
		put = send(c->fd, c->buf + c->buf_first, n,
			   MSG_NOSIGNAL | MSG_DONTWAIT);
		if (put < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (put < 0) {
			vsock_conn_end(c, true);
			return;
		}
		c->buf_first = (c->buf_first + (uint32_t)put) % VSOCK_BUF_BYTES;
		c->buf_bytes -= (uint32_t)put;
		c->forwarded += (uint32_t)put;
	}
	/* Before the guest runs dry; every other packet tells it too. */
	if (c->forwarded - c->told_forwarded >= VSOCK_BUF_BYTES / 2)
		set_due(c, VSOCK_DUE_CREDIT);
	close_if_done(c);
}

/* Data of the guest's: false when it sends more than it may. */
static bool store(struct vsock_conn *c, const struct virtio_chain *chain,
		  uint32_t bytes)
{
	uint64_t at = sizeof(struct vsock_header);

	if (bytes > VSOCK_BUF_BYTES - c->buf_bytes)
		return false;
	if (!c->buf)
		c->buf = malloc(VSOCK_BUF_BYTES);
	if (!c->buf)
		return false;
	while (bytes > 0) {
		uint32_t end = (c->buf_first + c->buf_bytes) % VSOCK_BUF_BYTES;
		uint32_t n = VSOCK_BUF_BYTES - end;

		if (n > bytes)
			n = bytes;
		virtio_drain(chain, at, c->buf + end, n);
		c->buf_bytes += n;
		bytes -= n;
		at += n;
	}
	return true;
}

/* The guest accepted what a host program asked for. */
static void accepted(struct vsock_conn *c)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "OK %" PRIu32 "\n", c->host_port);

	c->state = VSOCK_OPEN;
	if (send(c->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
		vsock_conn_end(c, true);
}

static void data_came(struct vsock_conn *c, const struct vsock_header *h,
		      const struct virtio_chain *chain)
{
	if (c->guest_sends_no_more || !store(c, chain, h->len))
		vsock_conn_end(c, true);
	else
		flush(c);
}

static void guest_shuts_down(struct vsock_conn *c, uint32_t flags)
{
	if (flags & VSOCK_NO_RECEIVE) {
		c->guest_hears_no_more = true;
		shutdown(c->fd, SHUT_RD);
	}
	if (flags & VSOCK_NO_SEND)
		c->guest_sends_no_more = true;
	close_if_done(c);
}

void vsock_conn_packet(struct vsock_conn *c, const struct vsock_header *h,
		       const struct virtio_chain *chain)
{
	if (c->state == VSOCK_DEAD)
		return;
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_forwarded = h->fwd_cnt;
	if (h->op == VSOCK_OP_RST)
		vsock_conn_end(c, false);
	else if (h->op == VSOCK_OP_RESPONSE && c->state == VSOCK_ASKED &&
		 c->due == 0)
		accepted(c);
	else if (c->state != VSOCK_OPEN)
		vsock_conn_end(c, true);
	else if (h->op == VSOCK_OP_RW)
		data_came(c, h, chain);
	else if (h->op == VSOCK_OP_SHUTDOWN)
		guest_shuts_down(c, h->flags);
	else if (h->op == VSOCK_OP_CREDIT_REQUEST)
		set_due(c, VSOCK_DUE_CREDIT);
	else if (h->op != VSOCK_OP_CREDIT_UPDATE)
		vsock_conn_end(c, true);
	vsock_conn_watch(c);
}

uint32_t vsock_conn_shutdown_flags(const struct vsock_conn *c)
{
	return (c->host_sends_no_more ? VSOCK_NO_SEND : 0) |
	       (c->host_hears_no_more ? VSOCK_NO_RECEIVE : 0);
}

/* The host's program closed its end, or shut half of it down. */
static void host_ended(struct vsock_conn *c)
{
	struct pollfd p = { .fd = c->fd };

	c->host_sends_no_more = true;
	c->host_hears_no_more = poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
	set_due(c, VSOCK_DUE_SHUTDOWN);
	close_if_done(c);
}

/* One packet's worth from the socket to the guest. */
static void forward(struct vsock_conn *c)
{
	struct vsock_header h = { .op = VSOCK_OP_RW };
	uint8_t data[VSOCK_DATA_BYTES_MAX];
	struct virtio_chain chain;
	uint64_t room;
	ssize_t got;

	if (!may_read(c) || !vsock_take_buffer(c->s, 1, &chain))
		return;
	room = chain.in_bytes - sizeof(h);
	if (room > credit(c))
		room = credit(c);
	if (room > sizeof(data))
		room = sizeof(data);
	got = recv(c->fd, data, room, MSG_DONTWAIT);
	if (got > 0) {
		h.len = (uint32_t)got;
		vsock_send(c, &chain, &h, data);
		c->sent += (uint32_t)got;
		return;
	}
	virtio_put_back(&c->s->v.queues[VSOCK_RX]);
	if (got == 0)
		host_ended(c);
	else if (errno != EAGAIN && errno != EINTR)
		vsock_conn_end(c, true);
}

/* "CONNECT 52\n": decimal digits and nothing else. */
static bool parse_greeting(const struct vsock_conn *c, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	const size_t skip = sizeof(word) - 1;
	uint64_t port = 0;

	if (c->greeting_bytes <= skip || memcmp(c->greeting, word, skip) != 0)
		return false;
	for (size_t i = skip; i < c->greeting_bytes; i++) {
		if (c->greeting[i] < '0' || c->greeting[i] > '9')
			return false;
		port = 10 * port + (uint64_t)(c->greeting[i] - '0');
		if (port > UINT32_MAX)
			return false;
	}
	*ret_port = (uint32_t)port;
	return true;
}

/* Byte by byte: what follows the line is the guest's. */
static void hear_greeting(struct vsock_conn *c)
{
	ssize_t got;
	char byte;

	while ((got = recv(c->fd, &byte, 1, MSG_DONTWAIT)) == 1 &&
	       byte != '\n' && c->greeting_bytes < VSOCK_GREETING_BYTES)
		c->greeting[c->greeting_bytes++] = byte;
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got != 1 || byte != '\n' || !parse_greeting(c, &c->guest_port)) {
		vsock_conn_end(c, false);
		return;
	}
	c->host_port = vsock_free_port(c->s);
	c->state = VSOCK_ASKED;
	set_due(c, VSOCK_DUE_REQUEST);
}

static void on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct vsock_conn *c = w->data;
	struct virtio_vsock *s = c->s;

	(void)loop;
	(void)revents;
	if (c->state == VSOCK_GREETING)
		hear_greeting(c);
	else
		forward(c);
	vsock_conn_watch(c);
	vsock_settle(s);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct vsock_conn *c = w->data;
	struct virtio_vsock *s = c->s;

	(void)loop;
	(void)revents;
	flush(c);
	vsock_conn_watch(c);
	vsock_settle(s);
}

struct vsock_conn *vsock_conn_new(struct virtio_vsock *s, int fd,
				  enum vsock_state state)
{
	struct vsock_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return NULL;
	}
	c->s = s;
	c->fd = fd;
	c->state = state;
	ev_io_init(&c->readable, on_readable, fd, EV_READ);
	c->readable.data = c;
	ev_io_init(&c->writable, on_writable, fd, EV_WRITE);
	c->writable.data = c;
	return c;
}

/* Unwatched: the device is stopped, or the connection is dead. */
void vsock_conn_free(struct vsock_conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->buf);
	free(c);
}
