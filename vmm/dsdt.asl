/*
 * vmm/dsdt.asl: the devices of the machine that no bus would find, and how it is
 * switched off. iasl turns it into bytes, boot_acpi.c into guest memory.
 *
 * The numbers are those of platform.c (\_S5), serial.c (COM1) and the PCI host
 * bridge, whose window is VM_PCI_MMIO_GPA and VM_PCI_MMIO_BYTES of pci.h;
 * tests/unit/boot_acpi_test.c compares. Names and resources: ACPI 6.3, chapters
 * 6, 7.4.2 and 9, and for PCI host bridges the PCI Firmware Specification 3.3,
 * chapter 4.
 */
DefinitionBlock ("", "DSDT", 2, "VMMD", "VMMD", 1)
{
    /* What SLP_TYPa and SLP_TYPb are to be for "soft off". */
    Name (\_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        /*
         * Conventional PCI with configuration mechanism 1. There is no MCFG:
         * nothing behind this bridge has extended configuration space, so
         * memory mapped access would only be a second way to do the same.
         */
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)

            /* All devices signal by MSI-X; none has an interrupt pin. */
            Name (_PRT, Package () { })

            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0, 0, 0, 1)
                IO (Decode16, 0x0cf8, 0x0cf8, 1, 8)
                /* What lies below belongs to the machine's own chips. */
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    EntireRange, 0, 0x1000, 0xffff, 0, 0xf000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed,
                    NonCacheable, ReadWrite,
                    0, 0xd0000000, 0xefffffff, 0, 0x20000000)
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03f8, 0x03f8, 1, 8)
                IRQNoFlags () { 4 }
            })
        }
    }
}
