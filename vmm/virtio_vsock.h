/*
 * vmm/virtio_vsock.h: what the files of the socket device share (virtio 1.2,
 * section 5.10; streams only). The host's end are unix sockets:
 *
 *	PATH		a host program connects, says "CONNECT port\n", and hears
 *			"OK port\n" (its own port) when the guest has accepted, or
 *			the end of the stream
 *	PATH_port	a host program listens; the guest's connect to (2, port)
 *			ends up there
 *
 *	virtio_vsock.c	queues, packets, the table of connections
 *	vsock_conn.c	one connection: its socket, its buffer, its credit
 *	vsock_host.c	PATH and PATH_port
 *
 * Connections stay behind when the guest moves: it is told that they are reset.
 *
 * Threads: all on the device's worker; see vmm/virtio.h.
 */
#ifndef VMM_VIRTIO_VSOCK_H
#define VMM_VIRTIO_VSOCK_H

#include "vmm/virtio.h"
#include "vmm/vm.h"

enum { VSOCK_RX, VSOCK_TX, VSOCK_EVENT, VSOCK_NR_QUEUES };

#define VSOCK_HOST_CID  2
#define VSOCK_CONNS_MAX 256
/* Of one connection, guest to host: the credit that the guest gets. */
#define VSOCK_BUF_BYTES (64u << 10)
/* Host to guest, in one packet. */
#define VSOCK_DATA_BYTES_MAX (16u << 10)
#define VSOCK_GREETING_BYTES 32

enum vsock_op {
	VSOCK_OP_REQUEST = 1,
	VSOCK_OP_RESPONSE,
	VSOCK_OP_RST,
	VSOCK_OP_SHUTDOWN,
	VSOCK_OP_RW,
	VSOCK_OP_CREDIT_UPDATE,
	VSOCK_OP_CREDIT_REQUEST
};

/* Flags of SHUTDOWN: who sends it will not ... */
#define VSOCK_NO_RECEIVE 1
#define VSOCK_NO_SEND    2

/* As in guest memory, little endian. */
struct vsock_header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type;
	uint16_t op;
	uint32_t flags;
	uint32_t buf_alloc;
	uint32_t fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_header) == 44, "section 5.10.6");

enum vsock_state {
	VSOCK_GREETING, /* the host's program has not said where to */
	VSOCK_ASKED,    /* REQUEST goes, or went, to the guest */
	VSOCK_OPEN,
	VSOCK_DEAD /* goes as soon as nothing is due */
};

/* Packets that wait for a buffer of the guest's. */
#define VSOCK_DUE_REQUEST  0x01
#define VSOCK_DUE_RESPONSE 0x02
#define VSOCK_DUE_CREDIT   0x04
#define VSOCK_DUE_SHUTDOWN 0x08
#define VSOCK_DUE_RST      0x10

struct virtio_vsock;

struct vsock_conn {
	struct virtio_vsock *s;
	enum vsock_state state;
	unsigned int due;
	int fd; /* owned; -1 when dead */
	uint32_t guest_port, host_port;
	/* Guest to host: bytes that the socket did not take yet, in a ring. */
	uint8_t *buf; /* owned; NULL until needed */
	uint32_t buf_first, buf_bytes;
	uint32_t forwarded; /* what has left the ring, modulo 2^32 */
	uint32_t told_forwarded;
	bool guest_sends_no_more, guest_hears_no_more;
	/* Host to guest. */
	uint32_t sent, peer_forwarded, peer_buf_alloc;
	bool host_sends_no_more, host_hears_no_more;
	char greeting[VSOCK_GREETING_BYTES];
	unsigned int greeting_bytes;
	ev_io readable, writable;
};

/* What waits for a buffer and belongs to no connection. */
#define VSOCK_RSTS_MAX 64

struct virtio_vsock {
	struct virtio_device v;
	/* Constant after virtio_vsock_new(). */
	struct vm_vsock_config cfg; /* cfg.path is path */
	char *path;                 /* owned */
	int listen_fd;
	/* The worker's while it runs, else whoever holds the device stopped. */
	struct vsock_conn *conns[VSOCK_CONNS_MAX]; /* owned */
	unsigned int nr_conns;
	struct vsock_rst {
		uint32_t guest_port, host_port;
	} rsts[VSOCK_RSTS_MAX];
	unsigned int nr_rsts;
	uint32_t next_port;
	bool unsettled; /* a connection has something due or is dead */
	bool rx_empty;  /* no buffer of the guest's, until it rings */
	bool tx_waits;  /* for room in rsts */
	bool reset_due; /* the guest came from elsewhere */
	ev_io connecting;
};

/* virtio_vsock.c */

/*
 * Takes a buffer of the guest's for a packet with room for data behind its header
 * (min_bytes of it). False: there is none, or the ring is broken.
 */
bool vsock_take_buffer(struct virtio_vsock *s, uint64_t min_bytes,
		       struct virtio_chain *ret_chain);
/* h's op, flags and len are set; the rest is filled in from c. */
void vsock_send(struct vsock_conn *c, const struct virtio_chain *chain,
		struct vsock_header *h, const uint8_t *data);
/* Sends what is due, frees the dead. At the end of whatever may change that. */
void vsock_settle(struct virtio_vsock *s);
uint32_t vsock_free_port(struct virtio_vsock *s);

/* vsock_conn.c */

/* Takes fd over. NULL: no memory, and fd is closed. */
struct vsock_conn *vsock_conn_new(struct virtio_vsock *s, int fd,
				  enum vsock_state state);
void vsock_conn_free(struct vsock_conn *c);
/* Watches what can go on now. stop: nothing. */
void vsock_conn_watch(struct vsock_conn *c);
void vsock_conn_unwatch(struct vsock_conn *c);
/* A packet of the guest's for this connection; its data is in chain. */
void vsock_conn_packet(struct vsock_conn *c, const struct vsock_header *h,
		       const struct virtio_chain *chain);
/* Over: the guest hears of it, unless it said so itself. */
void vsock_conn_end(struct vsock_conn *c, bool tell_guest);
/* The flags of the SHUTDOWN that is due. */
uint32_t vsock_conn_shutdown_flags(const struct vsock_conn *c);

/* vsock_host.c: none of its descriptors blocks. */

/* Listens at path, for this user only. The caller unlinks it in the end. */
int vsock_host_listen(const char *path, int *ret_fd, char **err);
/* -errno, or a socket connected to the host program at PATH_port. */
int vsock_host_dial(const char *path, uint32_t port);

#endif
