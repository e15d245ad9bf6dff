#include "virtio_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/virtio_internal.h"

#define DESC_BYTES   16
#define DESC_F_NEXT  1
#define DESC_F_WRITE 2
#define DESC_F_IND   4

/* The rest of memory is the test's; nobody looks at the first megabyte. */
#define FIRST_GPA (UINT64_C(1) << 20)

struct vm *vdrv_machine(uint64_t ram_bytes)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	assert_non_null(vm);
	vm->fd = vm->kvm_fd = -1;
	vm->nr_cpus = 1;
	assert_int_equal(vm_irq_init(vm), 0);
	assert_int_equal(vm_mem_new(ram_bytes, VM_MEM_ANON, &vm->mem), 0);
	return vm;
}

void vdrv_machine_free(struct vm *vm)
{
	vm_devices_stop(vm);
	vm_bus_fini(vm);
	vm_irq_fini(vm);
	vm_mem_free(vm->mem);
	free(vm);
}

void vdrv_agree(struct vdrv *d, uint64_t features)
{
	struct virtio_device *v = d->dev;
	struct vm_pci_msix *m = &v->pci.msix;

	assert_int_equal(features & ~v->offered, 0);
	v->accepted = features | VIRTIO_F_VERSION_1;
	atomic_store(&v->status, VIRTIO_STATUS_ACKNOWLEDGE |
					 VIRTIO_STATUS_DRIVER |
					 VIRTIO_STATUS_FEATURES_OK);
	atomic_store(&v->config_vector, 0);
	pthread_mutex_lock(&m->lock);
	m->enabled = true;
	m->function_masked = false;
	for (unsigned int i = 0; i < m->nr_vectors; i++)
		m->vectors[i].control = 0;
	pthread_mutex_unlock(&m->lock);
}

void vdrv_init(struct vdrv *d, struct vm *vm, struct virtio_device *v,
	       uint64_t features)
{
	*d = (struct vdrv){ .vm = vm, .dev = v, .next_gpa = FIRST_GPA };
	assert_int_equal(vm_device_add(vm, &v->pci.device), 0);
	vdrv_agree(d, features);
}

void vdrv_fini(struct vdrv *d)
{
	vdrv_machine_free(d->vm);
}

uint64_t vdrv_alloc(struct vdrv *d, uint64_t bytes)
{
	uint64_t gpa = d->next_gpa, offset;

	d->next_gpa += (bytes + VM_PAGE_BYTES - 1) & ~(VM_PAGE_BYTES - 1);
	assert_int_equal(vm_mem_gpa_to_offset(d->vm->mem, gpa, bytes, &offset),
			 0);
	return gpa;
}

uint8_t *vdrv_hva(struct vdrv *d, uint64_t gpa)
{
	uint64_t offset;

	assert_int_equal(vm_mem_gpa_to_offset(d->vm->mem, gpa, 1, &offset), 0);
	return vm_mem_base(d->vm->mem) + offset;
}

/* Index and event words cross threads: never plain memory. */
static void put16(struct vdrv *d, uint64_t gpa, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)vdrv_hva(d, gpa), value,
			 __ATOMIC_SEQ_CST);
}

static uint16_t get16(struct vdrv *d, uint64_t gpa)
{
	return __atomic_load_n((uint16_t *)(void *)vdrv_hva(d, gpa),
			       __ATOMIC_SEQ_CST);
}

void vdrv_queue(struct vdrv *d, unsigned int queue, uint16_t entries)
{
	struct virtio_queue *q = &d->dev->queues[queue];
	struct vdrv_queue *dq = &d->queues[queue];

	assert_true(queue < d->dev->nr_queues && entries <= q->entries_max);
	*dq = (struct vdrv_queue){
		.entries = entries,
		.desc_gpa = vdrv_alloc(d, (uint64_t)DESC_BYTES * entries),
		.avail_gpa = vdrv_alloc(d, 6 + UINT64_C(2) * entries),
		.used_gpa = vdrv_alloc(d, 6 + UINT64_C(8) * entries),
	};
	for (unsigned int i = 0; i < entries; i++)
		dq->is_free[i] = true;
	q->entries = entries;
	q->desc_gpa = dq->desc_gpa;
	q->avail_gpa = dq->avail_gpa;
	q->used_gpa = dq->used_gpa;
	atomic_store(&q->vector, (uint16_t)(1 + queue));
	q->enabled = true;
}

void vdrv_resume(struct vdrv *d)
{
	vm_devices_start(d->vm);
}

void vdrv_pause(struct vdrv *d)
{
	vm_devices_stop(d->vm);
}

void vdrv_start(struct vdrv *d)
{
	atomic_fetch_or(&d->dev->status, VIRTIO_STATUS_DRIVER_OK);
	vdrv_resume(d);
	/* It may run already, as after vdrv_reset(). */
	virtio_start(d->dev);
}

void vdrv_reset(struct vdrv *d)
{
	pthread_mutex_lock(&d->dev->pci.device.lock);
	virtio_stop(d->dev);
	virtio_reset(d->dev);
	pthread_mutex_unlock(&d->dev->pci.device.lock);
}

void vdrv_move(struct vdrv *d, struct vdrv *to)
{
	struct vm_device *from_device = &d->dev->pci.device;
	struct vm_device *to_device = &to->dev->pci.device;
	struct vm_mem *from = d->vm->mem;
	void *state = calloc(1, from_device->ops->state_bytes);

	assert_non_null(state);
	assert_int_equal(to_device->ops->state_bytes,
			 from_device->ops->state_bytes);
	vdrv_pause(d);
	from_device->ops->save(from_device, state);
	memcpy(vm_mem_base(to->vm->mem), vm_mem_base(from), d->next_gpa);
	assert_int_equal(to_device->ops->load(to_device, state), 0);
	/* In a test nobody loads the interrupt table by way of PCI. */
	pthread_mutex_lock(&to->dev->pci.msix.lock);
	to->dev->pci.msix.enabled = true;
	pthread_mutex_unlock(&to->dev->pci.msix.lock);
	memcpy(to->queues, d->queues, sizeof(to->queues));
	to->next_gpa = d->next_gpa;
	free(state);
}

void vdrv_set_desc(struct vdrv *d, unsigned int queue, uint16_t i, uint64_t gpa,
		   uint32_t bytes, uint16_t flags, uint16_t next)
{
	uint8_t *at = vdrv_hva(d, d->queues[queue].desc_gpa +
					  (uint64_t)DESC_BYTES * i);

	memcpy(at, &gpa, 8);
	memcpy(at + 8, &bytes, 4);
	memcpy(at + 12, &flags, 2);
	memcpy(at + 14, &next, 2);
}

void vdrv_publish(struct vdrv *d, unsigned int queue, uint16_t head,
		  uint16_t step)
{
	struct vdrv_queue *dq = &d->queues[queue];
	uint64_t slot = dq->avail_idx & (dq->entries - 1u);

	put16(d, dq->avail_gpa + 4 + 2 * slot, head);
	dq->avail_idx = (uint16_t)(dq->avail_idx + step);
	put16(d, dq->avail_gpa + 2, dq->avail_idx);
}

static uint16_t take_desc(struct vdrv_queue *dq)
{
	for (uint16_t i = 0; i < dq->entries; i++) {
		if (dq->is_free[i]) {
			dq->is_free[i] = false;
			return i;
		}
	}
	fail_msg("no free descriptor");
	return 0;
}

uint16_t vdrv_add(struct vdrv *d, unsigned int queue,
		  const struct vdrv_piece *pieces, unsigned int nr)
{
	struct vdrv_queue *dq = &d->queues[queue];
	uint16_t head = take_desc(dq), at = head;

	for (unsigned int i = 0; i < nr; i++) {
		bool goes_on = i + 1 < nr;
		uint16_t next = goes_on ? take_desc(dq) : 0;

		vdrv_set_desc(
			d, queue, at, pieces[i].gpa, pieces[i].bytes,
			(uint16_t)((pieces[i].is_writable ? DESC_F_WRITE : 0) |
				   (goes_on ? DESC_F_NEXT : 0)),
			next);
		dq->goes_on[at] = goes_on;
		dq->next[at] = next;
		at = next;
	}
	vdrv_publish(d, queue, head, 1);
	return head;
}

uint16_t vdrv_add_indirect(struct vdrv *d, unsigned int queue,
			   const struct vdrv_piece *pieces, unsigned int nr)
{
	struct vdrv_queue *dq = &d->queues[queue];
	uint64_t main_table = dq->desc_gpa;
	uint64_t table = vdrv_alloc(d, (uint64_t)DESC_BYTES * nr);
	uint16_t head = take_desc(dq);

	dq->desc_gpa = table;
	for (unsigned int i = 0; i < nr; i++)
		vdrv_set_desc(
			d, queue, (uint16_t)i, pieces[i].gpa, pieces[i].bytes,
			(uint16_t)((pieces[i].is_writable ? DESC_F_WRITE : 0) |
				   (i + 1 < nr ? DESC_F_NEXT : 0)),
			(uint16_t)(i + 1));
	dq->desc_gpa = main_table;
	vdrv_set_desc(d, queue, head, table, DESC_BYTES * nr, DESC_F_IND, 0);
	dq->goes_on[head] = false;
	vdrv_publish(d, queue, head, 1);
	return head;
}

void vdrv_kick(struct vdrv *d, unsigned int queue)
{
	uint64_t one = 1;

	assert_int_equal(write(d->dev->queues[queue].kick_fd, &one, 8), 8);
}

uint16_t vdrv_avail_event(struct vdrv *d, unsigned int queue)
{
	struct vdrv_queue *dq = &d->queues[queue];

	return get16(d, dq->used_gpa + 4 + UINT64_C(8) * dq->entries);
}

/* For one entry at a time: was the last one the one that it waits for? */
bool vdrv_kick_if_wanted(struct vdrv *d, unsigned int queue)
{
	uint16_t last = (uint16_t)(d->queues[queue].avail_idx - 1);

	if (vdrv_avail_event(d, queue) != last)
		return false;
	vdrv_kick(d, queue);
	return true;
}

static void give_back(struct vdrv_queue *dq, uint16_t head)
{
	assert_true(head < dq->entries);
	assert_false(dq->is_free[head]); /* used twice, or never asked for */
	dq->is_free[head] = true;
	while (dq->goes_on[head]) {
		dq->goes_on[head] = false;
		head = dq->next[head];
		dq->is_free[head] = true;
	}
}

bool vdrv_used(struct vdrv *d, unsigned int queue, uint16_t *ret_head,
	       uint32_t *ret_bytes)
{
	struct vdrv_queue *dq = &d->queues[queue];
	uint64_t slot = dq->used_idx & (dq->entries - 1u);
	uint32_t item[2];

	if (get16(d, dq->used_gpa + 2) == dq->used_idx)
		return false;
	memcpy(item, vdrv_hva(d, dq->used_gpa + 4 + 8 * slot), sizeof(item));
	assert_true(item[0] < dq->entries);
	give_back(dq, (uint16_t)item[0]);
	dq->used_idx++;
	dq->nr_used++;
	*ret_head = (uint16_t)item[0];
	*ret_bytes = item[1];
	return true;
}

/* Waits in small steps for cond(d, arg); fails the test when it never comes. */
static void wait_for(struct vdrv *d, bool (*cond)(struct vdrv *d, void *arg),
		     void *arg, const char *what)
{
	const struct timespec step = { .tv_nsec = 200000 };

	for (int i = 0; i < VDRV_PATIENCE_S * 5000; i++) {
		if (cond(d, arg))
			return;
		nanosleep(&step, NULL);
	}
	fail_msg("%s never came", what);
}

struct used {
	unsigned int queue;
	uint16_t head;
	uint32_t bytes;
};

static bool see_used(struct vdrv *d, void *arg)
{
	struct used *u = arg;

	return vdrv_used(d, u->queue, &u->head, &u->bytes);
}

uint32_t vdrv_wait(struct vdrv *d, unsigned int queue, uint16_t head)
{
	struct used u = { .queue = queue };

	wait_for(d, see_used, &u, "a used entry");
	assert_int_equal(u.head, head);
	return u.bytes;
}

uint64_t vdrv_interrupts(struct vdrv *d, unsigned int vector)
{
	uint64_t n;

	assert_true(vector < d->dev->pci.msix.nr_vectors);
	if (read(d->dev->pci.msix.vectors[vector].irqfd, &n, 8) != 8)
		return 0;
	return n;
}

void vdrv_wait_interrupt(struct vdrv *d, unsigned int vector)
{
	struct pollfd p = { .fd = d->dev->pci.msix.vectors[vector].irqfd,
			    .events = POLLIN };

	if (poll(&p, 1, VDRV_PATIENCE_S * 1000) != 1)
		fail_msg("an interrupt of vector %u never came", vector);
	assert_true(vdrv_interrupts(d, vector) > 0);
}

bool vdrv_is_broken(struct vdrv *d)
{
	return atomic_load(&d->dev->broken) != NULL;
}

static bool see_broken(struct vdrv *d, void *arg)
{
	(void)arg;
	return vdrv_is_broken(d);
}

const char *vdrv_wait_broken(struct vdrv *d)
{
	wait_for(d, see_broken, NULL, "DEVICE_NEEDS_RESET");
	return atomic_load(&d->dev->broken);
}

void vdrv_set_used_event(struct vdrv *d, unsigned int queue, uint16_t idx)
{
	struct vdrv_queue *dq = &d->queues[queue];

	put16(d, dq->avail_gpa + 4 + UINT64_C(2) * dq->entries, idx);
}

void vdrv_set_avail_flags(struct vdrv *d, unsigned int queue, uint16_t flags)
{
	put16(d, d->queues[queue].avail_gpa, flags);
}
