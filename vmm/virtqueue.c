/*
 * vmm/virtqueue.c: split virtqueues (virtio 1.2 section 2.7), the device's side.
 *
 *	descriptors	entries * { le64 addr, le32 len, le16 flags, le16 next }
 *	available	le16 flags, le16 idx, le16 ring[entries], le16 used_event
 *	used		le16 flags, le16 idx, { le32 id, le32 len } ring[entries],
 *			le16 avail_event
 *
 * The guest writes to the first two while we read: an index, address or length
 * is copied out once, checked, and used as the copy only.
 */
#include "vmm/virtio_internal.h"

#include <errno.h>
#include <string.h>

#define DESC_BYTES 16
#define DESC_ALIGN 16

#define DESC_F_NEXT     1
#define DESC_F_WRITE    2
#define DESC_F_INDIRECT 4

#define AVAIL_FLAGS           0
#define AVAIL_IDX             2
#define AVAIL_RING            4
#define AVAIL_ALIGN           2
#define AVAIL_F_NO_INTERRUPT  1
#define AVAIL_RING_ITEM_BYTES 2

#define USED_IDX             2
#define USED_RING            4
#define USED_ALIGN           4
#define USED_RING_ITEM_BYTES 8

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};
_Static_assert(sizeof(struct desc) == DESC_BYTES, "as in guest memory");

/* A descriptor table: the queue's own, or an indirect one. */
struct table {
	const uint8_t *hva;
	unsigned int entries;
	bool is_indirect;
};

/*
 * Out of memory that the guest may be writing to. The barrier keeps the compiler
 * from going back to the guest's bytes in place of the copy.
 */
static void copy_once(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
	__asm__ volatile("" ::: "memory");
}

static uint16_t load16(const uint8_t *p, int order)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, order);
}

/*
 * Sequentially consistent, because a look at what the driver wants follows, which
 * must not overtake it.
 */
static void store16(uint8_t *p, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)p, value, __ATOMIC_SEQ_CST);
}

static int find_ring(const struct virtio_queue *q, uint64_t gpa, uint64_t bytes,
		     uint64_t align, uint64_t *ret_offset)
{
	if (gpa % align != 0)
		return -EINVAL;
	return vm_mem_gpa_to_offset(q->dev->mem, gpa, bytes, ret_offset);
}

int virtqueue_start(struct virtio_queue *q)
{
	uint8_t *ram = vm_mem_base(q->dev->mem);
	uint64_t n = q->entries, desc, avail, used;
	int ret;

	if (n == 0 || n > q->entries_max || (n & (n - 1)) != 0)
		return -EINVAL;
	ret = find_ring(q, q->desc_gpa, n * DESC_BYTES, DESC_ALIGN, &desc);
	if (ret == 0) /* the event words count, whether in use or not */
		ret = find_ring(q, q->avail_gpa,
				AVAIL_RING + n * AVAIL_RING_ITEM_BYTES + 2,
				AVAIL_ALIGN, &avail);
	if (ret == 0)
		ret = find_ring(q, q->used_gpa,
				USED_RING + n * USED_RING_ITEM_BYTES + 2,
				USED_ALIGN, &used);
	if (ret < 0)
		return ret;
	q->desc = ram + desc;
	q->avail = ram + avail;
	q->used = ram + used;
	q->used_offset = used;
	return 0;
}

void virtqueue_reset(struct virtio_queue *q)
{
	q->entries = q->entries_max;
	q->enabled = false;
	atomic_store(&q->vector, VIRTIO_NO_VECTOR);
	q->desc_gpa = q->avail_gpa = q->used_gpa = 0;
	q->desc = q->avail = NULL;
	q->used = NULL;
	q->next_avail = q->next_used = q->signalled_used = 0;
}

static int broken(struct virtio_queue *q, const char *why)
{
	virtio_broken(q->dev, why);
	return -EIO;
}

static void mark_used(struct virtio_queue *q, uint64_t at, uint64_t bytes)
{
	vm_mem_mark_dirty(q->dev->mem, q->used_offset + at, bytes);
}

/*
 * "Ring when you add the entry that I would take next." This store comes before
 * the second look at avail.idx, as the driver's store of avail.idx before its look
 * at avail_event: one of us sees the other.
 */
static void ask_for_kick(struct virtio_queue *q)
{
	uint64_t at = USED_RING + (uint64_t)q->entries * USED_RING_ITEM_BYTES;

	store16(q->used + at, q->next_avail);
	mark_used(q, at, 2);
}

/* 1 when there is an entry to take, 0 when not. */
static int look(struct virtio_queue *q)
{
	uint16_t idx = load16(q->avail + AVAIL_IDX, __ATOMIC_ACQUIRE);

	if (idx == q->next_avail && virtio_has(q->dev, VIRTIO_F_EVENT_IDX)) {
		ask_for_kick(q);
		idx = load16(q->avail + AVAIL_IDX, __ATOMIC_SEQ_CST);
	}
	if ((uint16_t)(idx - q->next_avail) > q->entries)
		return broken(q, "the available ring jumped");
	return idx != q->next_avail;
}

static int open_indirect(struct virtio_queue *q, const struct desc *d,
			 struct table *t)
{
	uint64_t offset;

	if (t->is_indirect)
		return broken(q, "an indirect descriptor in an indirect table");
	if (!virtio_has(q->dev, VIRTIO_F_INDIRECT_DESC))
		return broken(q, "an indirect descriptor nobody agreed to");
	if (d->flags & DESC_F_NEXT)
		return broken(q, "an indirect descriptor that goes on");
	if (d->len == 0 || d->len % DESC_BYTES != 0)
		return broken(q, "an indirect table of a bad size");
	if (vm_mem_gpa_to_offset(q->dev->mem, d->addr, d->len, &offset) < 0)
		return broken(q, "an indirect table outside memory");
	*t = (struct table){ .hva = vm_mem_base(q->dev->mem) + offset,
			     .entries = d->len / DESC_BYTES,
			     .is_indirect = true };
	return 0;
}

static int add_segment(struct virtio_queue *q, const struct desc *d,
		       struct virtio_chain *c)
{
	unsigned int n = c->nr_out + c->nr_in;
	uint64_t offset;

	if (n == VIRTIO_CHAIN_SEGS_MAX)
		return broken(q, "a chain too long");
	if (d->len == 0)
		return broken(q, "an empty descriptor");
	if (vm_mem_gpa_to_offset(q->dev->mem, d->addr, d->len, &offset) < 0)
		return broken(q, "a descriptor outside memory");
	if (d->len > UINT32_MAX - c->out_bytes - c->in_bytes)
		return broken(q, "a chain of 4 GiB or more");
	c->iov[n] = (struct iovec){ vm_mem_base(q->dev->mem) + offset, d->len };
	if (d->flags & DESC_F_WRITE) {
		c->nr_in++;
		c->in_bytes += d->len;
	} else if (c->nr_in > 0) {
		return broken(q, "a readable descriptor after a writable one");
	} else {
		c->nr_out++;
		c->out_bytes += d->len;
	}
	return 0;
}

/*
 * From descriptor `next` of table t to the end of the chain. It ends, because
 * each step adds a segment, of which there may be only so many, or enters an
 * indirect table, which may happen once.
 */
static int walk(struct virtio_queue *q, struct table t, unsigned int next,
		struct virtio_chain *c)
{
	struct desc d;
	int ret;

	do {
		if (next >= t.entries)
			return broken(q, "a descriptor beyond its table");
		copy_once(&d, t.hva + (size_t)next * DESC_BYTES, DESC_BYTES);
		next = d.next;
		if (d.flags & DESC_F_INDIRECT) {
			ret = open_indirect(q, &d, &t);
			next = 0;
			d.flags = DESC_F_NEXT; /* to the table's first */
		} else {
			ret = add_segment(q, &d, c);
		}
		if (ret < 0)
			return ret;
	} while (d.flags & DESC_F_NEXT);
	return 0;
}

int virtio_pop(struct virtio_queue *q, struct virtio_chain *ret_chain)
{
	struct table t = { .hva = q->desc, .entries = q->entries };
	uint16_t slot = q->next_avail & (q->entries - 1);
	int ret;

	if (atomic_load_explicit(&q->dev->broken, memory_order_relaxed))
		return -EIO;
	if (!q->used || virtio_shall_stop(q->dev))
		return 0;
	ret = look(q);
	if (ret <= 0)
		return ret;
	ret_chain->head = load16(q->avail + AVAIL_RING +
					 (size_t)slot * AVAIL_RING_ITEM_BYTES,
				 __ATOMIC_RELAXED);
	ret_chain->nr_out = ret_chain->nr_in = 0;
	ret_chain->out_bytes = ret_chain->in_bytes = 0;
	ret = walk(q, t, ret_chain->head, ret_chain);
	if (ret < 0)
		return ret;
	q->next_avail++;
	return 1;
}

void virtio_put_back(struct virtio_queue *q)
{
	q->next_avail--;
}

static void fill_used(struct virtio_queue *q, const struct virtio_used *done)
{
	uint32_t item[2] = { done->head, done->written_bytes };
	uint64_t at = USED_RING + (uint64_t)(q->next_used & (q->entries - 1)) *
					  USED_RING_ITEM_BYTES;

	memcpy(q->used + at, item, sizeof(item));
	mark_used(q, at, sizeof(item));
	q->next_used++;
}

void virtio_push_many(struct virtio_queue *q, const struct virtio_used *done,
		      unsigned int nr)
{
	if (!q->used ||
	    atomic_load_explicit(&q->dev->broken, memory_order_relaxed))
		return;
	for (unsigned int i = 0; i < nr; i++)
		fill_used(q, &done[i]);
	store16(q->used + USED_IDX, q->next_used);
	mark_used(q, USED_IDX, 2);
}

void virtio_push(struct virtio_queue *q, uint16_t head, uint32_t written_bytes)
{
	struct virtio_used done = { head, written_bytes };

	virtio_push_many(q, &done, 1);
}

/*
 * Section 2.7.7.2: the driver asked to hear of the entry `event`, and entries
 * [from, to) are new.
 */
static bool passed_event(uint16_t event, uint16_t from, uint16_t to)
{
	return (uint16_t)(to - event - 1) < (uint16_t)(to - from);
}

static bool driver_wants_to_know(struct virtio_queue *q)
{
	uint16_t from = q->signalled_used;
	uint64_t event = AVAIL_RING +
			 (uint64_t)q->entries * AVAIL_RING_ITEM_BYTES;

	if (!virtio_has(q->dev, VIRTIO_F_EVENT_IDX))
		return !(load16(q->avail + AVAIL_FLAGS, __ATOMIC_SEQ_CST) &
			 AVAIL_F_NO_INTERRUPT);
	return passed_event(load16(q->avail + event, __ATOMIC_SEQ_CST), from,
			    q->next_used);
}

void virtio_notify(struct virtio_queue *q)
{
	if (q->signalled_used == q->next_used)
		return; /* nothing new */
	if (atomic_load_explicit(&q->dev->broken, memory_order_relaxed))
		return;
	if (driver_wants_to_know(q))
		virtio_interrupt_queue(q);
	q->signalled_used = q->next_used;
}

/* The part [at, at + bytes) of iov, piece by piece. Returns how long it was. */
static size_t each_piece(struct virtio_device *v, const struct iovec *iov,
			 unsigned int nr, uint64_t at, uint64_t bytes,
			 void (*fn)(struct virtio_device *v, uint8_t *piece,
				    size_t len, void *arg),
			 uint8_t *buf)
{
	size_t done = 0;

	for (unsigned int i = 0; i < nr && done < bytes; i++) {
		size_t len = iov[i].iov_len;

		if (at >= len) {
			at -= len;
			continue;
		}
		len -= (size_t)at;
		if (len > bytes - done)
			len = bytes - done;
		fn(v, (uint8_t *)iov[i].iov_base + at, len,
		   buf ? buf + done : NULL);
		done += len;
		at = 0;
	}
	return done;
}

static void drain_piece(struct virtio_device *v, uint8_t *piece, size_t len,
			void *arg)
{
	(void)v;
	copy_once(arg, piece, len);
}

static void mark_piece(struct virtio_device *v, uint8_t *piece, size_t len,
		       void *arg)
{
	(void)arg;
	vm_mem_mark_dirty(v->mem, (uint64_t)(piece - vm_mem_base(v->mem)), len);
}

static void fill_piece(struct virtio_device *v, uint8_t *piece, size_t len,
		       void *arg)
{
	memcpy(piece, arg, len);
	mark_piece(v, piece, len, NULL);
}

size_t virtio_drain(const struct virtio_chain *c, uint64_t at, void *buf,
		    size_t bytes)
{
	return each_piece(NULL, c->iov, c->nr_out, at, bytes, drain_piece, buf);
}

size_t virtio_fill(struct virtio_device *v, const struct virtio_chain *c,
		   uint64_t at, const void *buf, size_t bytes)
{
	return each_piece(v, c->iov + c->nr_out, c->nr_in, at, bytes,
			  fill_piece, (uint8_t *)buf);
}

void virtio_mark(struct virtio_device *v, const struct virtio_chain *c,
		 uint64_t at, uint64_t bytes)
{
	each_piece(v, c->iov + c->nr_out, c->nr_in, at, bytes, mark_piece,
		   NULL);
}
