/*
 * vmm/pci_msix.c: MSI-X (PCI Local Bus 3.0 section 6.8.2): the table and the
 * pending bits in a BAR, and raising a vector.
 *
 * Each vector has an eventfd that KVM turns into its message. KVM knows nothing
 * of masks: a vector that may not be raised is kept pending here.
 */
#include "vmm/pci_internal.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

#define MSIX_BAR_BYTES   4096
#define MSIX_PBA_OFFSET  (MSIX_BAR_BYTES / 2)
#define MSIX_ENTRY_BYTES PCI_MSIX_ENTRY_SIZE
/* The high byte of message control: enable and mask are the guest's. */
#define MSIX_CONTROL_HI 3
#define MSIX_WRITABLE   ((PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8)

int vm_pci_msix_init(struct vm_pci_function *f, unsigned int bar,
		     unsigned int nr_vectors)
{
	struct vm_pci_msix *m = &f->msix;
	uint8_t cap[PCI_CAP_MSIX_SIZEOF] = { PCI_CAP_ID_MSIX };
	uint16_t control = (uint16_t)(nr_vectors - 1);
	uint32_t table = bar, pba = MSIX_PBA_OFFSET | bar;
	int ret = -pthread_mutex_init(&m->lock, NULL);

	if (ret < 0)
		return ret;
	m->bar = bar;
	for (m->nr_vectors = 0; m->nr_vectors < nr_vectors; m->nr_vectors++) {
		struct vm_pci_vector *v = &m->vectors[m->nr_vectors];

		v->control = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		v->irqfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (v->irqfd < 0) {
			ret = -errno;
			vm_pci_msix_fini(f);
			return ret;
		}
	}
	memcpy(cap + PCI_MSIX_FLAGS, &control, sizeof(control));
	memcpy(cap + PCI_MSIX_TABLE, &table, sizeof(table));
	memcpy(cap + PCI_MSIX_PBA, &pba, sizeof(pba));
	m->cap = vm_pci_add_cap(f, cap, sizeof(cap));
	f->write_mask[m->cap + MSIX_CONTROL_HI] = MSIX_WRITABLE;
	vm_pci_add_bar(f, bar, MSIX_BAR_BYTES);
	return 0;
}

void vm_pci_msix_fini(struct vm_pci_function *f)
{
	struct vm_pci_msix *m = &f->msix;

	if (m->nr_vectors == 0)
		return;
	while (m->nr_vectors > 0)
		close(m->vectors[--m->nr_vectors].irqfd);
	pthread_mutex_destroy(&m->lock);
}

int pci_msix_attach(struct vm *vm, struct vm_pci_function *f)
{
	struct vm_pci_msix *m = &f->msix;
	int ret;

	if (m->nr_vectors == 0)
		return 0;
	ret = vm_msi_alloc(vm, m->nr_vectors, &m->first_gsi);
	for (unsigned int i = 0; i < m->nr_vectors && ret == 0; i++)
		ret = vm_msi_attach(vm, m->first_gsi + i, m->vectors[i].irqfd);
	return ret;
}

static bool may_raise(const struct vm_pci_msix *m,
		      const struct vm_pci_vector *v)
{
	return m->enabled && !m->function_masked &&
	       !(v->control & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

static void ring(const struct vm_pci_vector *v)
{
	uint64_t one = 1;
	ssize_t n = write(v->irqfd, &one, sizeof(one));

	/* It fails only when 2^64 - 2 rings wait: one more is no news. */
	(void)n;
}

void vm_pci_msix_raise(struct vm_pci_function *f, unsigned int vector)
{
	struct vm_pci_msix *m = &f->msix;

	if (vector >= m->nr_vectors)
		return;
	pthread_mutex_lock(&m->lock);
	if (may_raise(m, &m->vectors[vector]))
		ring(&m->vectors[vector]);
	else
		m->vectors[vector].pending = true;
	pthread_mutex_unlock(&m->lock);
}

/*
 * Something about vector i changed. To tell KVM of a message is dear, and a guest
 * writes address and data in pieces: only one that can be raised is told of. KVM
 * takes any message; one that leads nowhere is the guest's own loss.
 */
static void settle(struct vm_pci_function *f, unsigned int i)
{
	struct vm_pci_msix *m = &f->msix;
	struct vm_pci_vector *v = &m->vectors[i];

	if (!may_raise(m, v))
		return;
	if (m->first_gsi != 0)
		vm_msi_route(f->device.vm, m->first_gsi + i, v->address,
			     v->data);
	if (v->pending) {
		v->pending = false;
		ring(v);
	}
}

/* Under lock. */
static void take_control(struct vm_pci_function *f)
{
	struct vm_pci_msix *m = &f->msix;
	uint16_t control;

	memcpy(&control, f->config + m->cap + PCI_MSIX_FLAGS, sizeof(control));
	m->enabled = control & PCI_MSIX_FLAGS_ENABLE;
	m->function_masked = control & PCI_MSIX_FLAGS_MASKALL;
	for (unsigned int i = 0; i < m->nr_vectors; i++)
		settle(f, i);
}

void pci_msix_control(struct vm_pci_function *f)
{
	pthread_mutex_lock(&f->msix.lock);
	take_control(f);
	pthread_mutex_unlock(&f->msix.lock);
}

/* Software uses aligned 4 or 8 byte accesses (section 6.8.2); others find zeros. */
static bool is_proper(uint64_t offset, unsigned int bytes)
{
	return (bytes == 4 || bytes == 8) && offset % bytes == 0;
}

static uint32_t read_table(const struct vm_pci_vector *v, unsigned int reg)
{
	switch (reg) {
	case PCI_MSIX_ENTRY_LOWER_ADDR:
		return (uint32_t)v->address;
	case PCI_MSIX_ENTRY_UPPER_ADDR:
		return (uint32_t)(v->address >> 32);
	case PCI_MSIX_ENTRY_DATA:
		return v->data;
	default:
		return v->control;
	}
}

static void write_table(struct vm_pci_vector *v, unsigned int reg,
			uint32_t value)
{
	uint64_t low = v->address & UINT32_MAX;

	switch (reg) {
	case PCI_MSIX_ENTRY_LOWER_ADDR:
		v->address = (v->address - low) | (value & ~UINT32_C(3));
		break;
	case PCI_MSIX_ENTRY_UPPER_ADDR:
		v->address = (uint64_t)value << 32 | low;
		break;
	case PCI_MSIX_ENTRY_DATA:
		v->data = value;
		break;
	default:
		v->control = value & PCI_MSIX_ENTRY_CTRL_MASKBIT;
		break;
	}
}

static uint32_t read_pending(const struct vm_pci_msix *m, uint64_t offset)
{
	uint64_t first = (offset - MSIX_PBA_OFFSET) * 8;
	uint32_t bits = 0;

	for (unsigned int i = 0; i < 32 && first + i < m->nr_vectors; i++)
		bits |= (uint32_t)m->vectors[first + i].pending << i;
	return bits;
}

static uint32_t read_dword(const struct vm_pci_msix *m, uint64_t offset)
{
	uint64_t i = offset / MSIX_ENTRY_BYTES;

	if (offset >= MSIX_PBA_OFFSET)
		return read_pending(m, offset);
	if (i >= m->nr_vectors)
		return 0;
	return read_table(&m->vectors[i],
			  (unsigned int)(offset % MSIX_ENTRY_BYTES));
}

void pci_msix_read(struct vm_pci_function *f, uint64_t offset, uint8_t *data,
		   unsigned int bytes)
{
	memset(data, 0, bytes);
	if (!is_proper(offset, bytes))
		return;
	pthread_mutex_lock(&f->msix.lock);
	for (unsigned int at = 0; at < bytes; at += 4) {
		uint32_t value = read_dword(&f->msix, offset + at);

		memcpy(data + at, &value, sizeof(value));
	}
	pthread_mutex_unlock(&f->msix.lock);
}

void pci_msix_write(struct vm_pci_function *f, uint64_t offset,
		    const uint8_t *data, unsigned int bytes)
{
	struct vm_pci_msix *m = &f->msix;
	uint64_t i = offset / MSIX_ENTRY_BYTES;

	/* Pending bits only read. */
	if (!is_proper(offset, bytes) || i >= m->nr_vectors)
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned int at = 0; at < bytes; at += 4) {
		uint32_t value;

		memcpy(&value, data + at, sizeof(value));
		write_table(&m->vectors[i],
			    (unsigned int)((offset + at) % MSIX_ENTRY_BYTES),
			    value);
	}
	settle(f, (unsigned int)i);
	pthread_mutex_unlock(&m->lock);
}

void pci_msix_reset(struct vm_pci_function *f)
{
	struct vm_pci_msix *m = &f->msix;

	if (m->nr_vectors == 0)
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned int i = 0; i < m->nr_vectors; i++) {
		struct vm_pci_vector *v = &m->vectors[i];

		*v = (struct vm_pci_vector){
			.control = PCI_MSIX_ENTRY_CTRL_MASKBIT,
			.irqfd = v->irqfd
		};
	}
	take_control(f);
	pthread_mutex_unlock(&m->lock);
}

void pci_msix_save(struct vm_pci_function *f, struct vm_pci_state *s)
{
	struct vm_pci_msix *m = &f->msix;

	if (m->nr_vectors == 0)
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned int i = 0; i < m->nr_vectors; i++) {
		s->msix_address[i] = m->vectors[i].address;
		s->msix_data[i] = m->vectors[i].data;
		s->msix_control[i] = m->vectors[i].control;
		s->msix_pending[i] = m->vectors[i].pending;
	}
	pthread_mutex_unlock(&m->lock);
}

int pci_msix_check(const struct vm_pci_function *f,
		   const struct vm_pci_state *s)
{
	for (unsigned int i = 0; i < f->msix.nr_vectors; i++) {
		if ((s->msix_address[i] & 3) || s->msix_pending[i] > 1 ||
		    (s->msix_control[i] & ~PCI_MSIX_ENTRY_CTRL_MASKBIT))
			return -EINVAL;
	}
	return 0;
}

void pci_msix_load(struct vm_pci_function *f, const struct vm_pci_state *s)
{
	struct vm_pci_msix *m = &f->msix;

	if (m->nr_vectors == 0)
		return;
	pthread_mutex_lock(&m->lock);
	for (unsigned int i = 0; i < m->nr_vectors; i++) {
		struct vm_pci_vector *v = &m->vectors[i];

		v->address = s->msix_address[i];
		v->data = s->msix_data[i];
		v->control = s->msix_control[i];
		v->pending = s->msix_pending[i];
	}
	take_control(f);
	pthread_mutex_unlock(&m->lock);
}
