/*
 * pci.h: the functions of bus 0, by configuration mechanism 1 (PCI Local Bus 3.0
 * section 3.2.2.3.2). The first vCPU, at CPL 3.
 */
#ifndef GUEST_PCI_H
#define GUEST_PCI_H

#include <stdbool.h>
#include <stdint.h>

#define PCI_SLOTS 32

/* 32 bits; offset is a multiple of 4. */
uint32_t pci_read(uint32_t slot, uint32_t offset);
void pci_write(uint32_t slot, uint32_t offset, uint32_t value);
uint8_t pci_read8(uint32_t slot, uint32_t offset);

/* The first function with these ids; -1: none. */
int pci_find(uint16_t vendor, uint16_t device);
/* Lets it answer in memory space and read and write memory itself. */
void pci_enable(uint32_t slot);
/*
 * Where a memory BAR is; placed first where no firmware did it. 0: not a memory
 * BAR, or above 4 GiB.
 */
uint64_t pci_bar_gpa(uint32_t slot, uint32_t bar);
/*
 * The next capability with this id behind offset `after` (0: the first), 0 at
 * the end.
 */
uint32_t pci_find_cap(uint32_t slot, uint8_t id, uint32_t after);

#endif
