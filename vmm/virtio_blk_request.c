/* vmm/virtio_blk_request.c: what a guest may ask of its disk, and the answer. */
#include "vmm/virtio_blk_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_BYTES 20u /* VIRTIO_BLK_ID_BYTES, section 5.2.6 */

#define RANGE_F_UNMAP 1u

struct blk_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};
_Static_assert(sizeof(struct blk_header) == BLK_HEADER_BYTES, "wire format");

struct blk_range {
	uint64_t sector;
	uint32_t nr_sectors;
	uint32_t flags;
};
_Static_assert(sizeof(struct blk_range) == BLK_RANGE_BYTES, "wire format");

static bool reads_disk(const struct blk_request *r)
{
	return r->type == BLK_T_IN;
}

unsigned int blk_request_slice(struct blk_request *r, uint64_t at,
			       uint64_t bytes)
{
	const struct virtio_chain *c = &r->chain;
	const struct iovec *seg = reads_disk(r) ? c->iov + c->nr_out : c->iov;
	unsigned int n = 0;

	if (!reads_disk(r))
		at += BLK_HEADER_BYTES;
	for (; bytes > 0; seg++) {
		uint64_t here = seg->iov_len;

		if (at >= here) {
			at -= here;
			continue;
		}
		here = here - at < bytes ? here - at : bytes;
		r->iov[n].iov_base = (uint8_t *)seg->iov_base + at;
		r->iov[n].iov_len = here;
		n++;
		bytes -= here;
		at = 0;
	}
	return n;
}

void blk_request_copy_in(struct blk_request *r, uint64_t at, uint8_t *buf,
			 size_t bytes)
{
	if (r->type == BLK_T_OUT)
		virtio_drain(&r->chain, BLK_HEADER_BYTES + at, buf, bytes);
	else
		memset(buf, 0, bytes);
}

void blk_request_copy_out(struct virtio_blk *b, struct blk_request *r,
			  uint64_t at, const uint8_t *buf, size_t bytes)
{
	virtio_fill(&b->dev, &r->chain, at, buf, bytes);
}

/*
 * For tests that prove that these marks matter: without them nobody would learn
 * that the kernel has stored into guest memory.
 */
static bool marks_are_lost(void)
{
#ifdef VMMD_FAULT_POINTS
	const char *fault = getenv("VMMD_FAULT");

	return fault && strcmp(fault, "disk-marks:lose") == 0;
#else
	return false;
#endif
}

struct blk_request *blk_request_take(struct virtio_blk *b)
{
	struct blk_request *r = b->free;

	if (r)
		b->free = r->next;
	else if (b->nr_used < BLK_REQUESTS_MAX)
		r = &b->requests[b->nr_used++];
	else
		return NULL;
	r->alone = false;
	r->bounce = -1;
	b->nr_taken++;
	return r;
}

void blk_request_release(struct virtio_blk *b, struct blk_request *r)
{
	if (r->bounce >= 0)
		b->bounce_free[b->nr_bounce_free++] = r->bounce;
	if (r->alone)
		b->alone = false;
	r->next = b->free;
	b->free = r;
	b->nr_taken--;
}

void blk_request_finish(struct virtio_blk *b, struct blk_request *r,
			enum blk_status status)
{
	uint64_t status_at = r->chain.in_bytes - 1;
	uint8_t byte = (uint8_t)status;
	uint64_t written = 0; /* so many from the first, for certain */

	/* A read that failed may have stored some of its bytes all the same. */
	if (reads_disk(r) && r->bounce < 0 && !marks_are_lost())
		virtio_mark(&b->dev, &r->chain, 0, r->bytes);
	if (reads_disk(r) && status == BLK_S_OK)
		written = r->bytes;
	if (r->type == BLK_T_GET_ID)
		written = status_at < ID_BYTES ? status_at : ID_BYTES;
	virtio_fill(&b->dev, &r->chain, status_at, &byte, 1);
	if (written == status_at)
		written++;
	virtio_push(r->queue, r->chain.head, (uint32_t)written);
	b->pushed |= 1u << r->queue->index;
	blk_request_release(b, r);
}

/* Whole sectors inside the disk; r->offset and r->bytes follow. */
static bool locate(const struct virtio_blk *b, struct blk_request *r,
		   uint64_t sector, uint64_t bytes)
{
	uint64_t sectors = b->disk.bytes / VM_DISK_SECTOR_BYTES;

	if (bytes % VM_DISK_SECTOR_BYTES != 0 || sector > sectors ||
	    bytes / VM_DISK_SECTOR_BYTES > sectors - sector)
		return false;
	r->offset = sector * VM_DISK_SECTOR_BYTES;
	r->bytes = bytes;
	return true;
}

/* Can O_DIRECT do it between the disk and guest memory as it is? */
static bool is_straight(const struct virtio_blk *b, struct blk_request *r)
{
	uint64_t odd = r->offset | r->bytes;
	unsigned int n = blk_request_slice(r, 0, r->bytes);

	for (unsigned int i = 0; i < n; i++)
		odd |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
	return odd % b->disk.align == 0;
}

/*
 * A write that O_DIRECT cannot do but by reading the blocks around it, changing
 * a part and writing them back: others must not write to these meanwhile.
 */
static bool must_be_alone(const struct virtio_blk *b,
			  const struct blk_request *r)
{
	return !reads_disk(r) && (r->offset | r->bytes) % b->disk.align != 0;
}

/* Takes what r needs beside itself; false: it is not there now. */
static bool reserve(struct virtio_blk *b, struct blk_request *r,
		    bool needs_bounce)
{
	if (must_be_alone(b, r)) {
		if (b->nr_taken > 1) {
			b->waiter = r->queue;
			return false;
		}
		r->alone = true;
	}
	if (needs_bounce) {
		if (b->nr_bounce_free == 0)
			return false;
		r->bounce = b->bounce_free[--b->nr_bounce_free];
	}
	b->alone = r->alone;
	return true;
}

static bool begin_transfer(struct virtio_blk *b, struct blk_request *r,
			   uint64_t sector)
{
	uint64_t bytes = reads_disk(r) ? r->chain.in_bytes - 1
				       : r->chain.out_bytes - BLK_HEADER_BYTES;
	bool straight;

	if ((!reads_disk(r) && b->disk.read_only) ||
	    !locate(b, r, sector, bytes)) {
		blk_request_finish(b, r, BLK_S_IOERR);
		return true;
	}
	if (bytes == 0) {
		blk_request_finish(b, r, BLK_S_OK);
		return true;
	}
	straight = is_straight(b, r);
	if (!reserve(b, r, !straight))
		return false;
	blk_fetch(b, r, straight ? BLK_TRANSFER : BLK_LOAD);
	return true;
}

/* Section 5.2.6.2: unknown flags, and unmap with discard, are not supported. */
static bool flags_are_good(const struct blk_request *r, uint32_t flags)
{
	return flags == 0 ||
	       (flags == RANGE_F_UNMAP && r->type == BLK_T_WRITE_ZEROES);
}

static bool begin_range(struct virtio_blk *b, struct blk_request *r)
{
	uint64_t limit = r->type == BLK_T_DISCARD ? BLK_DISCARD_BYTES
						  : BLK_ZEROES_BYTES;
	struct blk_range range;
	enum blk_status bad = BLK_S_IOERR;
	uint64_t bytes;

	if (b->disk.read_only ||
	    r->chain.out_bytes != BLK_HEADER_BYTES + BLK_RANGE_BYTES)
		goto refuse;
	virtio_drain(&r->chain, BLK_HEADER_BYTES, &range, sizeof(range));
	bytes = (uint64_t)range.nr_sectors * VM_DISK_SECTOR_BYTES;
	if (!flags_are_good(r, range.flags)) {
		bad = BLK_S_UNSUPP;
		goto refuse;
	}
	if (bytes > limit || !locate(b, r, range.sector, bytes))
		goto refuse;
	if (bytes == 0) {
		blk_request_finish(b, r, BLK_S_OK);
		return true;
	}
	r->unmap = r->type == BLK_T_DISCARD || (range.flags & RANGE_F_UNMAP);
	/* Zeros may come down to being written, and then not wait for a buffer. */
	if (!reserve(b, r, r->type == BLK_T_WRITE_ZEROES))
		return false;
	blk_io_start(b, r, r->unmap ? BLK_PUNCH : BLK_ZERO_RANGE);
	return true;
refuse:
	blk_request_finish(b, r, bad);
	return true;
}

/* Not a path of the host's: it must be the same wherever the guest goes. */
static void tell_id(struct virtio_blk *b, struct blk_request *r)
{
	char id[ID_BYTES + 1] = { 0 };
	uint64_t room = r->chain.in_bytes - 1;

	snprintf(id, sizeof(id), "vmmd-disk%u", b->index);
	virtio_fill(&b->dev, &r->chain, 0, id,
		    room < ID_BYTES ? room : ID_BYTES);
	blk_request_finish(b, r, BLK_S_OK);
}

bool blk_request_begin(struct virtio_blk *b, struct blk_request *r)
{
	struct blk_header header;

	r->offset = r->bytes = r->done = 0;
	r->unmap = false;
	/* Copied once: the guest may change it while we look. */
	if (r->chain.in_bytes == 0 ||
	    virtio_drain(&r->chain, 0, &header, sizeof(header)) <
		    sizeof(header)) {
		blk_request_release(b, r);
		virtio_broken(&b->dev, "a request without header or status");
		return true;
	}
	r->type = header.type;
	switch (r->type) {
	case BLK_T_IN:
	case BLK_T_OUT:
		return begin_transfer(b, r, header.sector);
	case BLK_T_DISCARD:
	case BLK_T_WRITE_ZEROES:
		return begin_range(b, r);
	case BLK_T_FLUSH:
		blk_io_start(b, r, BLK_SYNC);
		return true;
	case BLK_T_GET_ID:
		tell_id(b, r);
		return true;
	default:
		blk_request_finish(b, r, BLK_S_UNSUPP);
		return true;
	}
}
