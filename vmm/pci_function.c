/*
 * vmm/pci_function.c: one function's configuration space (PCI Local Bus 3.0
 * chapter 6) and where its BARs answer.
 */
#include "vmm/pci_internal.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#define FIRST_CAP (PCI_STD_HEADER_SIZEOF)

static void put16(struct vm_pci_function *f, unsigned int at, uint16_t value)
{
	memcpy(f->config + at, &value, sizeof(value));
}

static uint16_t get16(const struct vm_pci_function *f, unsigned int at)
{
	uint16_t value;

	memcpy(&value, f->config + at, sizeof(value));
	return value;
}

static uint32_t get32(const struct vm_pci_function *f, unsigned int at)
{
	uint32_t value;

	memcpy(&value, f->config + at, sizeof(value));
	return value;
}

void vm_pci_function_init(struct vm_pci_function *f, uint16_t vendor,
			  uint16_t device, uint8_t revision, uint32_t class,
			  uint16_t subsys_vendor, uint16_t subsys)
{
	put16(f, PCI_VENDOR_ID, vendor);
	put16(f, PCI_DEVICE_ID, device);
	f->config[PCI_REVISION_ID] = revision;
	f->config[PCI_CLASS_PROG] = (uint8_t)class;
	f->config[PCI_CLASS_DEVICE] = (uint8_t)(class >> 8);
	f->config[PCI_CLASS_DEVICE + 1] = (uint8_t)(class >> 16);
	put16(f, PCI_SUBSYSTEM_VENDOR_ID, subsys_vendor);
	put16(f, PCI_SUBSYSTEM_ID, subsys);
	f->write_mask[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	f->write_mask[PCI_COMMAND + 1] = PCI_COMMAND_INTX_DISABLE >> 8;
	f->write_mask[PCI_CACHE_LINE_SIZE] = 0xff;
	f->write_mask[PCI_INTERRUPT_LINE] = 0xff;
	f->next_cap = FIRST_CAP;
	memcpy(f->power_on, f->config, sizeof(f->power_on));
}

static unsigned int bar_at(unsigned int bar)
{
	return PCI_BASE_ADDRESS_0 + 4 * bar;
}

void vm_pci_add_bar(struct vm_pci_function *f, unsigned int bar, uint32_t bytes)
{
	/* Size and alignment are one: the low bits read as 0 (6.2.5.1). */
	uint32_t mask = ~(bytes - 1);

	assert(bytes >= 4096 && (bytes & (bytes - 1)) == 0);
	f->bar_bytes[bar] = bytes;
	memcpy(f->write_mask + bar_at(bar), &mask, sizeof(mask));
}

unsigned int vm_pci_add_cap(struct vm_pci_function *f, const void *data,
			    unsigned int bytes)
{
	unsigned int at = f->next_cap;

	assert(bytes <= VM_PCI_CONFIG_BYTES - at);
	memcpy(f->config + at, data, bytes);
	f->config[at + PCI_CAP_LIST_NEXT] = 0;
	if (f->last_cap == 0)
		f->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	else
		f->config[f->last_cap + PCI_CAP_LIST_NEXT] = (uint8_t)at;
	f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	f->last_cap = at;
	f->next_cap = (at + bytes + 3) & ~3u;
	memcpy(f->power_on, f->config, sizeof(f->power_on));
	return at;
}

/*
 * A BAR answers only inside the window, whole: the guest cannot lay it over RAM
 * or an interrupt controller. While it is being sized it lies outside.
 */
static uint64_t answers_at(const struct vm_pci_function *f, unsigned int bar)
{
	uint64_t gpa = get32(f, bar_at(bar));
	uint64_t bytes = f->bar_bytes[bar];

	if (bytes == 0 || !(get16(f, PCI_COMMAND) & PCI_COMMAND_MEMORY))
		return 0;
	if (gpa < VM_PCI_MMIO_GPA ||
	    gpa - VM_PCI_MMIO_GPA > VM_PCI_MMIO_BYTES - bytes)
		return 0;
	return gpa;
}

static void place_bars(struct vm_pci_function *f)
{
	for (unsigned int i = 0; i < VM_PCI_BARS; i++) {
		uint64_t gpa = answers_at(f, i);

		if (gpa == f->bar_gpa[i])
			continue;
		f->bar_gpa[i] = gpa;
		if (f->bar_ops && f->bar_ops->moved)
			f->bar_ops->moved(f, i, gpa, gpa != 0);
	}
}

void pci_config_read(struct vm_pci_function *f, unsigned int offset,
		     uint8_t *data, unsigned int bytes)
{
	if (f->bar_ops && f->bar_ops->config_reading)
		f->bar_ops->config_reading(f, offset, bytes);
	memcpy(data, f->config + offset, bytes);
}

void pci_config_write(struct vm_pci_function *f, unsigned int offset,
		      const uint8_t *data, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++) {
		uint8_t mask = f->write_mask[offset + i];
		uint8_t *at = &f->config[offset + i];

		*at = (uint8_t)((*at & ~mask) | (data[i] & mask));
	}
	place_bars(f);
	if (f->msix.nr_vectors > 0 && offset < f->msix.cap + 4 &&
	    offset + bytes > f->msix.cap)
		pci_msix_control(f);
	if (f->bar_ops && f->bar_ops->config_written)
		f->bar_ops->config_written(f, offset, bytes);
}

bool pci_find_bar(const struct vm_pci_function *f, uint64_t gpa,
		  unsigned int bytes, unsigned int *ret_bar,
		  uint64_t *ret_offset)
{
	for (unsigned int i = 0; i < VM_PCI_BARS; i++) {
		uint64_t base = f->bar_gpa[i];

		if (base == 0 || gpa < base ||
		    gpa - base > f->bar_bytes[i] - bytes)
			continue;
		*ret_bar = i;
		*ret_offset = gpa - base;
		return true;
	}
	return false;
}

void pci_bar_read(struct vm_pci_function *f, unsigned int bar, uint64_t offset,
		  uint8_t *data, unsigned int bytes)
{
	if (f->msix.nr_vectors > 0 && bar == f->msix.bar)
		pci_msix_read(f, offset, data, bytes);
	else
		f->bar_ops->read(f, bar, offset, data, bytes);
}

void pci_bar_write(struct vm_pci_function *f, unsigned int bar, uint64_t offset,
		   const uint8_t *data, unsigned int bytes)
{
	if (f->msix.nr_vectors > 0 && bar == f->msix.bar)
		pci_msix_write(f, offset, data, bytes);
	else
		f->bar_ops->write(f, bar, offset, data, bytes);
}

void vm_pci_function_reset(struct vm_pci_function *f)
{
	memcpy(f->config, f->power_on, sizeof(f->config));
	place_bars(f);
	pci_msix_reset(f);
}

void vm_pci_save(struct vm_pci_function *f, struct vm_pci_state *s)
{
	memcpy(s->config, f->config, sizeof(s->config));
	pci_msix_save(f, s);
}

int vm_pci_check(const struct vm_pci_function *f, const struct vm_pci_state *s)
{
	for (unsigned int i = 0; i < VM_PCI_CONFIG_BYTES; i++) {
		if ((s->config[i] ^ f->power_on[i]) & ~f->write_mask[i])
			return -EINVAL;
	}
	return pci_msix_check(f, s);
}

void vm_pci_load(struct vm_pci_function *f, const struct vm_pci_state *s)
{
	memcpy(f->config, s->config, sizeof(f->config));
	place_bars(f);
	pci_msix_load(f, s);
}
