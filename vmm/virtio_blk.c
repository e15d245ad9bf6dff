/*
 * vmm/virtio_blk.c: a guest's disk (virtio 1.2 section 5.2): the device and its
 * queues. virtio_blk_internal.h says how it works.
 *
 * Nothing of it is in the saved state beyond the transport's: it is saved while
 * stopped, when nothing is in flight, and what it offers follows from how it was
 * made, the same on every host.
 */
#include "vmm/virtio_devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmm/virtio_blk_internal.h"
#include "vmm/vm_internal.h"

#define BLK_DEVICE_TYPE 2
#define BLK_PCI_CLASS   0x018000 /* mass storage, other */
#define BLK_QUEUES_MAX  4u
/* Every chain has a header and a status besides. */
#define BLK_SEG_MAX (VIRTIO_CHAIN_SEGS_MAX - 2)
/*
 * Whatever the disk's logical blocks, it likes pages: the page cache works in
 * them, and nearly every disk does beneath.
 */
#define BLK_PHYSICAL_BYTES VM_DISK_ALIGN_MAX

/* struct virtio_blk_config, section 5.2.4; little-endian as x86 is. */
struct blk_config {
	uint64_t capacity; /* sectors of 512 */
	uint32_t size_max;
	uint32_t seg_max;
	uint8_t geometry[4];
	uint32_t blk_size;
	uint8_t physical_block_exp;
	uint8_t alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback;
	uint8_t unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors;
	uint32_t max_discard_seg;
	uint32_t discard_sector_alignment;
	uint32_t max_write_zeroes_sectors;
	uint32_t max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap;
	uint8_t unused1[3];
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) == 60, "section 5.2.4");

static struct virtio_blk *to_blk(struct virtio_device *v)
{
	return (struct virtio_blk *)v;
}

/* Takes from q all that can start now. */
static void serve(struct virtio_blk *b, struct virtio_queue *q)
{
	struct blk_request *r;

	b->hungry |= 1u << q->index;
	while (!b->alone &&
	       (!b->waiter || (b->waiter == q && b->nr_taken == 0))) {
		r = blk_request_take(b);
		if (!r)
			return;
		b->waiter = NULL;
		r->queue = q;
		if (virtio_pop(q, &r->chain) != 1) {
			blk_request_release(b, r);
			b->hungry &= ~(1u << q->index);
			return;
		}
		if (!blk_request_begin(b, r)) {
			blk_request_release(b, r);
			virtio_put_back(q);
			return;
		}
	}
}

/* Who waits to be alone goes first, or it might wait for ever; then in turn. */
static void serve_hungry(struct virtio_blk *b)
{
	unsigned int nr = b->dev.nr_queues, index = b->turn;

	if (b->waiter)
		serve(b, b->waiter);
	for (unsigned int i = 0; i < nr; i++) {
		if (b->hungry & 1u << index)
			serve(b, &b->dev.queues[index]);
		index = index + 1 < nr ? index + 1 : 0;
	}
	b->turn = b->turn + 1 < nr ? b->turn + 1 : 0;
}

static void notify(struct virtio_blk *b)
{
	for (unsigned int i = 0; i < b->dev.nr_queues; i++)
		if (b->pushed & 1u << i)
			virtio_notify(&b->dev.queues[i]);
	b->pushed = 0;
}

/* Goes on with every request that can. */
static void go_on(struct virtio_blk *b)
{
	eventfd_t count;

	/* Read before looking: what completes later rings again. */
	if (eventfd_read(b->ring_eventfd, &count) < 0)
		return;
	blk_io_reap(b);
	blk_fetch_reap(b);
}

static void on_completed(struct ev_loop *loop, ev_io *w, int revents)
{
	struct virtio_blk *b = w->data;

	(void)loop;
	(void)revents;
	go_on(b);
	serve_hungry(b);
	blk_io_submit(b);
	notify(b);
}

static void blk_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct virtio_blk *b = to_blk(v);

	serve(b, q);
	blk_io_submit(b);
	notify(b);
}

static int blk_start(struct virtio_device *v)
{
	struct virtio_blk *b = to_blk(v);

	ev_io_start(virtio_loop(v), &b->completed);
	return 0;
}

/*
 * Takes no more; what was taken comes to its end, for which a missing page may
 * have to come from the far side first.
 */
static void blk_stop(struct virtio_device *v)
{
	struct virtio_blk *b = to_blk(v);

	ev_io_stop(virtio_loop(v), &b->completed);
	while (b->nr_taken > 0) {
		blk_io_wait(b);
		go_on(b);
		blk_io_submit(b);
	}
	ev_timer_stop(virtio_loop(v), &b->resubmit);
	notify(b);
	b->hungry = 0;
	b->waiter = NULL;
}

static void blk_free(struct virtio_device *v)
{
	struct virtio_blk *b = to_blk(v);

	blk_fetch_fini(b);
	blk_io_fini(b);
	/* Gives up the lock now: the ring holds the file a little longer. */
	vm_disk_close(&b->disk);
	free(b->requests);
	free(b);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.type = BLK_DEVICE_TYPE,
	.pci_class = BLK_PCI_CLASS,
	.start = blk_start,
	.kicked = blk_kicked,
	.stop = blk_stop,
	.free = blk_free,
};

static uint64_t offered_features(const struct vm_disk *d,
				 unsigned int nr_queues)
{
	uint64_t features = BLK_F_SEG_MAX | BLK_F_BLK_SIZE | BLK_F_FLUSH |
			    BLK_F_TOPOLOGY;

	if (nr_queues > 1)
		features |= BLK_F_MQ;
	if (d->read_only)
		return features | BLK_F_RO;
	return features | BLK_F_DISCARD | BLK_F_WRITE_ZEROES;
}

static void fill_config(struct virtio_blk *b)
{
	const struct vm_disk *d = &b->disk;
	uint32_t blocks = BLK_PHYSICAL_BYTES / d->logical_bytes;
	struct blk_config c = {
		.capacity = d->bytes / VM_DISK_SECTOR_BYTES,
		.seg_max = BLK_SEG_MAX,
		.blk_size = d->logical_bytes,
		.physical_block_exp = (uint8_t)__builtin_ctz(blocks),
		.min_io_size = (uint16_t)blocks,
		.writeback = 1,
		.num_queues = (uint16_t)b->dev.nr_queues,
	};

	if (!d->read_only) {
		c.max_discard_sectors = BLK_DISCARD_BYTES /
					VM_DISK_SECTOR_BYTES;
		c.max_discard_seg = 1;
		c.discard_sector_alignment = BLK_PHYSICAL_BYTES /
					     VM_DISK_SECTOR_BYTES;
		c.max_write_zeroes_sectors = BLK_ZEROES_BYTES /
					     VM_DISK_SECTOR_BYTES;
		c.max_write_zeroes_seg = 1;
		c.write_zeroes_may_unmap = 1;
	}
	memcpy(b->dev.config, &c, sizeof(c));
}

static int blk_init(struct virtio_blk *b, struct vm *vm, char **err)
{
	unsigned int nr_queues = vm_nr_cpus(vm);
	int ret;

	if (nr_queues > BLK_QUEUES_MAX)
		nr_queues = BLK_QUEUES_MAX;
	b->requests = calloc(BLK_REQUESTS_MAX, sizeof(*b->requests));
	if (!b->requests)
		return vm_err(err, -ENOMEM, "out of memory");
	ret = blk_io_init(b, err);
	if (ret < 0)
		goto free_requests;
	blk_fetch_init(b);
	ret = virtio_device_init(&b->dev, &blk_ops, vm, b->index, nr_queues,
				 VIRTIO_QUEUE_ENTRIES_MAX,
				 offered_features(&b->disk, nr_queues),
				 sizeof(struct blk_config));
	if (ret < 0) {
		vm_err(err, ret, "disk %s: %s", b->disk.path, strerror(-ret));
		goto fini_io;
	}
	fill_config(b);
	ev_io_init(&b->completed, on_completed, b->ring_eventfd, EV_READ);
	b->completed.data = b;
	return 0;
fini_io:
	blk_fetch_fini(b);
	blk_io_fini(b);
free_requests:
	free(b->requests);
	return ret;
}

int virtio_blk_new(struct vm *vm, unsigned int index,
		   const struct vm_disk_config *cfg,
		   struct virtio_device **ret_device, char **err)
{
	struct virtio_blk *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return vm_err(err, -ENOMEM, "out of memory");
	b->index = index;
	ret = vm_disk_open(cfg, &b->disk, err);
	if (ret < 0)
		goto free_b;
	ret = blk_init(b, vm, err);
	if (ret < 0)
		goto close_disk;
	*ret_device = &b->dev;
	return 0;
close_disk:
	vm_disk_close(&b->disk);
free_b:
	free(b);
	return ret;
}

int virtio_blk_lock(struct virtio_device *v, char **err)
{
	return vm_disk_lock(&to_blk(v)->disk, err);
}

void virtio_blk_unlock(struct virtio_device *v)
{
	vm_disk_unlock(&to_blk(v)->disk);
}

void virtio_blk_info(struct virtio_device *v, struct vm_disk_info *ret_info)
{
	const struct vm_disk *d = &to_blk(v)->disk;

	ret_info->path = d->path;
	ret_info->bytes = d->bytes;
	ret_info->read_only = d->read_only;
	ret_info->direct = d->direct;
}
