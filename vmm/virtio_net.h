/*
 * vmm/virtio_net.h: what the files of the network card share (virtio 1.2,
 * section 5.1): one pair of queues and a control queue over a tap interface.
 *
 *	virtio_net.c		life, features, control queue, state
 *	virtio_net_rx.c		tap to guest
 *	virtio_net_tx.c		guest to tap, and announcing a guest that moved
 *
 * Frames go between the tap and guest memory without a copy in between, because
 * the header of both is the same; the kernel checks what a guest wrote there.
 *
 * Threads: everything here on the device's worker; see vmm/virtio.h.
 */
#ifndef VMM_VIRTIO_NET_H
#define VMM_VIRTIO_NET_H

#include <net/if.h>

#include "vmm/tap.h"
#include "vmm/virtio.h"

/* Feature bits, section 5.1.3. */
#define VIRTIO_NET_F_CSUM           (UINT64_C(1) << 0)
#define VIRTIO_NET_F_GUEST_CSUM     (UINT64_C(1) << 1)
#define VIRTIO_NET_F_MAC            (UINT64_C(1) << 5)
#define VIRTIO_NET_F_GUEST_TSO4     (UINT64_C(1) << 7)
#define VIRTIO_NET_F_GUEST_TSO6     (UINT64_C(1) << 8)
#define VIRTIO_NET_F_HOST_TSO4      (UINT64_C(1) << 11)
#define VIRTIO_NET_F_HOST_TSO6      (UINT64_C(1) << 12)
#define VIRTIO_NET_F_MRG_RXBUF      (UINT64_C(1) << 15)
#define VIRTIO_NET_F_STATUS         (UINT64_C(1) << 16)
#define VIRTIO_NET_F_CTRL_VQ        (UINT64_C(1) << 17)
#define VIRTIO_NET_F_GUEST_ANNOUNCE (UINT64_C(1) << 21)

enum { NET_RX, NET_TX, NET_CTRL, NET_NR_QUEUES };

#define NET_MAC_BYTES 6
#define NET_ANNOUNCES 5
/* Frames at a time; what else the worker has to do waits no longer. */
#define NET_BUDGET 64
/* Header, Ethernet with a VLAN tag, and the largest packet (5.1.6.3.1). */
#define NET_FRAME_BYTES_MAX (TAP_HEADER_BYTES + 18 + 65535)
/* What readv() takes at most (IOV_MAX). */
#define NET_RX_IOVS 1024

/*
 * Buffers that were popped for frames to come, oldest first. All pieces of all
 * of them are one array, so that a frame is one readv().
 */
struct net_rx {
	struct net_rx_buffer {
		uint16_t head;
		uint16_t nr_iov;
		uint64_t bytes;
	} buffers[VIRTIO_QUEUE_ENTRIES_MAX];
	unsigned int nr_buffers;
	struct iovec iov[NET_RX_IOVS];
	unsigned int nr_iov;
	uint64_t bytes;
};

struct virtio_net {
	struct virtio_device v;
	/* Constant after virtio_net_new(). */
	int tap; /* owned */
	char tap_name[IFNAMSIZ];
	/* The worker's while it runs, else whoever holds the device stopped. */
	uint8_t mac[NET_MAC_BYTES];
	uint16_t status;      /* as in the configuration */
	unsigned int offload; /* TUN_F_* in force */
	struct net_rx rx;
	bool tap_full;             /* frames wait for room in the tap */
	bool announce_to_guest;    /* at the next start */
	unsigned int nr_announces; /* of our own, still to be sent */
	double announce_delay_s;   /* before the next */
	ev_io tap_readable;
	ev_io tap_writable;
	ev_timer announce;
};

/* virtio_net.c */

/* The interface is gone for good: the guest sees its cable pulled. */
void virtio_net_lost(struct virtio_net *n);

/* virtio_net_rx.c */

void virtio_net_rx_init(struct virtio_net *n);
/* The guest may have given buffers. */
void virtio_net_rx_kicked(struct virtio_net *n);
/* Gives buffers without a frame back. */
void virtio_net_rx_stop(struct virtio_net *n);

/* virtio_net_tx.c */

void virtio_net_tx_init(struct virtio_net *n);
void virtio_net_tx_kicked(struct virtio_net *n);
/* Sends NET_ANNOUNCES frames, the first now, if the guest came from elsewhere. */
void virtio_net_tx_announce(struct virtio_net *n);
void virtio_net_tx_stop(struct virtio_net *n);

#endif
