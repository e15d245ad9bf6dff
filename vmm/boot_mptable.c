/*
 * vmm/boot_mptable.c: the Intel MultiProcessor table (specification 1.4), the
 * plainest way to tell a kernel without ACPI which processors there are and how
 * ISA interrupts reach the I/O APIC. Without it, or built without
 * CONFIG_X86_MPPARSE, Linux runs on one processor.
 *
 * Kernels scan 0xf0000 to 0xfffff for it; the memory map calls that reserved.
 */
#include "vmm/boot_internal.h"

#include <string.h>

#define MP_SPEC_1_4    4
#define LAPIC_GPA      0xfee00000
#define LAPIC_VERSION  0x14 /* integrated, as KVM's */
#define IOAPIC_VERSION 0x11
#define CPU_ENABLED    0x01
#define CPU_BOOT       0x02
#define CPU_FEATURES   0x201 /* FPU, APIC */
#define ISA_IRQS       16
#define ISA_CASCADE    2
#define ISA_BUS        0
#define ALL_APICS      0xff

enum mp_entry { MP_CPU, MP_BUS, MP_IOAPIC, MP_IRQ, MP_LOCAL_IRQ };
enum mp_irq { MP_IRQ_INT, MP_IRQ_NMI, MP_IRQ_SMI, MP_IRQ_EXTINT };

struct mp_pointer {
	char signature[4];
	uint32_t table_gpa;
	uint8_t paragraphs, spec, checksum, features[5];
};

struct mp_header {
	char signature[4];
	uint16_t bytes;
	uint8_t spec, checksum;
	char oem[8], product[12];
	uint32_t oem_table;
	uint16_t oem_bytes, nr_entries;
	uint32_t lapic_gpa;
	uint32_t reserved;
};

struct mp_cpu {
	uint8_t type, apic_id, apic_version, flags;
	uint32_t signature, features, reserved[2];
};

struct mp_bus {
	uint8_t type, id;
	char name[6];
};

struct mp_ioapic {
	uint8_t type, id, version, flags;
	uint32_t gpa;
};

struct mp_irq_entry {
	uint8_t type, kind;
	uint16_t flags; /* 0: as the bus has it */
	uint8_t bus, irq, apic_id, pin;
};

struct mp_tables {
	struct mp_pointer pointer;
	struct mp_header header;
	uint8_t entries[2048];
	size_t bytes; /* of entries in use; not for the guest */
};

_Static_assert(sizeof(struct mp_pointer) == 16, "the specification's");
_Static_assert(sizeof(struct mp_header) == 44, "the specification's");
_Static_assert(sizeof(struct mp_cpu) == 20, "the specification's");
_Static_assert(sizeof(struct mp_irq_entry) == 8, "the specification's");
_Static_assert(VM_CPUS_MAX * sizeof(struct mp_cpu) + (ISA_IRQS + 4) * 8 <=
		       sizeof(((struct mp_tables *)0)->entries),
	       "room for all");
_Static_assert(offsetof(struct mp_tables, bytes) <=
		       BOOT_MPTABLE_END - BOOT_MPTABLE_GPA,
	       "fits its place");

static void add(struct mp_tables *t, const void *entry, size_t bytes)
{
	memcpy(t->entries + t->bytes, entry, bytes);
	t->bytes += bytes;
	t->header.nr_entries++;
}

static void add_irq(struct mp_tables *t, enum mp_entry type, enum mp_irq kind,
		    uint8_t irq, uint8_t apic_id, uint8_t pin)
{
	const struct mp_irq_entry e = {
		.type = (uint8_t)type,
		.kind = (uint8_t)kind,
		.bus = ISA_BUS,
		.irq = irq,
		.apic_id = apic_id,
		.pin = pin,
	};

	add(t, &e, sizeof(e));
}

static void add_entries(struct mp_tables *t, unsigned int nr_cpus)
{
	const struct mp_bus isa = { MP_BUS, ISA_BUS, "ISA   " };
	const struct mp_ioapic ioapic = {
		.type = MP_IOAPIC,
		.id = (uint8_t)nr_cpus, /* the first free */
		.version = IOAPIC_VERSION,
		.flags = 1,
		.gpa = (uint32_t)BOOT_IOAPIC_GPA,
	};
	struct mp_cpu cpu = { .type = MP_CPU,
			      .apic_version = LAPIC_VERSION,
			      .features = CPU_FEATURES };

	for (unsigned int i = 0; i < nr_cpus; i++) {
		cpu.apic_id = (uint8_t)i;
		cpu.flags = i == 0 ? CPU_ENABLED | CPU_BOOT : CPU_ENABLED;
		add(t, &cpu, sizeof(cpu));
	}
	add(t, &isa, sizeof(isa));
	add(t, &ioapic, sizeof(ioapic));
	/* KVM routes GSI n to pin n, the timer's 0 included. */
	for (uint8_t irq = 0; irq < ISA_IRQS; irq++) {
		if (irq != ISA_CASCADE)
			add_irq(t, MP_IRQ, MP_IRQ_INT, irq, ioapic.id, irq);
	}
	add_irq(t, MP_LOCAL_IRQ, MP_IRQ_EXTINT, 0, 0, 0);
	add_irq(t, MP_LOCAL_IRQ, MP_IRQ_NMI, 0, ALL_APICS, 1);
}

/* What makes the sum of all bytes 0. */
static uint8_t checksum(const void *data, size_t bytes)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (bytes-- > 0)
		sum += *p++;
	return (uint8_t)-sum;
}

int boot_put_mptable(struct boot_ctx *c)
{
	struct mp_tables t = {
		.pointer = {
			.signature = { '_', 'M', 'P', '_' },
			.table_gpa = (uint32_t)BOOT_MPTABLE_GPA +
				     offsetof(struct mp_tables, header),
			.paragraphs = 1,
			.spec = MP_SPEC_1_4,
		},
		.header = {
			.signature = { 'P', 'C', 'M', 'P' },
			.spec = MP_SPEC_1_4,
			.oem = "VMMD    ",
			.product = "VMMD        ",
			.lapic_gpa = LAPIC_GPA,
		},
	};

	add_entries(&t, vm_nr_cpus(c->vm));
	t.header.bytes = (uint16_t)(sizeof(t.header) + t.bytes);
	t.header.checksum = checksum(&t.header, t.header.bytes);
	t.pointer.checksum = checksum(&t.pointer, sizeof(t.pointer));
	return boot_write(c, BOOT_MPTABLE_GPA, &t,
			  sizeof(t.pointer) + t.header.bytes);
}
