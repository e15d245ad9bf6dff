/*
 * net_fixture.h: a network card on a tap in a network namespace of the test's own,
 * with the wire behind the tap at hand, for tests of virtio-net.
 */
#ifndef TESTS_UNIT_NET_FIXTURE_H
#define TESTS_UNIT_NET_FIXTURE_H

#include "virtio_driver.h"

#include "vmm/virtio_net.h"

#define NET_ETHERTYPE 0x88b5 /* for experiments (IEEE 802) */
#define NET_ENTRIES   64
#define NET_BUF_BYTES 2048

/* Section 5.1.6; with VERSION_1 always of this size. */
struct net_header {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};

struct net_fixture {
	struct vdrv d;
	struct virtio_net *n;
	int wire; /* packet socket: NET_ETHERTYPE out, everything in */
};

/* False, and says why, when there can be no tap here. */
bool net_world(void);

/*
 * A card on a tap of this name, the interface up, rings ready; the machine does
 * not run yet (vdrv_start()).
 */
void net_up(struct net_fixture *f, const char *tap, uint64_t features);
void net_down(struct net_fixture *f);
/* `ip link del`. */
void net_delete(const char *tap);

/* An Ethernet frame of NET_ETHERTYPE with a number and a pattern in it. */
void net_frame(uint8_t *frame, size_t bytes, uint32_t number);
void net_check_frame(const uint8_t *frame, size_t bytes, uint32_t number);

/* From the wire to the tap. */
void net_wire_send(struct net_fixture *f, const void *frame, size_t bytes);
/*
 * The next frame of this Ethernet type that the guest sent, behind the first 10
 * bytes of a struct net_header.
 */
size_t net_wire_receive(struct net_fixture *f, uint16_t type, void *buf,
			size_t bytes);

/* The driver: header and frame in one piece of new memory. */
uint16_t net_send(struct net_fixture *f, const struct net_header *h,
		  const void *frame, size_t bytes);
/* One receive buffer; its memory. */
uint16_t net_give(struct net_fixture *f, uint32_t bytes, uint64_t *ret_gpa);
uint16_t net_status(struct net_fixture *f);

#endif
