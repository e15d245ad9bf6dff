/*
 * A ring of any content, under a device that looks at all of it. The input is
 * descriptor tables and rings, byte by byte, and where the registers say that they
 * are; whatever it is, the device ends at rest or broken.
 */
#include "fuzz.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/virtio_driver.h"

#define RAM_BYTES (UINT64_C(4) << 20)
#define ENTRIES   16
#define IMAGE     4096 /* table, available ring, an indirect table */

/* Reads and fills what it is given, as far as 64 KiB go. */
static void touch_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	static uint8_t bytes[1 << 16];
	struct virtio_chain c;

	while (virtio_pop(q, &c) == 1) {
		FUZZ_CLAIM(c.nr_out + c.nr_in >= 1);
		FUZZ_CLAIM(c.nr_out + c.nr_in <= VIRTIO_CHAIN_SEGS_MAX);
		FUZZ_CLAIM(c.head < q->entries);
		FUZZ_CLAIM(virtio_drain(&c, 0, bytes, sizeof(bytes)) <=
			   c.out_bytes);
		FUZZ_CLAIM(virtio_fill(v, &c, 1, bytes, sizeof(bytes)) <=
			   c.in_bytes);
		virtio_push(q, c.head, (uint32_t)c.in_bytes);
	}
	virtio_notify(q);
}

static void touch_free(struct virtio_device *v)
{
	free(v);
}

static const struct virtio_ops touch_ops = {
	.name = "virtio-touch",
	.type = 42,
	.kicked = touch_kicked,
	.free = touch_free,
};

static _Atomic bool looked;

/* Runs behind the look that the device takes when it starts. */
static void say_looked(struct virtio_device *v)
{
	(void)v;
	looked = true;
}

static struct vdrv *machine(void)
{
	static struct vdrv d;
	struct vm *vm = vdrv_machine(RAM_BYTES);
	struct virtio_device *v = calloc(1, sizeof(*v));

	FUZZ_CLAIM(v);
	FUZZ_CLAIM(virtio_device_init(v, &touch_ops, vm, 0, 1, 64, 0, 0) == 0);
	vdrv_init(&d, vm, v, 0);
	return &d;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct vdrv *d;
	struct virtio_queue *q;
	uint8_t head[8];

	if (bytes < sizeof(head))
		return 0;
	if (!d)
		d = machine();
	memcpy(head, data, sizeof(head));
	data += sizeof(head);
	bytes -= sizeof(head);
	looked = false;
	d->next_gpa = UINT64_C(1) << 20;
	vdrv_reset(d);
	vdrv_agree(d, (head[0] & 1 ? VIRTIO_F_EVENT_IDX : 0) |
			      (head[0] & 2 ? VIRTIO_F_INDIRECT_DESC : 0));
	vdrv_queue(d, 0, ENTRIES);
	memset(vdrv_hva(d, d->queues[0].desc_gpa), 0, 3 * VM_PAGE_BYTES);
	memcpy(vdrv_hva(d, d->queues[0].desc_gpa), data,
	       bytes < IMAGE ? bytes : IMAGE);
	q = &d->dev->queues[0];
	if (head[0] & 4)
		q->avail_gpa = q->desc_gpa + (uint64_t)(head[1] & 0xfe);
	if (head[0] & 8)
		q->used_gpa = q->desc_gpa + (uint64_t)(head[2] & 0xfc) * 4;
	q->next_avail = q->next_used = (uint16_t)(head[3] | head[4] << 8);
	vdrv_publish(d, 0, head[5], head[6] % (ENTRIES + 2));
	if (!(head[0] & 16))
		q->next_avail = (uint16_t)(d->queues[0].avail_idx - head[7]);
	vdrv_start(d);
	virtio_post(d->dev, say_looked);
	/*
	 * Rings that lie over each other can feed themselves and never run empty:
	 * the worker is kept busy, and still has to obey the stop.
	 */
	for (int i = 0; i < 1000 && !looked && !vdrv_is_broken(d); i++)
		sched_yield();
	virtio_stop(d->dev);
	return 0;
}
