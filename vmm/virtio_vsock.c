/*
 * vmm/virtio_vsock.c: the socket device: its queues, its packets, and which
 * connection they belong to. Configuration (section 5.10.4): the guest's le64 CID.
 */
#include "vmm/virtio_vsock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/virtio_devices.h"
#include "vmm/vm_internal.h"

#define VSOCK_TYPE         19
#define VSOCK_PCI_CLASS    0x078000 /* communication controller, other */
#define VSOCK_ENTRIES      256
#define VSOCK_CONFIG_BYTES 8

#define VSOCK_TYPE_STREAM           1
#define VSOCK_EVENT_TRANSPORT_RESET 0

/* Packets at a time; what else the worker has to do waits no longer. */
#define VSOCK_BUDGET 64
/* Host ports that we give out: above those that programs listen on. */
#define VSOCK_FIRST_PORT (UINT32_C(1) << 30)

struct vsock_saved {
	uint8_t reset_due;
};

static const struct vm_field vsock_fields[] = {
	VM_FIELD(0x1000, VM_FIELD_UINT, struct vsock_saved, reset_due),
};

static struct virtio_vsock *to_vsock(struct virtio_device *v)
{
	return (struct virtio_vsock *)v;
}

bool vsock_take_buffer(struct virtio_vsock *s, uint64_t min_bytes,
		       struct virtio_chain *ret_chain)
{
	struct virtio_queue *q = &s->v.queues[VSOCK_RX];

	if (virtio_pop(q, ret_chain) != 1) {
		s->rx_empty = true;
		return false;
	}
	if (ret_chain->in_bytes >= sizeof(struct vsock_header) + min_bytes)
		return true;
	virtio_put_back(q);
	virtio_broken(&s->v, "a receive buffer has no room for a packet");
	return false;
}

static void send_packet(struct virtio_vsock *s,
			const struct virtio_chain *chain,
			struct vsock_header *h, const uint8_t *data)
{
	struct virtio_queue *q = &s->v.queues[VSOCK_RX];

	h->src_cid = VSOCK_HOST_CID;
	h->dst_cid = s->cfg.cid;
	h->type = VSOCK_TYPE_STREAM;
	virtio_fill(&s->v, chain, 0, h, sizeof(*h));
	virtio_fill(&s->v, chain, sizeof(*h), data, h->len);
	virtio_push(q, chain->head, (uint32_t)sizeof(*h) + h->len);
	virtio_notify(q);
}

void vsock_send(struct vsock_conn *c, const struct virtio_chain *chain,
		struct vsock_header *h, const uint8_t *data)
{
	h->src_port = c->host_port;
	h->dst_port = c->guest_port;
	h->buf_alloc = VSOCK_BUF_BYTES;
	h->fwd_cnt = c->told_forwarded = c->forwarded;
	c->due &= ~VSOCK_DUE_CREDIT;
	send_packet(c->s, chain, h, data);
}

static bool send_rst(struct virtio_vsock *s, const struct vsock_rst *r)
{
	struct vsock_header h = { .op = VSOCK_OP_RST,
				  .src_port = r->host_port,
				  .dst_port = r->guest_port };
	struct virtio_chain chain;

	if (!vsock_take_buffer(s, 0, &chain))
		return false;
	send_packet(s, &chain, &h, NULL);
	return true;
}

/* The first of what is due: that is the order in which the guest expects it. */
static enum vsock_op due_op(unsigned int due)
{
	if (due & VSOCK_DUE_RST)
		return VSOCK_OP_RST;
	if (due & VSOCK_DUE_REQUEST)
		return VSOCK_OP_REQUEST;
	if (due & VSOCK_DUE_RESPONSE)
		return VSOCK_OP_RESPONSE;
	return due & VSOCK_DUE_SHUTDOWN ? VSOCK_OP_SHUTDOWN
					: VSOCK_OP_CREDIT_UPDATE;
}

static unsigned int due_bit(enum vsock_op op)
{
	switch (op) {
	case VSOCK_OP_RST:
		return VSOCK_DUE_RST;
	case VSOCK_OP_REQUEST:
		return VSOCK_DUE_REQUEST;
	case VSOCK_OP_RESPONSE:
		return VSOCK_DUE_RESPONSE;
	case VSOCK_OP_SHUTDOWN:
		return VSOCK_DUE_SHUTDOWN;
	default:
		return VSOCK_DUE_CREDIT;
	}
}

/* False when the guest has no buffer left. */
static bool send_due(struct vsock_conn *c)
{
	struct virtio_chain chain;

	while (c->due != 0) {
		struct vsock_header h = { .op = (uint16_t)due_op(c->due) };

		if (!vsock_take_buffer(c->s, 0, &chain))
			return false;
		if (h.op == VSOCK_OP_SHUTDOWN)
			h.flags = vsock_conn_shutdown_flags(c);
		c->due &= ~due_bit((enum vsock_op)h.op);
		vsock_send(c, &chain, &h, NULL);
	}
	return true;
}

static void drop_conn(struct virtio_vsock *s, unsigned int i)
{
	vsock_conn_free(s->conns[i]);
	s->conns[i] = s->conns[--s->nr_conns];
}

void vsock_settle(struct virtio_vsock *s)
{
	unsigned int i = 0;

	while (s->nr_rsts > 0) {
		if (!send_rst(s, &s->rsts[s->nr_rsts - 1]))
			return;
		s->nr_rsts--;
	}
	if (s->tx_waits)
		eventfd_write(s->v.queues[VSOCK_TX].kick_fd, 1);
	s->tx_waits = false;
	if (!s->unsettled)
		return;
	while (i < s->nr_conns) {
		struct vsock_conn *c = s->conns[i];

		if (!send_due(c))
			return;
		if (c->state == VSOCK_DEAD) {
			drop_conn(s, i);
			ev_io_start(virtio_loop(&s->v), &s->connecting);
			continue;
		}
		vsock_conn_watch(c);
		i++;
	}
	s->unsettled = false;
}

static struct vsock_conn *find_conn(const struct virtio_vsock *s,
				    uint32_t guest_port, uint32_t host_port)
{
	for (unsigned int i = 0; i < s->nr_conns; i++) {
		struct vsock_conn *c = s->conns[i];

		if (c->state != VSOCK_GREETING && c->guest_port == guest_port &&
		    c->host_port == host_port)
			return c;
	}
	return NULL;
}

uint32_t vsock_free_port(struct virtio_vsock *s)
{
	bool taken;

	do {
		s->next_port = (s->next_port + 1) | VSOCK_FIRST_PORT;
		taken = false;
		for (unsigned int i = 0; i < s->nr_conns; i++)
			taken |= s->conns[i]->host_port == s->next_port;
	} while (taken);
	return s->next_port;
}

/* The guest connects. False: nobody is there, or too many are. */
static bool answer_request(struct virtio_vsock *s, const struct vsock_header *h)
{
	struct vsock_conn *c;
	int fd;

	if (s->nr_conns == VSOCK_CONNS_MAX)
		vsock_settle(s); /* some may be dead */
	if (s->nr_conns == VSOCK_CONNS_MAX)
		return false;
	fd = vsock_host_dial(s->path, h->dst_port);
	if (fd < 0)
		return false;
	c = vsock_conn_new(s, fd, VSOCK_OPEN);
	if (!c)
		return false;
	c->guest_port = h->src_port;
	c->host_port = h->dst_port;
	c->peer_buf_alloc = h->buf_alloc;
	c->peer_forwarded = h->fwd_cnt;
	c->due = VSOCK_DUE_RESPONSE;
	s->conns[s->nr_conns++] = c;
	s->unsettled = true;
	return true;
}

/* There is room in rsts. */
static void take_packet(struct virtio_vsock *s,
			const struct virtio_chain *chain)
{
	struct vsock_header h;
	struct vsock_conn *c;

	/* What is not a stream from this guest to the host has no answer. */
	if (virtio_drain(chain, 0, &h, sizeof(h)) != sizeof(h) ||
	    h.len > chain->out_bytes - sizeof(h) || h.src_cid != s->cfg.cid ||
	    h.dst_cid != VSOCK_HOST_CID || h.type != VSOCK_TYPE_STREAM)
		return;
	c = find_conn(s, h.src_port, h.dst_port);
	if (c)
		vsock_conn_packet(c, &h, chain);
	else if (h.op != VSOCK_OP_RST &&
		 (h.op != VSOCK_OP_REQUEST || !answer_request(s, &h)))
		s->rsts[s->nr_rsts++] = (struct vsock_rst){ h.src_port,
							    h.dst_port };
}

static void tx_kicked(struct virtio_vsock *s, struct virtio_queue *q)
{
	struct virtio_chain chain;
	int i;

	for (i = 0; i < VSOCK_BUDGET && s->nr_rsts < VSOCK_RSTS_MAX; i++) {
		if (virtio_pop(q, &chain) != 1)
			break;
		take_packet(s, &chain);
		virtio_push(q, chain.head, 0);
	}
	s->tx_waits = s->nr_rsts == VSOCK_RSTS_MAX;
	if (i == VSOCK_BUDGET)
		eventfd_write(q->kick_fd, 1);
	virtio_notify(q);
	vsock_settle(s);
}

static void rx_kicked(struct virtio_vsock *s)
{
	s->rx_empty = false;
	s->unsettled = true; /* all connections may read again */
	vsock_settle(s);
}

/* Section 5.10.6.7. Without a buffer it waits for the driver to give one. */
static void event_kicked(struct virtio_vsock *s, struct virtio_queue *q)
{
	static const uint8_t event[4] = { VSOCK_EVENT_TRANSPORT_RESET };
	struct virtio_chain chain;

	if (!s->reset_due || virtio_pop(q, &chain) != 1)
		return;
	virtio_fill(&s->v, &chain, 0, event, sizeof(event));
	virtio_push(q, chain.head, sizeof(event));
	virtio_notify(q);
	s->reset_due = false;
}

static void vsock_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct virtio_vsock *s = to_vsock(v);

	if (q->index == VSOCK_RX)
		rx_kicked(s);
	else if (q->index == VSOCK_TX)
		tx_kicked(s, q);
	else
		event_kicked(s, q);
}

/*
 * A host program: one at a time, the listener stays readable for the next. While
 * there is no room they wait outside.
 */
static void on_connecting(struct ev_loop *loop, ev_io *w, int revents)
{
	struct virtio_vsock *s = w->data;
	struct vsock_conn *c;
	int fd;

	(void)revents;
	if (s->nr_conns == VSOCK_CONNS_MAX) {
		ev_io_stop(loop, w);
		return;
	}
	fd = accept4(s->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0 &&
	    (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
		return;
	c = fd >= 0 ? vsock_conn_new(s, fd, VSOCK_GREETING) : NULL;
	if (!c) {
		ev_io_stop(loop, w);
		return;
	}
	s->conns[s->nr_conns++] = c;
	vsock_conn_watch(c);
}

static int vsock_start(struct virtio_device *v)
{
	struct virtio_vsock *s = to_vsock(v);

	s->rx_empty = false;
	ev_io_start(virtio_loop(v), &s->connecting);
	for (unsigned int i = 0; i < s->nr_conns; i++)
		vsock_conn_watch(s->conns[i]);
	return 0;
}

static void vsock_stop(struct virtio_device *v)
{
	struct virtio_vsock *s = to_vsock(v);

	ev_io_stop(virtio_loop(v), &s->connecting);
	for (unsigned int i = 0; i < s->nr_conns; i++)
		vsock_conn_unwatch(s->conns[i]);
}

static void vsock_reset(struct virtio_device *v)
{
	struct virtio_vsock *s = to_vsock(v);

	while (s->nr_conns > 0)
		drop_conn(s, s->nr_conns - 1);
	s->nr_rsts = 0;
	s->tx_waits = false;
	s->reset_due = false;
}

static void vsock_save(struct virtio_device *v, void *state)
{
	struct vsock_saved *saved = state;

	saved->reset_due = to_vsock(v)->reset_due;
}

/* Whatever was saved: the connections of the guest are not here. */
static int vsock_load(struct virtio_device *v, const void *state)
{
	(void)state;
	to_vsock(v)->reset_due = true;
	return 0;
}

static void vsock_free(struct virtio_device *v)
{
	struct virtio_vsock *s = to_vsock(v);

	while (s->nr_conns > 0)
		drop_conn(s, s->nr_conns - 1);
	unlink(s->path);
	close(s->listen_fd);
	free(s->path);
	free(s);
}

static const struct virtio_ops vsock_ops = {
	.name = "virtio-vsock",
	.type = VSOCK_TYPE,
	.pci_class = VSOCK_PCI_CLASS,
	.start = vsock_start,
	.kicked = vsock_kicked,
	.stop = vsock_stop,
	.reset = vsock_reset,
	.fields = vsock_fields,
	.nr_fields = sizeof(vsock_fields) / sizeof(vsock_fields[0]),
	.state_bytes = sizeof(struct vsock_saved),
	.save = vsock_save,
	.load = vsock_load,
	.free = vsock_free,
};

static int check_config(const struct vm_vsock_config *cfg, char **err)
{
	/* 0 and 1 are reserved, 2 is the host, all ones is anybody. */
	if (cfg->cid <= VSOCK_HOST_CID || cfg->cid == UINT32_MAX)
		return vm_err(err, -EINVAL,
			      "vsock: %" PRIu32 " is no CID of a guest",
			      cfg->cid);
	return 0;
}

int virtio_vsock_new(struct vm *vm, const struct vm_vsock_config *cfg,
		     struct virtio_device **ret_device, char **err)
{
	uint64_t cid = cfg->cid;
	struct virtio_vsock *s;
	int ret = check_config(cfg, err);

	if (ret < 0)
		return ret;
	s = calloc(1, sizeof(*s));
	if (!s)
		return vm_err(err, -ENOMEM, "no memory for a vsock");
	s->path = strdup(cfg->path);
	if (!s->path) {
		ret = vm_err(err, -ENOMEM, "no memory for a vsock");
		goto free_s;
	}
	s->cfg = (struct vm_vsock_config){ .cid = cfg->cid, .path = s->path };
	ret = vsock_host_listen(s->path, &s->listen_fd, err);
	if (ret < 0)
		goto free_path;
	ret = virtio_device_init(&s->v, &vsock_ops, vm, 0, VSOCK_NR_QUEUES,
				 VSOCK_ENTRIES, 0, VSOCK_CONFIG_BYTES);
	if (ret < 0) {
		vm_err(err, ret, "vsock: %s", strerror(-ret));
		goto close_fd;
	}
	memcpy(s->v.config, &cid, sizeof(cid));
	ev_io_init(&s->connecting, on_connecting, s->listen_fd, EV_READ);
	s->connecting.data = s;
	*ret_device = &s->v;
	return 0;
close_fd:
	unlink(s->path);
	close(s->listen_fd);
free_path:
	free(s->path);
free_s:
	free(s);
	return ret;
}

const struct vm_vsock_config *virtio_vsock_info(struct virtio_device *v)
{
	return &to_vsock(v)->cfg;
}
