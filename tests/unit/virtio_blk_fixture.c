#include "tests/unit/virtio_blk_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAM_BYTES (64 * MIB)

struct header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};

static void open_device(struct blkt *t, const struct blkt_options *o)
{
	const struct vm_disk_config cfg = { .path = t->path,
					    .read_only = o->read_only,
					    .direct = o->direct };
	struct vm *vm = vdrv_machine(RAM_BYTES);
	struct virtio_device *v = NULL;
	char *err = NULL;
	int ret;

	vm->nr_cpus = o->nr_queues ? o->nr_queues : 1;
	ret = virtio_blk_new(vm, 0, &cfg, &v, &err);
	if (ret == -EINVAL && o->direct) {
		print_message("%s\n", err);
		free(err);
		vdrv_machine_free(vm);
		unlink(t->path);
		close(t->fd);
		skip();
	}
	if (ret < 0)
		fail_msg("%s", err);
	t->blk = (struct virtio_blk *)v;
	if (o->align)
		t->blk->disk.align = o->align;
	vdrv_init(&t->d, vm, v, v->offered & ~o->not_accepted);
}

void blkt_open(struct blkt *t, const struct blkt_options *o)
{
	*t = (struct blkt){ .bytes = o->bytes };
	snprintf(t->path, sizeof(t->path), "%s/virtio_blk_test.XXXXXX",
		 o->directory ? o->directory : "/tmp");
	t->fd = mkstemp(t->path);
	assert_true(t->fd >= 0);
	assert_int_equal(ftruncate(t->fd, (off_t)o->bytes), 0);
	open_device(t, o);
	for (unsigned int i = 0; i < t->d.dev->nr_queues; i++) {
		vdrv_queue(&t->d, i, BLKT_ENTRIES);
		t->headers_gpa[i] = vdrv_alloc(&t->d, VM_PAGE_BYTES);
		t->status_gpa[i] = vdrv_alloc(&t->d, VM_PAGE_BYTES);
	}
	vdrv_start(&t->d);
}

void blkt_open_again(struct blkt *t, const struct blkt *first,
		     const struct blkt_options *o)
{
	*t = *first;
	t->fd = -1;
	open_device(t, o);
}

void blkt_close(struct blkt *t)
{
	vdrv_fini(&t->d);
	if (t->fd < 0)
		return;
	close(t->fd);
	unlink(t->path);
}

uint16_t blkt_submit_pieces(struct blkt *t, unsigned int queue,
			    unsigned int slot, uint32_t type, uint64_t sector,
			    const struct vdrv_piece *data, unsigned int nr)
{
	const struct header h = { type, 0, sector };
	struct vdrv_piece pieces[VIRTIO_CHAIN_SEGS_MAX];
	uint64_t gpa = t->headers_gpa[queue] + slot * sizeof(h);

	assert_true(slot < BLKT_SLOTS && nr + 2 <= VIRTIO_CHAIN_SEGS_MAX);
	memcpy(vdrv_hva(&t->d, gpa), &h, sizeof(h));
	*vdrv_hva(&t->d, t->status_gpa[queue] + slot) = BLKT_PENDING;
	pieces[0] = (struct vdrv_piece){ gpa, sizeof(h), false };
	for (unsigned int i = 0; i < nr; i++)
		pieces[1 + i] = data[i];
	pieces[1 + nr] = (struct vdrv_piece){ t->status_gpa[queue] + slot, 1,
					      true };
	return vdrv_add(&t->d, queue, pieces, nr + 2);
}

uint16_t blkt_submit(struct blkt *t, unsigned int queue, unsigned int slot,
		     uint32_t type, uint64_t sector, uint64_t gpa,
		     uint32_t bytes)
{
	const struct vdrv_piece data = {
		gpa, bytes, type == BLK_T_IN || type == BLK_T_GET_ID
	};

	return blkt_submit_pieces(t, queue, slot, type, sector, &data,
				  bytes > 0);
}

uint8_t blkt_status(struct blkt *t, unsigned int queue, unsigned int slot)
{
	return *vdrv_hva(&t->d, t->status_gpa[queue] + slot);
}

static uint8_t wait_status(struct blkt *t, uint16_t head)
{
	vdrv_kick(&t->d, 0);
	vdrv_wait(&t->d, 0, head);
	return blkt_status(t, 0, 0);
}

uint8_t blkt_do(struct blkt *t, uint32_t type, uint64_t sector, uint64_t gpa,
		uint32_t bytes)
{
	return wait_status(t, blkt_submit(t, 0, 0, type, sector, gpa, bytes));
}

uint8_t blkt_do_pieces(struct blkt *t, uint32_t type, uint64_t sector,
		       const struct vdrv_piece *data, unsigned int nr)
{
	return wait_status(t,
			   blkt_submit_pieces(t, 0, 0, type, sector, data, nr));
}

uint8_t blkt_do_range(struct blkt *t, uint32_t type, uint64_t sector,
		      uint32_t nr_sectors, uint32_t flags)
{
	uint64_t gpa = vdrv_alloc(&t->d, BLK_RANGE_BYTES);
	const struct {
		uint64_t sector;
		uint32_t nr_sectors, flags;
	} range = { sector, nr_sectors, flags };

	memcpy(vdrv_hva(&t->d, gpa), &range, sizeof(range));
	return blkt_do(t, type, 0, gpa, sizeof(range));
}

void blkt_pattern(uint8_t *buf, uint64_t offset, uint64_t bytes, uint64_t seed)
{
	for (uint64_t i = 0; i < bytes; i++) {
		uint64_t at = offset + i;
		uint64_t x = (at / 8 + seed * UINT64_C(0x9e3779b9)) *
			     UINT64_C(0xbf58476d1ce4e5b9);

		buf[i] = (uint8_t)((x ^ x >> 31) >> 8 * (at % 8));
	}
}

void blkt_image_fill(struct blkt *t, uint64_t seed)
{
	uint8_t *buf = malloc(t->bytes);

	assert_non_null(buf);
	blkt_pattern(buf, 0, t->bytes, seed);
	assert_int_equal(pwrite(t->fd, buf, t->bytes, 0), t->bytes);
	free(buf);
}

void blkt_assert_image(struct blkt *t, uint64_t offset, const uint8_t *want,
		       uint64_t bytes)
{
	uint8_t *buf = malloc(bytes);

	assert_non_null(buf);
	assert_int_equal(pread(t->fd, buf, bytes, (off_t)offset), bytes);
	assert_memory_equal(buf, want, bytes);
	free(buf);
}
