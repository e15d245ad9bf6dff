/*
 * pci_fixture.h: a machine without KVM but with a host bridge; what would reach
 * KVM (messages, irqfds, ioeventfds) is caught by --wrap=vm_ioctl and kept here.
 */
#ifndef TESTS_UNIT_PCI_FIXTURE_H
#define TESTS_UNIT_PCI_FIXTURE_H

#include "virtio_driver.h"

#define DOORBELLS_MAX 64

/* What KVM was told last. */
struct fake_kvm {
	struct {
		uint64_t gpa;
		int fd;
	} doorbells[DOORBELLS_MAX];
	unsigned int nr_doorbells;
	unsigned int nr_irqfds;
	unsigned int nr_tables; /* how often KVM_SET_GSI_ROUTING */
	struct kvm_irq_routing_entry routes[128];
	unsigned int nr_routes;
	unsigned int nr_errors; /* a doorbell taken away that was not there */
};
extern struct fake_kvm fake_kvm;

/* As vdrv_machine(), with a host bridge and a platform; forgets all of fake_kvm. */
struct vm *pci_machine(uint64_t ram_bytes);

uint32_t pci_in(struct vm *vm, uint16_t port, unsigned int bytes);
void pci_out(struct vm *vm, uint16_t port, unsigned int bytes, uint32_t value);
uint32_t pci_cfg_read(struct vm *vm, unsigned int slot, unsigned int reg,
		      unsigned int bytes);
void pci_cfg_write(struct vm *vm, unsigned int slot, unsigned int reg,
		   unsigned int bytes, uint32_t value);
uint64_t pci_mmio_read(struct vm *vm, uint64_t gpa, unsigned int bytes);
void pci_mmio_write(struct vm *vm, uint64_t gpa, unsigned int bytes,
		    uint64_t value);
/* The message of a GSI as KVM has it; NULL: none. */
const struct kvm_irq_routing_msi *pci_route(unsigned int gsi);
bool pci_has_doorbell(uint64_t gpa);

#endif
