#include "proto/wire.h"

#include <errno.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "proto/le.h"

#define BATCH_MAGIC 0x42505656 /* "VVPB" */

/*
 * The header: magic u32, type u16, zero u16, nr_runs u32, nr_sums u32, seq u64,
 * zero u64 x2, check u64. check is XXH3-64 over header (itself zero) and tail.
 */
#define CHECK_OFFSET (PROTO_BATCH_BYTES - 8)

static uint64_t batch_check(const uint8_t *head, size_t head_bytes)
{
	uint64_t fixed = XXH3_64bits(head, CHECK_OFFSET);

	return XXH3_64bits_withSeed(head + PROTO_BATCH_BYTES,
				    head_bytes - PROTO_BATCH_BYTES, fixed);
}

size_t proto_batch_encode(const struct proto_batch *b,
			  uint8_t out[PROTO_BATCH_HEAD_MAX])
{
	uint8_t *p = out;
	uint32_t i;

	p = proto_put32(p, BATCH_MAGIC);
	p = proto_put16(p, (uint16_t)b->type);
	p = proto_put16(p, 0);
	p = proto_put32(p, b->nr_runs);
	p = proto_put32(p, b->nr_sums);
	p = proto_put64(p, b->seq);
	p = proto_put64(p, 0);
	p = proto_put64(p, 0);
	p += 8; /* check, below */
	for (i = 0; i < b->nr_runs; i++) {
		p = proto_put64(p, b->runs[i].first_page);
		p = proto_put64(p, b->runs[i].nr_pages);
	}
	for (i = 0; i < b->nr_sums; i++)
		p = proto_put64(p, b->sums[i]);
	proto_put64(out + CHECK_OFFSET, batch_check(out, (size_t)(p - out)));
	return (size_t)(p - out);
}

int proto_batch_tail_bytes(const uint8_t header[PROTO_BATCH_BYTES],
			   size_t *ret_bytes)
{
	const uint8_t *p = header;
	uint32_t nr_runs, nr_sums;

	if (proto_get32(&p) != BATCH_MAGIC)
		return -EBADMSG;
	p += 4;
	nr_runs = proto_get32(&p);
	nr_sums = proto_get32(&p);
	if (nr_runs > PROTO_BATCH_PAGES_MAX || nr_sums > PROTO_BATCH_PAGES_MAX)
		return -EBADMSG;
	*ret_bytes = (size_t)nr_runs * PROTO_RUN_BYTES +
		     (size_t)nr_sums * PROTO_SUM_BYTES;
	return 0;
}

static int check_run(const struct proto_run *r, uint64_t ram_pages)
{
	if (r->nr_pages == 0 || r->first_page >= ram_pages)
		return -EBADMSG;
	return r->nr_pages <= ram_pages - r->first_page ? 0 : -EBADMSG;
}

/* Which types carry runs, and which carry pages (and so sums). */
static int check_shape(const struct proto_batch *b, uint64_t total_pages)
{
	switch (b->type) {
	case PROTO_BATCH_DATA:
		return b->nr_runs && total_pages == b->nr_sums ? 0 : -EBADMSG;
	case PROTO_BATCH_ZERO:
	case PROTO_BATCH_WANT:
		return b->nr_runs && b->nr_sums == 0 ? 0 : -EBADMSG;
	case PROTO_BATCH_AHEAD:
		return b->nr_runs && b->nr_sums == 0 &&
				       total_pages <= PROTO_AHEAD_PAGES_MAX
			       ? 0
			       : -EBADMSG;
	case PROTO_BATCH_BARRIER:
	case PROTO_BATCH_MARK:
		return b->nr_runs == 0 && b->nr_sums == 0 ? 0 : -EBADMSG;
	}
	return -EBADMSG;
}

int proto_batch_decode(const uint8_t *head, size_t head_bytes,
		       uint64_t ram_pages, struct proto_batch *ret_batch)
{
	struct proto_batch *b = ret_batch;
	const uint8_t *p = head;
	uint64_t total_pages = 0;
	size_t tail_bytes;
	uint32_t i;
	int ret;

	if (head_bytes < PROTO_BATCH_BYTES)
		return -EBADMSG;
	ret = proto_batch_tail_bytes(head, &tail_bytes);
	if (ret < 0)
		return ret;
	if (head_bytes - PROTO_BATCH_BYTES != tail_bytes)
		return -EBADMSG;
	p = head + CHECK_OFFSET;
	if (proto_get64(&p) != batch_check(head, head_bytes))
		return -EBADMSG;

	p = head + 4;
	b->type = (enum proto_batch_type)proto_get16(&p);
	p += 2;
	b->nr_runs = proto_get32(&p);
	b->nr_sums = proto_get32(&p);
	b->seq = proto_get64(&p);
	p = head + PROTO_BATCH_BYTES;
	for (i = 0; i < b->nr_runs; i++) {
		b->runs[i].first_page = proto_get64(&p);
		b->runs[i].nr_pages = proto_get64(&p);
		ret = check_run(&b->runs[i], ram_pages);
		if (ret < 0)
			return ret;
		/* Each is at most ram_pages, so 256 of them fit in 64 bits. */
		total_pages += b->runs[i].nr_pages;
	}
	for (i = 0; i < b->nr_sums; i++)
		b->sums[i] = proto_get64(&p);
	return check_shape(b, total_pages);
}
