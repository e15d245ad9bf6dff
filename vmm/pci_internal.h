/* vmm/pci_internal.h: what the files of the PCI core share. */
#ifndef VMM_PCI_INTERNAL_H
#define VMM_PCI_INTERNAL_H

#include "vmm/pci.h"

/* pci_function.c: the host bridge's lock and f's are held. */

/* bytes 1, 2 or 4, inside the configuration space. */
void pci_config_read(struct vm_pci_function *f, unsigned int offset,
		     uint8_t *data, unsigned int bytes);
void pci_config_write(struct vm_pci_function *f, unsigned int offset,
		      const uint8_t *data, unsigned int bytes);
/* Whether [gpa, gpa + bytes) lies in one of f's BARs. */
bool pci_find_bar(const struct vm_pci_function *f, uint64_t gpa,
		  unsigned int bytes, unsigned int *ret_bar,
		  uint64_t *ret_offset);
void pci_bar_read(struct vm_pci_function *f, unsigned int bar, uint64_t offset,
		  uint8_t *data, unsigned int bytes);
void pci_bar_write(struct vm_pci_function *f, unsigned int bar, uint64_t offset,
		   const uint8_t *data, unsigned int bytes);

/* pci_msix.c: takes msix.lock. */

void pci_msix_read(struct vm_pci_function *f, uint64_t offset, uint8_t *data,
		   unsigned int bytes);
void pci_msix_write(struct vm_pci_function *f, uint64_t offset,
		    const uint8_t *data, unsigned int bytes);
/* config[] has a new message control. */
void pci_msix_control(struct vm_pci_function *f);
/* The vectors' eventfds into KVM. */
int pci_msix_attach(struct vm *vm, struct vm_pci_function *f);
void pci_msix_reset(struct vm_pci_function *f);
void pci_msix_save(struct vm_pci_function *f, struct vm_pci_state *s);
int pci_msix_check(const struct vm_pci_function *f,
		   const struct vm_pci_state *s);
void pci_msix_load(struct vm_pci_function *f, const struct vm_pci_state *s);

#endif
