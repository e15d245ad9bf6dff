#include "pci.h"

#include "machine.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define CONFIG_ENABLE  0x80000000u

#define CONFIG_COMMAND 0x04
#define CONFIG_BAR0    0x10
#define CONFIG_CAPS    0x34

#define COMMAND_MEMORY 0x2
#define COMMAND_MASTER 0x4

#define BAR_IO      0x1u
#define BAR_64      0x4u
#define BAR_ADDRESS (~0xfu)
#define BARS_GPA    0xd0000000u /* free for them where there is no firmware */

#define CAPS_MAX 48 /* all that fit: a list that goes in a circle ends */

static uint64_t next_bar_gpa = BARS_GPA;

static void select(uint32_t slot, uint32_t offset)
{
	outl(CONFIG_ADDRESS, CONFIG_ENABLE | slot << 11 | (offset & 0xfc));
}

uint32_t pci_read(uint32_t slot, uint32_t offset)
{
	select(slot, offset);
	return inl(CONFIG_DATA);
}

void pci_write(uint32_t slot, uint32_t offset, uint32_t value)
{
	select(slot, offset);
	outl(CONFIG_DATA, value);
}

uint8_t pci_read8(uint32_t slot, uint32_t offset)
{
	return (uint8_t)(pci_read(slot, offset) >> 8 * (offset & 3));
}

int pci_find(uint16_t vendor, uint16_t device)
{
	for (uint32_t slot = 0; slot < PCI_SLOTS; slot++)
		if (pci_read(slot, 0) == ((uint32_t)device << 16 | vendor))
			return (int)slot;
	return -1;
}

void pci_enable(uint32_t slot)
{
	/* The upper half is status, whose bits are cleared by ones. */
	uint32_t command = pci_read(slot, CONFIG_COMMAND) & 0xffff;

	pci_write(slot, CONFIG_COMMAND,
		  command | COMMAND_MEMORY | COMMAND_MASTER);
}

static uint32_t place(uint32_t slot, uint32_t offset)
{
	uint64_t bytes;

	pci_write(slot, offset, BAR_ADDRESS);
	bytes = ~(pci_read(slot, offset) & BAR_ADDRESS) + 1;
	next_bar_gpa = (next_bar_gpa + bytes - 1) / bytes * bytes;
	pci_write(slot, offset, (uint32_t)next_bar_gpa);
	next_bar_gpa += bytes;
	return pci_read(slot, offset);
}

uint64_t pci_bar_gpa(uint32_t slot, uint32_t bar)
{
	uint32_t offset = CONFIG_BAR0 + 4 * bar;
	uint32_t low = pci_read(slot, offset);

	if (low & BAR_IO)
		return 0;
	if ((low & BAR_64) && pci_read(slot, offset + 4) != 0)
		return 0;
	if ((low & BAR_ADDRESS) == 0)
		low = place(slot, offset);
	return low & BAR_ADDRESS;
}

uint32_t pci_find_cap(uint32_t slot, uint8_t id, uint32_t after)
{
	uint32_t at = pci_read8(slot, after ? after + 1 : CONFIG_CAPS);

	for (int i = 0; i < CAPS_MAX && at; i++) {
		if (pci_read8(slot, at) == id)
			return at;
		at = pci_read8(slot, at + 1);
	}
	return 0;
}
