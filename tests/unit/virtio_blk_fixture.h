/*
 * virtio_blk_fixture.h: a disk image in a temporary file, a block device on it,
 * and requests that are easy to say.
 *
 * Each queue has BLKT_SLOTS headers and status bytes in guest memory; a slot is
 * one request.
 */
#ifndef TESTS_UNIT_VIRTIO_BLK_FIXTURE_H
#define TESTS_UNIT_VIRTIO_BLK_FIXTURE_H

#include "tests/unit/virtio_driver.h"
#include "vmm/virtio_blk_internal.h"

#define BLKT_SLOTS   64
#define BLKT_ENTRIES 256
#define KIB          UINT64_C(1024)
#define MIB          (UINT64_C(1) << 20)

#define BLKT_PENDING 0xee /* a status byte that the device has not written */

struct blkt {
	char path[64];
	int fd; /* the test's own view of the image */
	uint64_t bytes;
	struct vdrv d;
	struct virtio_blk *blk;
	uint64_t headers_gpa[BLK_BOUNCES]; /* by queue; a page each */
	uint64_t status_gpa[BLK_BOUNCES];
};

struct blkt_options {
	const char *directory; /* NULL: /tmp */
	uint64_t bytes;
	unsigned int nr_queues; /* 0: 1 */
	bool read_only;
	bool direct;
	uint32_t align;        /* what direct I/O shall want; 0: what it does */
	uint64_t not_accepted; /* features */
};

/* Fails the test, or skips it where the file system has no O_DIRECT. */
void blkt_open(struct blkt *t, const struct blkt_options *o);
void blkt_close(struct blkt *t);
/* A second device on the same image, in a machine of its own; not started. */
void blkt_open_again(struct blkt *t, const struct blkt *first,
		     const struct blkt_options *o);

/* Submits with a header in the slot, data (may be 0 bytes) and the status. */
uint16_t blkt_submit(struct blkt *t, unsigned int queue, unsigned int slot,
		     uint32_t type, uint64_t sector, uint64_t gpa,
		     uint32_t bytes);
/* Pieces of data instead; `writable` says which way they go. */
uint16_t blkt_submit_pieces(struct blkt *t, unsigned int queue,
			    unsigned int slot, uint32_t type, uint64_t sector,
			    const struct vdrv_piece *data, unsigned int nr);
uint8_t blkt_status(struct blkt *t, unsigned int queue, unsigned int slot);
/* On queue 0, and waits: the status. */
uint8_t blkt_do(struct blkt *t, uint32_t type, uint64_t sector, uint64_t gpa,
		uint32_t bytes);
uint8_t blkt_do_pieces(struct blkt *t, uint32_t type, uint64_t sector,
		       const struct vdrv_piece *data, unsigned int nr);
/* A discard or write zeroes request. */
uint8_t blkt_do_range(struct blkt *t, uint32_t type, uint64_t sector,
		      uint32_t nr_sectors, uint32_t flags);

/* Bytes that tell where they belong. */
void blkt_pattern(uint8_t *buf, uint64_t offset, uint64_t bytes, uint64_t seed);
/* The image itself, past the device. */
void blkt_image_fill(struct blkt *t, uint64_t seed);
void blkt_assert_image(struct blkt *t, uint64_t offset, const uint8_t *want,
		       uint64_t bytes);

#endif
