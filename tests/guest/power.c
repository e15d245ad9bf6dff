#include "power.h"

#include "cpu.h"
#include "machine.h"

#define ACPI_PM1_CONTROL 0x604 /* where QEMU's machines and vmmd have it */
#define ACPI_SLEEP_S5    0x2000
#define KEYBOARD_COMMAND 0x64
#define KEYBOARD_RESET   0xfe

/*
 * A machine without the port asked for ignores it, so each way falls through to
 * the next: whatever else happens, the guest stops here.
 */
void power_exit(enum power_exit how)
{
	if (how == POWER_OFF)
		outw(ACPI_PM1_CONTROL, ACPI_SLEEP_S5);
	if (how != POWER_TRIPLE_FAULT)
		outb(KEYBOARD_COMMAND, KEYBOARD_RESET);
	kernel_call(KERNEL_TRIPLE_FAULT);
	for (;;)
		cpu_relax();
}
