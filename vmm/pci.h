/*
 * vmm/pci.h: one PCI bus: a host bridge and single-function devices behind it.
 *
 * Configuration space is reached by mechanism 1 (ports 0xcf8 and 0xcfc, PCI
 * Local Bus 3.0 section 3.2.2.3.2), BARs are 32-bit memory inside one window of
 * the hole below 4 GiB, and interrupts are MSI-X (PCI 3.0 section 6.8.2): there
 * are no INTx pins, no bridges and no ECAM, so the ACPI tables need name only
 * the window. A function claims no bus range of its own: the host bridge claims
 * the ports and the window and finds the function by its BARs, which the guest
 * may move at any time.
 *
 * Threads: reads and writes on vCPU threads. Lock order: the host bridge's
 *          device lock, then a function's device lock, then msix.lock.
 * Life:    functions are added before vm_start(), freed by vm_free().
 * Errors:  -errno.
 */
#ifndef VMM_PCI_H
#define VMM_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/device.h"

#define VM_PCI_MMIO_GPA   UINT64_C(0xd0000000)
#define VM_PCI_MMIO_BYTES UINT64_C(0x20000000)
#define VM_PCI_SLOTS      32 /* 0 is the host bridge itself */

#define VM_PCI_CONFIG_BYTES 256
#define VM_PCI_BARS         6
#define VM_PCI_MSIX_MAX     64 /* vectors of one function */

struct vm_pci_function;

struct vm_pci_bar_ops {
	/* offset in the BAR; bytes 1, 2, 4 or 8; inside it for certain. */
	void (*read)(struct vm_pci_function *f, unsigned int bar,
		     uint64_t offset, uint8_t *data, unsigned int bytes);
	void (*write)(struct vm_pci_function *f, unsigned int bar,
		      uint64_t offset, const uint8_t *data, unsigned int bytes);
	/*
	 * BAR `bar` answers at gpa from now on, or nowhere (enabled false). For
	 * those who hang ioeventfds there. Device lock held; any vCPU thread or
	 * whoever loads state or resets. May be NULL.
	 */
	void (*moved)(struct vm_pci_function *f, unsigned int bar, uint64_t gpa,
		      bool enabled);
	/*
	 * A configuration write of 1, 2 or 4 bytes that the function wants to
	 * see after it took effect (virtio's PCI_CFG capability). May be NULL.
	 */
	void (*config_written)(struct vm_pci_function *f, unsigned int offset,
			       unsigned int bytes);
	/* As above, before a read is answered out of config[]. May be NULL. */
	void (*config_reading)(struct vm_pci_function *f, unsigned int offset,
			       unsigned int bytes);
};

struct vm_pci_msix {
	/* Constant after vm_pci_msix_init(). */
	unsigned int nr_vectors; /* 0: no MSI-X */
	unsigned int bar;
	unsigned int cap; /* its offset in config space */
	unsigned int first_gsi;
	/* Under lock: any thread. */
	pthread_mutex_t lock;
	bool enabled;
	bool function_masked;
	/* What the guest wrote; address and data reach KVM when unmasked. */
	struct vm_pci_vector {
		uint64_t address;
		uint32_t data;
		uint32_t control; /* bit 0: masked */
		int irqfd;        /* eventfd that KVM turns into the MSI; -1 */
		bool pending;
	} vectors[VM_PCI_MSIX_MAX];
};

/* Embedded first in a PCI device's own struct; device.nr_ranges stays 0. */
struct vm_pci_function {
	struct vm_device device;
	const struct vm_pci_bar_ops *bar_ops;
	unsigned int slot; /* set by vm_pci_add() */
	/* Device lock. What the guest may change of config: write_mask. */
	uint8_t config[VM_PCI_CONFIG_BYTES];
	uint8_t write_mask[VM_PCI_CONFIG_BYTES];
	uint32_t bar_bytes[VM_PCI_BARS]; /* a power of two >= 4096; 0: none */
	unsigned int next_cap;           /* where the next capability may go */
	unsigned int last_cap;           /* whose link leads there; 0: none */
	uint8_t power_on[VM_PCI_CONFIG_BYTES]; /* config after a reset */
	/* Where BARs answer, 0: nowhere. Also under the host bridge's lock. */
	uint64_t bar_gpa[VM_PCI_BARS];
	struct vm_pci_msix msix;
};

/*
 * What `f` says it is (before vm_pci_add): ids, class (24 bits: base, sub,
 * interface), subsystem ids; writes go nowhere but to command and BARs.
 */
void vm_pci_function_init(struct vm_pci_function *f, uint16_t vendor,
			  uint16_t device, uint8_t revision, uint32_t class,
			  uint16_t subsys_vendor, uint16_t subsys);
/* 32-bit memory BAR. */
void vm_pci_add_bar(struct vm_pci_function *f, unsigned int bar,
		    uint32_t bytes);
/*
 * Appends a capability of `bytes` bytes (data holds it whole; byte 1, the link,
 * is filled in here) and returns its offset in config space.
 */
unsigned int vm_pci_add_cap(struct vm_pci_function *f, const void *data,
			    unsigned int bytes);
/* The table at the start of BAR `bar`, the PBA at half of it (4 KiB BAR). */
int vm_pci_msix_init(struct vm_pci_function *f, unsigned int bar,
		     unsigned int nr_vectors);
void vm_pci_msix_fini(struct vm_pci_function *f);

/*
 * Puts f into the next free slot, its BARs into the window (a guest that assigns
 * none finds them there) and its vectors' eventfds into KVM. Its device ops' read
 * and write are not used (bar_ops' are); save/load call vm_pci_save() and
 * vm_pci_check()/vm_pci_load() for the common part and reset calls
 * vm_pci_function_reset(). -ENOSPC: no slot or no room in the window. On failure
 * f is the caller's still.
 */
int vm_pci_add(struct vm *vm, struct vm_pci_function *f);

/*
 * Raises a vector, or keeps it pending while it is masked. Any thread, no locks
 * held but possibly a device lock. A vector that the function does not have
 * (VIRTIO_NO_VECTOR) is ignored.
 */
void vm_pci_msix_raise(struct vm_pci_function *f, unsigned int vector);

/*
 * Common part of a function's state: embed and list with VM_PCI_FIELDS. Arrays of
 * numbers are little-endian bytes there.
 */
struct vm_pci_state {
	uint8_t config[VM_PCI_CONFIG_BYTES];
	uint64_t msix_address[VM_PCI_MSIX_MAX];
	uint32_t msix_data[VM_PCI_MSIX_MAX];
	uint32_t msix_control[VM_PCI_MSIX_MAX];
	uint8_t msix_pending[VM_PCI_MSIX_MAX];
};

/*
 * To be listed in the field table of a device whose state struct starts with a
 * struct vm_pci_state. Ids 1 to 5 are taken by these.
 */
#define VM_PCI_FIELDS                                                          \
	VM_FIELD(1, VM_FIELD_BYTES, struct vm_pci_state, config),              \
		VM_FIELD(2, VM_FIELD_BYTES, struct vm_pci_state,               \
			 msix_address),                                        \
		VM_FIELD(3, VM_FIELD_BYTES, struct vm_pci_state, msix_data),   \
		VM_FIELD(4, VM_FIELD_BYTES, struct vm_pci_state,               \
			 msix_control),                                        \
		VM_FIELD(5, VM_FIELD_BYTES, struct vm_pci_state, msix_pending)

/* All with the device lock held, all vCPUs parked. */
void vm_pci_function_reset(struct vm_pci_function *f);
void vm_pci_save(struct vm_pci_function *f, struct vm_pci_state *s);
/* -EINVAL unless a guest could have brought f from power-on to s. */
int vm_pci_check(const struct vm_pci_function *f, const struct vm_pci_state *s);
/* Of a state that was checked. Pending vectors that may be raised are. */
void vm_pci_load(struct vm_pci_function *f, const struct vm_pci_state *s);

#endif
