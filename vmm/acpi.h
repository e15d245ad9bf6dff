/*
 * vmm/acpi.h: the ACPI fixed hardware, as platform.c plays it and as the FADT
 * that boot_acpi.c writes describes it. Private to vmm/.
 *
 * Bits and layouts are those of ACPI 6.3, section 4.8.3.
 */
#ifndef VMM_ACPI_H
#define VMM_ACPI_H

#define ACPI_PM1_PORT       0x600 /* PM1a event block, then control block */
#define ACPI_PM1_EVT_BYTES  4     /* status, enable */
#define ACPI_PM1_CNT_OFFSET 4
#define ACPI_PM1_CNT_BYTES  2
#define ACPI_PM1_PWRBTN     0x0100 /* of status and enable */
#define ACPI_SCI_GSI        9
#define ACPI_RESET_PORT     0xcf9
#define ACPI_RESET_VALUE    0x06

#endif
