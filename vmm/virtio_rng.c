/*
 * vmm/virtio_rng.c: an entropy device (virtio 1.2 section 5.4): one queue, whose
 * buffers are filled with the host's random bytes.
 *
 * It has no state: a buffer is either filled and used, or not yet taken. After a
 * move or a restore the guest gets other bytes than it would have got, which is
 * the point.
 */
#include "vmm/virtio_devices.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "vmm/vm_internal.h"

#define RNG_CLASS   0x00ff00 /* no class fits */
#define RNG_ENTRIES 64

/*
 * At most this much of a buffer: getrandom(2) gives 256 bytes or less whole, and
 * a guest that hands over megabytes cannot keep the worker.
 */
#define RNG_BYTES_MAX 256

static uint32_t fill(struct virtio_device *v, const struct virtio_chain *c)
{
	uint8_t bytes[RNG_BYTES_MAX];
	size_t want = sizeof(bytes);
	ssize_t got;

	if (c->in_bytes < want)
		want = (size_t)c->in_bytes;
	do {
		got = getrandom(bytes, want, 0);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return 0;
	return (uint32_t)virtio_fill(v, c, 0, bytes, (size_t)got);
}

static void rng_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct virtio_chain c;

	while (virtio_pop(q, &c) == 1) {
		/* Section 5.4.6.1: the driver offers nothing to read. */
		if (c.nr_out > 0) {
			virtio_broken(v, "a readable buffer for entropy");
			return;
		}
		virtio_push(q, c.head, fill(v, &c));
	}
	virtio_notify(q);
}

static void rng_free(struct virtio_device *v)
{
	free(v);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.type = VIRTIO_ID_RNG,
	.pci_class = RNG_CLASS,
	.kicked = rng_kicked,
	.free = rng_free,
};

int virtio_rng_new(struct vm *vm, struct virtio_device **ret_device, char **err)
{
	struct virtio_device *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return vm_err(err, -ENOMEM, "out of memory");
	ret = virtio_device_init(v, &rng_ops, vm, 0, 1, RNG_ENTRIES, 0, 0);
	if (ret < 0) {
		free(v);
		return vm_err(err, ret, "virtio-rng: %s", strerror(-ret));
	}
	*ret_device = v;
	return 0;
}
