/*
 * vmm/virtio_pci.c: the registers of a virtio device behind PCI, virtio 1.2
 * section 4.1.
 *
 *	BAR 0	0x0000	common configuration	(4.1.4.3)
 *		0x1000	interrupt status	(4.1.4.5)
 *		0x2000	device configuration	(4.1.4.6)
 *		0x3000	doorbells, 4 bytes apart: one address per queue (4.1.4.4)
 *	BAR 1	MSI-X
 *
 * A page each, so that a hypervisor in the guest can hand them out one by one.
 * The capability PCI_CFG (4.1.4.9) reaches BAR 0 through configuration space.
 *
 * Threads: vCPU threads, under the device lock. Doorbells are eventfds that KVM
 *          rings without us; what comes here is what it could not take.
 */
#include "vmm/virtio_internal.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

#define VIRTIO_VENDOR        0x1af4
#define VIRTIO_DEVICE_MODERN 0x1040 /* plus the device type, section 4.1.2.1 */
#define VIRTIO_REVISION      1

enum { BAR_REGS, BAR_MSIX };

#define PAGE_COMMON   0x0000
#define PAGE_ISR      0x1000
#define PAGE_DEVICE   0x2000
#define PAGE_NOTIFY   0x3000
#define PAGE_MASK     0x3000
#define REGS_BYTES    0x4000
#define NOTIFY_STRIDE 4
#define NOTIFY_BYTES  (VIRTIO_QUEUES_MAX * NOTIFY_STRIDE)
#define COMMON_BYTES  sizeof(struct virtio_pci_common_cfg)
#define STATUS_WRITABLE                                                        \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |                    \
	 VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK |                 \
	 VIRTIO_STATUS_FAILED)

struct virtio_pci_regs {
	struct virtio_pci_selects selects;
	uint64_t doorbells_gpa; /* where KVM has them; 0: nowhere */
	unsigned int window;    /* the PCI_CFG capability, in config space */
};

#define AT(member) offsetof(struct virtio_pci_common_cfg, member)

static struct virtio_device *to_virtio(struct vm_pci_function *f)
{
	return (struct virtio_device *)f;
}

struct virtio_pci_selects *virtio_pci_selects(struct virtio_device *v)
{
	return &v->regs->selects;
}

/* NULL when the driver selected one that is not there. */
static struct virtio_queue *selected_queue(struct virtio_device *v)
{
	uint16_t i = v->regs->selects.queue;

	return i < v->nr_queues ? &v->queues[i] : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> 32 * select) : 0;
}

static uint8_t status(const struct virtio_device *v)
{
	return atomic_load(&v->status) |
	       (atomic_load(&v->broken) ? VIRTIO_STATUS_NEEDS_RESET : 0);
}

static void show_queue(struct virtio_pci_common_cfg *c,
		       const struct virtio_queue *q)
{
	c->queue_size = q->entries;
	c->queue_msix_vector = atomic_load(&q->vector);
	c->queue_enable = q->enabled;
	c->queue_notify_off = (uint16_t)q->index;
	c->queue_desc_lo = (uint32_t)q->desc_gpa;
	c->queue_desc_hi = (uint32_t)(q->desc_gpa >> 32);
	c->queue_avail_lo = (uint32_t)q->avail_gpa;
	c->queue_avail_hi = (uint32_t)(q->avail_gpa >> 32);
	c->queue_used_lo = (uint32_t)q->used_gpa;
	c->queue_used_hi = (uint32_t)(q->used_gpa >> 32);
}

/* All of it at once: an access is then a piece of this, whatever its size. */
static void show_common(struct virtio_device *v,
			struct virtio_pci_common_cfg *c)
{
	const struct virtio_pci_selects *s = &v->regs->selects;
	const struct virtio_queue *q = selected_queue(v);

	*c = (struct virtio_pci_common_cfg){
		.device_feature_select = s->device_feature,
		.device_feature = feature_word(v->offered, s->device_feature),
		.guest_feature_select = s->driver_feature,
		.guest_feature = feature_word(v->accepted, s->driver_feature),
		.msix_config = atomic_load(&v->config_vector),
		.num_queues = (uint16_t)v->nr_queues,
		.device_status = status(v),
		.queue_select = s->queue,
	};
	pthread_mutex_lock(&v->config_lock);
	c->config_generation = v->config_generation;
	pthread_mutex_unlock(&v->config_lock);
	if (q)
		show_queue(c, q);
	else
		c->queue_msix_vector = VIRTIO_NO_VECTOR;
}

/* Section 2.1 and 3.1.1. Bits are only ever added; a 0 takes all away. */
static void write_status(struct virtio_device *v, uint8_t value)
{
	uint8_t now = atomic_load(&v->status);
	uint8_t next = now | (value & STATUS_WRITABLE);

	if (value == 0) {
		virtio_stop(v);
		virtio_reset(v);
		return;
	}
	if (!(v->accepted & VIRTIO_F_VERSION_1) ||
	    (v->accepted & ~v->offered) != 0)
		next &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
	if (!(next & VIRTIO_STATUS_FEATURES_OK))
		next &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
	atomic_store(&v->status, next);
	if ((next & ~now & VIRTIO_STATUS_DRIVER_OK) && v->machine_runs)
		virtio_start(v);
}

static void write_features(struct virtio_device *v, uint32_t value)
{
	uint32_t select = v->regs->selects.driver_feature;
	uint64_t shift = select * UINT64_C(32);

	if (select > 1 || (atomic_load(&v->status) & VIRTIO_STATUS_FEATURES_OK))
		return;
	v->accepted &= ~(UINT64_C(0xffffffff) << shift);
	v->accepted |= (uint64_t)value << shift;
}

/* One that is not there reads back as NO_VECTOR (4.1.5.1.2.2). */
static uint16_t checked_vector(const struct virtio_device *v, uint16_t vector)
{
	return vector < v->pci.msix.nr_vectors ? vector : VIRTIO_NO_VECTOR;
}

/* Section 4.1.4.3.2: a power of two, not above what we offered. */
static void write_queue_size(struct virtio_queue *q, uint16_t value)
{
	if (value != 0 && value <= q->entries_max && !(value & (value - 1)))
		q->entries = value;
}

static uint64_t set_half(uint64_t old, bool high, uint32_t value)
{
	return high ? (uint64_t)value << 32 | (uint32_t)old
		    : (old & ~UINT64_C(0xffffffff)) | value;
}

static void write_queue(struct virtio_device *v, uint64_t at, uint32_t value)
{
	struct virtio_queue *q = selected_queue(v);

	if (!q)
		return;
	if (at == AT(queue_msix_vector)) {
		atomic_store(&q->vector, checked_vector(v, (uint16_t)value));
		return;
	}
	/* From then on they are the worker's to read. */
	if (q->enabled || (atomic_load(&v->status) & VIRTIO_STATUS_DRIVER_OK))
		return;
	switch (at) {
	case AT(queue_size):
		write_queue_size(q, (uint16_t)value);
		break;
	case AT(queue_enable):
		q->enabled = value == 1;
		break;
	case AT(queue_desc_lo):
	case AT(queue_desc_hi):
		q->desc_gpa = set_half(q->desc_gpa, at != AT(queue_desc_lo),
				       value);
		break;
	case AT(queue_avail_lo):
	case AT(queue_avail_hi):
		q->avail_gpa = set_half(q->avail_gpa, at != AT(queue_avail_lo),
					value);
		break;
	case AT(queue_used_lo):
	case AT(queue_used_hi):
		q->used_gpa = set_half(q->used_gpa, at != AT(queue_used_lo),
				       value);
		break;
	default:
		break;
	}
}

static void write_field(struct virtio_device *v, uint64_t at, uint32_t value)
{
	struct virtio_pci_selects *s = &v->regs->selects;

	switch (at) {
	case AT(device_feature_select):
		s->device_feature = value;
		break;
	case AT(guest_feature_select):
		s->driver_feature = value;
		break;
	case AT(guest_feature):
		write_features(v, value);
		break;
	case AT(msix_config):
		atomic_store(&v->config_vector,
			     checked_vector(v, (uint16_t)value));
		break;
	case AT(device_status):
		write_status(v, (uint8_t)value);
		break;
	case AT(queue_select):
		s->queue = (uint16_t)value;
		break;
	default:
		write_queue(v, at, value);
		break;
	}
}

/* How wide the field at this offset is; 0: no field starts there. */
static unsigned int field_bytes(uint64_t at)
{
	switch (at) {
	case AT(msix_config):
	case AT(queue_select):
	case AT(queue_size):
	case AT(queue_msix_vector):
	case AT(queue_enable):
		return 2;
	case AT(device_status):
		return 1;
	default:
		return at % 4 == 0 ? 4 : 0;
	}
}

/*
 * Section 4.1.3.1: a field is written as wide as it is, 64-bit ones as two
 * halves or at once. Anything else is no driver's doing and does nothing.
 */
static void write_common(struct virtio_device *v, uint64_t at,
			 const uint8_t *data, unsigned int bytes)
{
	uint32_t value = 0;

	if (bytes == 8 && at >= AT(queue_desc_lo) && at % 8 == 0) {
		write_common(v, at, data, 4);
		write_common(v, at + 4, data + 4, 4);
	} else if (bytes == field_bytes(at)) {
		memcpy(&value, data, bytes);
		write_field(v, at, value);
	}
}

static void ring(struct virtio_queue *q)
{
	uint64_t one = 1;
	ssize_t n = write(q->kick_fd, &one, sizeof(one));

	/* It fails only when 2^64 - 2 rings wait: one more is no news. */
	(void)n;
}

static void write_notify(struct virtio_device *v, uint64_t at)
{
	if (at % NOTIFY_STRIDE == 0 && at / NOTIFY_STRIDE < v->nr_queues)
		ring(&v->queues[at / NOTIFY_STRIDE]);
}

static bool in_device_config(const struct virtio_device *v, uint64_t at,
			     unsigned int bytes)
{
	return bytes <= v->config_bytes && at <= v->config_bytes - bytes;
}

static void write_device_config(struct virtio_device *v, uint64_t at,
				const uint8_t *data, unsigned int bytes)
{
	if (!v->config_writable || !in_device_config(v, at, bytes))
		return;
	pthread_mutex_lock(&v->config_lock);
	memcpy(v->config + at, data, bytes);
	pthread_mutex_unlock(&v->config_lock);
	if (v->ops->config_written)
		v->ops->config_written(v, (unsigned int)at, bytes);
}

static void read_device_config(struct virtio_device *v, uint64_t at,
			       uint8_t *data, unsigned int bytes)
{
	if (!in_device_config(v, at, bytes))
		return;
	pthread_mutex_lock(&v->config_lock);
	memcpy(data, v->config + at, bytes);
	pthread_mutex_unlock(&v->config_lock);
}

static void regs_read(struct vm_pci_function *f, unsigned int bar,
		      uint64_t offset, uint8_t *data, unsigned int bytes)
{
	struct virtio_device *v = to_virtio(f);
	uint64_t at = offset & ~(uint64_t)PAGE_MASK;
	struct virtio_pci_common_cfg common;

	(void)bar;
	memset(data, 0, bytes);
	switch (offset & PAGE_MASK) {
	case PAGE_COMMON:
		show_common(v, &common);
		if (at <= COMMON_BYTES - bytes)
			memcpy(data, (uint8_t *)&common + at, bytes);
		break;
	case PAGE_ISR:
		if (at == 0)
			data[0] = atomic_exchange(&v->isr, 0);
		break;
	case PAGE_DEVICE:
		read_device_config(v, at, data, bytes);
		break;
	default:
		break;
	}
}

static void regs_write(struct vm_pci_function *f, unsigned int bar,
		       uint64_t offset, const uint8_t *data, unsigned int bytes)
{
	struct virtio_device *v = to_virtio(f);
	uint64_t at = offset & ~(uint64_t)PAGE_MASK;

	(void)bar;
	switch (offset & PAGE_MASK) {
	case PAGE_COMMON:
		write_common(v, at, data, bytes);
		break;
	case PAGE_DEVICE:
		write_device_config(v, at, data, bytes);
		break;
	case PAGE_NOTIFY:
		write_notify(v, at);
		break;
	default:
		break;
	}
}

static void set_doorbells(struct virtio_device *v, uint64_t gpa, bool on)
{
	for (unsigned int i = 0; i < v->nr_queues; i++)
		vm_doorbell(v->pci.device.vm,
			    gpa + PAGE_NOTIFY + (uint64_t)i * NOTIFY_STRIDE,
			    v->queues[i].kick_fd, on);
}

/* One that KVM does not take (two devices at one place) rings by an exit. */
static void regs_moved(struct vm_pci_function *f, unsigned int bar,
		       uint64_t gpa, bool enabled)
{
	struct virtio_device *v = to_virtio(f);

	if (bar != BAR_REGS)
		return;
	if (v->regs->doorbells_gpa)
		set_doorbells(v, v->regs->doorbells_gpa, false);
	v->regs->doorbells_gpa = enabled ? gpa : 0;
	if (enabled)
		set_doorbells(v, gpa, true);
}

/* Where PCI_CFG's window stands; false: nowhere, or an access to elsewhere. */
static bool window(struct virtio_device *v, unsigned int offset,
		   unsigned int bytes, uint32_t *ret_at, uint32_t *ret_bytes)
{
	struct vm_pci_function *f = &v->pci;
	unsigned int data = v->regs->window +
			    offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
	struct virtio_pci_cap cap;

	if (offset >= data + 4 || offset + bytes <= data)
		return false;
	memcpy(&cap, f->config + v->regs->window, sizeof(cap));
	if (cap.bar != BAR_REGS ||
	    (cap.length != 1 && cap.length != 2 && cap.length != 4) ||
	    cap.offset % cap.length != 0 ||
	    cap.offset > REGS_BYTES - cap.length)
		return false;
	*ret_at = cap.offset;
	*ret_bytes = cap.length;
	return true;
}

static uint8_t *window_data(struct virtio_device *v)
{
	return v->pci.config + v->regs->window +
	       offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
}

static void regs_config_written(struct vm_pci_function *f, unsigned int offset,
				unsigned int bytes)
{
	struct virtio_device *v = to_virtio(f);
	uint32_t at, len;

	if (window(v, offset, bytes, &at, &len))
		regs_write(f, BAR_REGS, at, window_data(v), len);
}

static void regs_config_reading(struct vm_pci_function *f, unsigned int offset,
				unsigned int bytes)
{
	struct virtio_device *v = to_virtio(f);
	uint32_t at, len;

	if (window(v, offset, bytes, &at, &len))
		regs_read(f, BAR_REGS, at, window_data(v), len);
}

static const struct vm_pci_bar_ops regs_ops = {
	.read = regs_read,
	.write = regs_write,
	.moved = regs_moved,
	.config_written = regs_config_written,
	.config_reading = regs_config_reading,
};

static void add_cap(struct virtio_device *v, uint8_t type, uint32_t offset,
		    uint32_t length)
{
	struct virtio_pci_cap cap = { .cap_vndr = PCI_CAP_ID_VNDR,
				      .cap_len = sizeof(cap),
				      .cfg_type = type,
				      .bar = BAR_REGS,
				      .offset = offset,
				      .length = length };

	vm_pci_add_cap(&v->pci, &cap, sizeof(cap));
}

static void add_notify_cap(struct virtio_device *v)
{
	struct virtio_pci_notify_cap cap = {
		.cap = { .cap_vndr = PCI_CAP_ID_VNDR,
			 .cap_len = sizeof(cap),
			 .cfg_type = VIRTIO_PCI_CAP_NOTIFY_CFG,
			 .bar = BAR_REGS,
			 .offset = PAGE_NOTIFY,
			 .length = NOTIFY_BYTES },
		.notify_off_multiplier = NOTIFY_STRIDE,
	};

	vm_pci_add_cap(&v->pci, &cap, sizeof(cap));
}

static void add_window_cap(struct virtio_device *v)
{
	struct virtio_pci_cfg_cap cap = {
		.cap = { .cap_vndr = PCI_CAP_ID_VNDR,
			 .cap_len = sizeof(cap),
			 .cfg_type = VIRTIO_PCI_CAP_PCI_CFG },
	};
	uint8_t *mask;

	v->regs->window = vm_pci_add_cap(&v->pci, &cap, sizeof(cap));
	mask = v->pci.write_mask + v->regs->window;
	mask[offsetof(struct virtio_pci_cap, bar)] = 0xff;
	memset(mask + offsetof(struct virtio_pci_cap, offset), 0xff,
	       sizeof(cap) - offsetof(struct virtio_pci_cap, offset));
}

int virtio_pci_init(struct virtio_device *v)
{
	uint16_t id = (uint16_t)(VIRTIO_DEVICE_MODERN + v->ops->type);

	v->regs = calloc(1, sizeof(*v->regs));
	if (!v->regs)
		return -ENOMEM;
	vm_pci_function_init(&v->pci, VIRTIO_VENDOR, id, VIRTIO_REVISION,
			     v->ops->pci_class, VIRTIO_VENDOR, id);
	v->pci.bar_ops = &regs_ops;
	vm_pci_add_bar(&v->pci, BAR_REGS, REGS_BYTES);
	add_cap(v, VIRTIO_PCI_CAP_COMMON_CFG, PAGE_COMMON, COMMON_BYTES);
	add_notify_cap(v);
	add_cap(v, VIRTIO_PCI_CAP_ISR_CFG, PAGE_ISR, 1);
	if (v->config_bytes > 0)
		add_cap(v, VIRTIO_PCI_CAP_DEVICE_CFG, PAGE_DEVICE,
			v->config_bytes);
	add_window_cap(v);
	/* One vector per queue and one for changes of configuration. */
	return vm_pci_msix_init(&v->pci, BAR_MSIX, v->nr_queues + 1);
}

void virtio_pci_fini(struct virtio_device *v)
{
	vm_pci_msix_fini(&v->pci);
	free(v->regs);
	v->regs = NULL;
}
