/*
 * vmm/virtio_state.c: a virtio device's state: its PCI function, its transport,
 * its rings and what the device itself adds, as one struct and one field table.
 *
 * There are no requests in it: the device is stopped (virtio.h). Arrays have a
 * place for every queue that there could be; as bytes they are little-endian.
 */
#include "vmm/virtio_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct transport_state {
	struct vm_pci_state pci; /* first: VM_PCI_FIELDS */
	uint64_t accepted;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	uint16_t config_vector;
	uint8_t status;
	uint8_t isr;
	uint8_t config_generation;
	uint8_t enabled[VIRTIO_QUEUES_MAX];
	uint16_t entries[VIRTIO_QUEUES_MAX];
	uint16_t vector[VIRTIO_QUEUES_MAX];
	uint16_t next_avail[VIRTIO_QUEUES_MAX];
	uint16_t next_used[VIRTIO_QUEUES_MAX];
	uint64_t desc_gpa[VIRTIO_QUEUES_MAX];
	uint64_t avail_gpa[VIRTIO_QUEUES_MAX];
	uint64_t used_gpa[VIRTIO_QUEUES_MAX];
};
/* The device's own struct follows and has to be aligned for anything. */
_Static_assert(sizeof(struct transport_state) % 8 == 0, "alignment");

#define FIELD(_id, _kind, _member)                                             \
	VM_FIELD(_id, VM_FIELD_##_kind, struct transport_state, _member)

static const struct vm_field transport_fields[] = {
	VM_PCI_FIELDS,
	FIELD(0x10, UINT, accepted),
	FIELD(0x11, UINT, device_feature_select),
	FIELD(0x12, UINT, driver_feature_select),
	FIELD(0x13, UINT, queue_select),
	FIELD(0x14, UINT, config_vector),
	FIELD(0x15, UINT, status),
	FIELD(0x16, UINT, isr),
	FIELD(0x17, UINT, config_generation),
	FIELD(0x20, BYTES, enabled),
	FIELD(0x21, BYTES, entries),
	FIELD(0x22, BYTES, vector),
	FIELD(0x23, BYTES, next_avail),
	FIELD(0x24, BYTES, next_used),
	FIELD(0x25, BYTES, desc_gpa),
	FIELD(0x26, BYTES, avail_gpa),
	FIELD(0x27, BYTES, used_gpa),
};

#define NR_TRANSPORT_FIELDS                                                    \
	(sizeof(transport_fields) / sizeof(transport_fields[0]))
#define OWN_FIELDS_FROM 0x1000

static void save_queue(const struct virtio_queue *q, struct transport_state *s)
{
	unsigned int i = q->index;

	s->enabled[i] = q->enabled;
	s->entries[i] = q->entries;
	s->vector[i] = atomic_load(&q->vector);
	s->next_avail[i] = q->next_avail;
	s->next_used[i] = q->next_used;
	s->desc_gpa[i] = q->desc_gpa;
	s->avail_gpa[i] = q->avail_gpa;
	s->used_gpa[i] = q->used_gpa;
}

static void save(struct vm_device *d, void *state)
{
	struct virtio_device *v = (struct virtio_device *)d;
	const struct virtio_pci_selects *selects = virtio_pci_selects(v);
	struct transport_state *s = state;

	vm_pci_save(&v->pci, &s->pci);
	s->accepted = v->accepted;
	s->device_feature_select = selects->device_feature;
	s->driver_feature_select = selects->driver_feature;
	s->queue_select = selects->queue;
	s->config_vector = atomic_load(&v->config_vector);
	s->status = atomic_load(&v->status);
	if (atomic_load(&v->broken))
		s->status |= VIRTIO_STATUS_NEEDS_RESET;
	s->isr = atomic_load(&v->isr);
	s->config_generation = v->config_generation;
	for (unsigned int i = 0; i < v->nr_queues; i++)
		save_queue(&v->queues[i], s);
	if (v->ops->save)
		v->ops->save(v, s + 1);
}

static bool vector_is_good(const struct virtio_device *v, uint16_t vector)
{
	return vector == VIRTIO_NO_VECTOR || vector < v->pci.msix.nr_vectors;
}

/* Addresses are looked at when the device starts, as if the driver set them. */
static int check_queue(const struct virtio_device *v,
		       const struct transport_state *s, unsigned int i)
{
	uint16_t n = s->entries[i];

	if (n == 0 || n > v->queues[i].entries_max || (n & (n - 1)) != 0 ||
	    s->enabled[i] > 1 || !vector_is_good(v, s->vector[i]))
		return -EINVAL;
	return 0;
}

/* Each step of the status is there because the one before it was (3.1.1). */
static int check_status(const struct virtio_device *v,
			const struct transport_state *s)
{
	bool agreed = s->status & VIRTIO_STATUS_FEATURES_OK;

	if (agreed && ((s->accepted & ~v->offered) != 0 ||
		       !(s->accepted & VIRTIO_F_VERSION_1)))
		return -EINVAL;
	if ((s->status & VIRTIO_STATUS_DRIVER_OK) && !agreed)
		return -EINVAL;
	return 0;
}

static int check(const struct virtio_device *v, const struct transport_state *s)
{
	int ret = vm_pci_check(&v->pci, &s->pci);

	if (ret == 0)
		ret = check_status(v, s);
	if (ret == 0 && !vector_is_good(v, s->config_vector))
		ret = -EINVAL;
	for (unsigned int i = 0; i < v->nr_queues && ret == 0; i++)
		ret = check_queue(v, s, i);
	return ret;
}

static void load_queue(struct virtio_queue *q, const struct transport_state *s)
{
	unsigned int i = q->index;

	q->enabled = s->enabled[i];
	q->entries = s->entries[i];
	atomic_store(&q->vector, s->vector[i]);
	q->next_avail = s->next_avail[i];
	q->next_used = q->signalled_used = s->next_used[i];
	q->desc_gpa = s->desc_gpa[i];
	q->avail_gpa = s->avail_gpa[i];
	q->used_gpa = s->used_gpa[i];
}

static int load(struct vm_device *d, const void *state)
{
	struct virtio_device *v = (struct virtio_device *)d;
	const struct transport_state *s = state;
	const char *why = NULL;
	int ret = check(v, s);

	if (ret == 0 && v->ops->load)
		ret = v->ops->load(v, s + 1);
	if (ret < 0)
		return ret;
	if (s->status & VIRTIO_STATUS_NEEDS_RESET)
		why = "it was broken when its state was saved";
	*virtio_pci_selects(v) = (struct virtio_pci_selects){
		.device_feature = s->device_feature_select,
		.driver_feature = s->driver_feature_select,
		.queue = s->queue_select,
	};
	v->accepted = s->accepted;
	atomic_store(&v->config_vector, s->config_vector);
	atomic_store(&v->isr, s->isr);
	atomic_store(&v->broken, why);
	atomic_store(&v->status,
		     s->status & (uint8_t)~VIRTIO_STATUS_NEEDS_RESET);
	pthread_mutex_lock(&v->config_lock);
	v->config_generation = s->config_generation;
	pthread_mutex_unlock(&v->config_lock);
	for (unsigned int i = 0; i < v->nr_queues; i++)
		load_queue(&v->queues[i], s);
	v->loaded = true;
	vm_pci_load(&v->pci, &s->pci);
	return 0;
}

static void add_own_fields(struct virtio_device *v)
{
	for (size_t i = 0; i < v->ops->nr_fields; i++) {
		struct vm_field *f = &v->fields[NR_TRANSPORT_FIELDS + i];

		*f = v->ops->fields[i];
		assert(f->id >= OWN_FIELDS_FROM);
		f->offset += sizeof(struct transport_state);
	}
}

int virtio_state_init(struct virtio_device *v)
{
	size_t nr = NR_TRANSPORT_FIELDS + v->ops->nr_fields;

	v->fields = calloc(nr, sizeof(*v->fields));
	if (!v->fields)
		return -ENOMEM;
	memcpy(v->fields, transport_fields, sizeof(transport_fields));
	add_own_fields(v);
	v->device_ops.fields = v->fields;
	v->device_ops.nr_fields = nr;
	v->device_ops.state_bytes = sizeof(struct transport_state) +
				    v->ops->state_bytes;
	v->device_ops.save = save;
	v->device_ops.load = load;
	return 0;
}

void virtio_state_fini(struct virtio_device *v)
{
	free(v->fields);
	v->fields = NULL;
}
