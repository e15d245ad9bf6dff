/*
 * vmm/boot_acpi.c: the ACPI tables: which processors there are, how interrupts
 * reach them, the registers that platform.c plays, and dsdt.asl.
 *
 * Layouts and values are ACPI 6.3's, chapter 5.2. All of it is one block in the
 * BIOS's place below 1 MiB, the RSDP first: guests are told where it is and also
 * find it by scanning (5.2.5.1). The memory map calls that reserved, as on PCs
 * whose firmware keeps tables there.
 *
 * What is not there, and why:
 *	PM timer	optional (4.8.3.3); kvmclock and the TSC are better, and each
 *			reading of it would be an exit
 *	SMI command	no firmware to take the hardware over from: SCI_EN is
 *			always set (4.8.3.2.1)
 *	the CMOS clock	Linux would set its time from it, to the second, and so
 *			spoil what it has from kvmclock, to the microsecond
 *	IRQ 0 to GSI 2	KVM's default routing has the timer at pin 0 of the I/O
 *			APIC, where identity puts it
 */
#include "vmm/boot_internal.h"

#include <string.h>

#include "vmm/acpi.h"
#include "vmm/dsdt.hex" /* dsdt_aml_code[], by iasl from dsdt.asl */

#define LAPIC_GPA 0xfee00000

#define GAS_IO   1
#define GAS_BYTE 1
#define GAS_WORD 2

/* FADT: 5.2.9, its flags, and the IA-PC boot architecture flags of 5.2.9.3. */
#define FADT_REVISION       6
#define FADT_MINOR_REVISION 3
#define FADT_WBINVD         (1u << 0)
#define FADT_PROC_C1        (1u << 2)
#define FADT_SLP_BUTTON     (1u << 5) /* none among the fixed registers */
#define FADT_FIX_RTC        (1u << 6) /* nor an RTC alarm that wakes */
#define FADT_RESET_REG_SUP  (1u << 10)
#define FADT_NO_C2_LATENCY  101
#define FADT_NO_C3_LATENCY  1001
#define BOOT_LEGACY_DEVICES (1u << 0) /* COM1; no 8042: bit 1 is clear */
#define BOOT_NO_VGA         (1u << 2)
#define BOOT_NO_CMOS_RTC    (1u << 5)
#define CMOS_CENTURY        0x32 /* where, for those who look all the same */

/* MADT: 5.2.12. */
#define MADT_REVISION      5
#define MADT_PCAT_COMPAT   1 /* two 8259s as well */
#define MADT_LAPIC         0
#define MADT_IOAPIC        1
#define MADT_OVERRIDE      2
#define MADT_LAPIC_NMI     4
#define MADT_CPU_ENABLED   1
#define MADT_HIGH_LEVEL    0x0d /* active high, level triggered */
#define MADT_ALL_CPUS      0xff
#define MADT_NMI_LINT      1
#define MADT_ENTRIES_BYTES 768

#define RSDP_REVISION   2
#define RSDP_BYTES_V1   20
#define XSDT_REVISION   1
#define FACS_VERSION    2
#define CREATOR_BYTES   4
#define TABLES_REVISION 1

struct rsdp {
	char signature[8];
	uint8_t checksum; /* of the first RSDP_BYTES_V1 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt_gpa;
	uint32_t bytes;
	uint64_t xsdt_gpa;
	uint8_t checksum_all;
	uint8_t reserved[3];
} __attribute__((packed));

struct header {
	char signature[4];
	uint32_t bytes;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[CREATOR_BYTES];
	uint32_t creator_revision;
} __attribute__((packed));

/* An address of a register: 5.2.3.2. */
struct gas {
	uint8_t space, bits, bit_offset, access;
	uint64_t address;
} __attribute__((packed));

struct facs {
	char signature[4];
	uint32_t bytes;
	uint32_t hardware_signature, waking_vector, global_lock, flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
} __attribute__((packed));

struct fadt {
	struct header header;
	uint32_t facs_gpa, dsdt_gpa;
	uint8_t reserved, pm_profile;
	uint16_t sci;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt;
	uint32_t pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_bytes, pm1_cnt_bytes, pm2_cnt_bytes, pm_tmr_bytes;
	uint8_t gpe0_bytes, gpe1_bytes, gpe1_base, cst_cnt;
	uint16_t c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_arch;
	uint8_t reserved_2;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_revision;
	uint64_t x_facs_gpa, x_dsdt_gpa;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt;
	struct gas x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
	struct gas sleep_control, sleep_status;
	uint64_t hypervisor;
} __attribute__((packed));

struct xsdt {
	struct header header;
	uint64_t tables_gpa[2];
} __attribute__((packed));

struct madt {
	struct header header;
	uint32_t lapic_gpa, flags;
	uint8_t entries[MADT_ENTRIES_BYTES];
} __attribute__((packed));

struct madt_lapic {
	uint8_t type, bytes, uid, apic_id;
	uint32_t flags;
} __attribute__((packed));

struct madt_ioapic {
	uint8_t type, bytes, id, reserved;
	uint32_t gpa, first_gsi;
} __attribute__((packed));

struct madt_override {
	uint8_t type, bytes, bus, irq;
	uint32_t gsi;
	uint16_t flags;
} __attribute__((packed));

struct madt_lapic_nmi {
	uint8_t type, bytes, uid;
	uint16_t flags;
	uint8_t lint;
} __attribute__((packed));

/* As it lies in guest memory from BOOT_ACPI_GPA on. */
struct tables {
	struct rsdp rsdp;
	_Alignas(
		64) struct facs facs; /* the one alignment that is prescribed */
	_Alignas(16) struct xsdt xsdt;
	_Alignas(16) struct fadt fadt;
	_Alignas(16) struct madt madt;
	_Alignas(16) uint8_t dsdt[sizeof(dsdt_aml_code)];
};

#define GPA_OF(_member) (BOOT_ACPI_GPA + offsetof(struct tables, _member))

_Static_assert(sizeof(struct rsdp) == 36, "5.2.5.3");
_Static_assert(sizeof(struct header) == 36, "5.2.6");
_Static_assert(sizeof(struct facs) == 64, "5.2.10");
_Static_assert(sizeof(struct fadt) == 276, "5.2.9");
_Static_assert(VM_CPUS_MAX * sizeof(struct madt_lapic) +
			       sizeof(struct madt_ioapic) +
			       sizeof(struct madt_override) +
			       sizeof(struct madt_lapic_nmi) <=
		       MADT_ENTRIES_BYTES,
	       "room for all");
_Static_assert(VM_CPUS_MAX < MADT_ALL_CPUS, "ids fit the short entries");
_Static_assert(sizeof(struct tables) <= BOOT_ACPI_END - BOOT_ACPI_GPA,
	       "fits its place");

/* What makes the sum of all bytes 0. */
static uint8_t checksum(const void *data, size_t bytes)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (bytes-- > 0)
		sum += *p++;
	return (uint8_t)-sum;
}

/* The last thing done to a table. */
static void seal(struct header *h, const char *signature, uint8_t revision,
		 size_t bytes)
{
	*h = (struct header){
		.bytes = (uint32_t)bytes,
		.revision = revision,
		.oem_id = "VMMD",
		.oem_table_id = "VMMD",
		.oem_revision = TABLES_REVISION,
		.creator_revision = TABLES_REVISION,
	};
	memcpy(h->signature, signature, sizeof(h->signature));
	memcpy(h->creator_id, "VMMD", CREATOR_BYTES);
	h->checksum = checksum(h, bytes);
}

static struct gas io_register(uint8_t bytes, uint8_t access, uint64_t port)
{
	return (struct gas){ .space = GAS_IO,
			     .bits = (uint8_t)(bytes * 8),
			     .access = access,
			     .address = port };
}

static void fill_fadt(struct fadt *f)
{
	*f = (struct fadt){
		/* Of the two places for the FACS only one may be filled. */
		.facs_gpa = (uint32_t)GPA_OF(facs),
		.dsdt_gpa = (uint32_t)GPA_OF(dsdt),
		.x_dsdt_gpa = GPA_OF(dsdt),
		.sci = ACPI_SCI_GSI,
		.pm1a_evt = ACPI_PM1_PORT,
		.pm1a_cnt = ACPI_PM1_PORT + ACPI_PM1_CNT_OFFSET,
		.pm1_evt_bytes = ACPI_PM1_EVT_BYTES,
		.pm1_cnt_bytes = ACPI_PM1_CNT_BYTES,
		.x_pm1a_evt = io_register(ACPI_PM1_EVT_BYTES, GAS_WORD,
					  ACPI_PM1_PORT),
		.x_pm1a_cnt = io_register(ACPI_PM1_CNT_BYTES, GAS_WORD,
					  ACPI_PM1_PORT + ACPI_PM1_CNT_OFFSET),
		.c2_latency = FADT_NO_C2_LATENCY,
		.c3_latency = FADT_NO_C3_LATENCY,
		.century = CMOS_CENTURY,
		.boot_arch = BOOT_LEGACY_DEVICES | BOOT_NO_VGA |
			     BOOT_NO_CMOS_RTC,
		.flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON |
			 FADT_FIX_RTC | FADT_RESET_REG_SUP,
		.reset_reg = io_register(1, GAS_BYTE, ACPI_RESET_PORT),
		.reset_value = ACPI_RESET_VALUE,
		.minor_revision = FADT_MINOR_REVISION,
	};
	seal(&f->header, "FACP", FADT_REVISION, sizeof(*f));
}

static uint8_t *add(uint8_t *at, const void *entry, size_t bytes)
{
	memcpy(at, entry, bytes);
	return at + bytes;
}

static void fill_madt(struct madt *m, unsigned int nr_cpus)
{
	struct madt_lapic cpu = { .type = MADT_LAPIC,
				  .bytes = sizeof(cpu),
				  .flags = MADT_CPU_ENABLED };
	const struct madt_ioapic ioapic = {
		.type = MADT_IOAPIC,
		.bytes = sizeof(ioapic),
		.gpa = (uint32_t)BOOT_IOAPIC_GPA,
	};
	/* ISA's default would be an edge. */
	const struct madt_override sci = {
		.type = MADT_OVERRIDE,
		.bytes = sizeof(sci),
		.irq = ACPI_SCI_GSI,
		.gsi = ACPI_SCI_GSI,
		.flags = MADT_HIGH_LEVEL,
	};
	const struct madt_lapic_nmi nmi = {
		.type = MADT_LAPIC_NMI,
		.bytes = sizeof(nmi),
		.uid = MADT_ALL_CPUS,
		.lint = MADT_NMI_LINT,
	};
	uint8_t *at = m->entries;

	m->lapic_gpa = LAPIC_GPA;
	m->flags = MADT_PCAT_COMPAT;
	for (unsigned int i = 0; i < nr_cpus; i++) {
		cpu.uid = cpu.apic_id = (uint8_t)i;
		at = add(at, &cpu, sizeof(cpu));
	}
	at = add(at, &ioapic, sizeof(ioapic));
	at = add(at, &sci, sizeof(sci));
	at = add(at, &nmi, sizeof(nmi));
	seal(&m->header, "APIC", MADT_REVISION,
	     (size_t)(at - (const uint8_t *)m));
}

static void fill_rsdp(struct rsdp *r)
{
	*r = (struct rsdp){
		.oem_id = "VMMD",
		.revision = RSDP_REVISION,
		.bytes = sizeof(*r),
		.xsdt_gpa = GPA_OF(xsdt),
	};
	memcpy(r->signature, "RSD PTR ", sizeof(r->signature));
	r->checksum = checksum(r, RSDP_BYTES_V1);
	r->checksum_all = checksum(r, sizeof(*r));
}

int boot_put_acpi(struct boot_ctx *c)
{
	struct tables t = {
		.facs = {
			.signature = { 'F', 'A', 'C', 'S' },
			.bytes = sizeof(t.facs),
			.version = FACS_VERSION,
		},
		.xsdt.tables_gpa = { GPA_OF(fadt), GPA_OF(madt) },
	};

	fill_rsdp(&t.rsdp);
	seal(&t.xsdt.header, "XSDT", XSDT_REVISION, sizeof(t.xsdt));
	fill_fadt(&t.fadt);
	fill_madt(&t.madt, vm_nr_cpus(c->vm));
	memcpy(t.dsdt, dsdt_aml_code, sizeof(t.dsdt));
	return boot_write(c, BOOT_ACPI_GPA, &t, sizeof(t));
}
