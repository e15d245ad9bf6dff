/*
 * The ACPI tables as a guest walks them: from the RSDP where the boot data says
 * it is, every address followed, every sum checked.
 */
#include "boot_fixture.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "vmm/acpi.h"
#include "vmm/pci.h"

#define BIOS_GPA UINT64_C(0xe0000)
#define BIOS_END UINT64_C(0x100000)

struct table {
	uint8_t data[4096];
	uint32_t bytes;
};

static uint64_t number(const uint8_t *p, size_t bytes)
{
	uint64_t value = 0;

	while (bytes-- > 0)
		value = value << 8 | p[bytes];
	return value;
}

static uint64_t field(const struct table *t, size_t offset, size_t bytes)
{
	assert_true(offset + bytes <= t->bytes);
	return number(t->data + offset, bytes);
}

static uint8_t byte_sum(const uint8_t *p, size_t bytes)
{
	uint8_t sum = 0;

	while (bytes-- > 0)
		sum += *p++;
	return sum;
}

/* Inside what the memory map calls reserved, whole, and its sum is right. */
static void read_table(struct machine *m, uint64_t gpa, const char *signature,
		       struct table *ret)
{
	uint8_t head[8];

	assert_in_range(gpa, BIOS_GPA, BIOS_END - 36);
	read_ram(m, gpa, head, sizeof(head));
	assert_memory_equal(head, signature, 4);
	ret->bytes = (uint32_t)number(head + 4, 4);
	assert_in_range(ret->bytes, 36, sizeof(ret->data));
	assert_true(gpa + ret->bytes <= BIOS_END);
	read_ram(m, gpa, ret->data, ret->bytes);
	assert_int_equal(byte_sum(ret->data, ret->bytes), 0);
}

static void boot_with(struct machine *m, unsigned int nr_cpus)
{
	struct image im;

	build_bzimage(&im);
	machine_init(m, SMALL_RAM);
	m->vm.nr_cpus = nr_cpus;
	assert_int_equal(boot_image(m, &im, 0, ""), 0);
}

/* The XSDT, by way of the RSDP. */
static void read_xsdt(struct machine *m, struct table *ret)
{
	struct boot_params params;
	uint8_t rsdp[36];

	read_ram(m, m->regs.rsi, &params, sizeof(params));
	assert_int_equal(params.acpi_rsdp_addr % 16, 0);
	assert_in_range(params.acpi_rsdp_addr, BIOS_GPA, BIOS_END - 36);
	read_ram(m, params.acpi_rsdp_addr, rsdp, sizeof(rsdp));
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(rsdp[15], 2);
	assert_int_equal(number(rsdp + 20, 4), sizeof(rsdp));
	assert_int_equal(byte_sum(rsdp, 20), 0);
	assert_int_equal(byte_sum(rsdp, sizeof(rsdp)), 0);
	read_table(m, number(rsdp + 24, 8), "XSDT", ret);
}

/* The table of that name; there must be exactly one. */
static void find_table(struct machine *m, const char *signature,
		       struct table *ret)
{
	struct table xsdt;
	unsigned int nr = 0;
	uint8_t name[4];
	uint64_t gpa;

	read_xsdt(m, &xsdt);
	for (size_t at = 36; at < xsdt.bytes; at += 8) {
		gpa = field(&xsdt, at, 8);
		read_ram(m, gpa, name, sizeof(name));
		if (memcmp(name, signature, sizeof(name)) != 0)
			continue;
		read_table(m, gpa, signature, ret);
		nr++;
	}
	assert_int_equal(nr, 1);
}

/* A generic address structure: I/O space, width, nothing shifted, address. */
static void assert_gas(const struct table *t, size_t offset, unsigned int bits,
		       uint64_t port)
{
	assert_int_equal(field(t, offset, 1), 1);
	assert_int_equal(field(t, offset + 1, 1), bits);
	assert_int_equal(field(t, offset + 2, 1), 0);
	assert_int_equal(field(t, offset + 4, 8), port);
}

static void test_fadt_describes_platform_c(void **state)
{
	struct machine m;
	struct table t;

	(void)state;
	boot_with(&m, 1);
	find_table(&m, "FACP", &t);
	assert_int_equal(t.bytes, 276);
	assert_int_equal(field(&t, 8, 1), 6);
	assert_int_equal(field(&t, 46, 2), ACPI_SCI_GSI);
	assert_int_equal(field(&t, 48, 4), 0); /* no SMI command */
	assert_int_equal(field(&t, 56, 4), ACPI_PM1_PORT);
	assert_int_equal(field(&t, 64, 4), ACPI_PM1_PORT + 4);
	assert_int_equal(field(&t, 88, 1), 4);
	assert_int_equal(field(&t, 89, 1), 2);
	assert_gas(&t, 148, 32, ACPI_PM1_PORT);
	assert_gas(&t, 172, 16, ACPI_PM1_PORT + 4);
	assert_int_equal(field(&t, 91, 1), 0); /* no PM timer */
	assert_int_equal(field(&t, 76, 4), 0);
	/* COM1, but neither keyboard controller, VGA nor CMOS clock. */
	assert_int_equal(field(&t, 109, 2), 0x25);
	/* WBINVD, C1, no sleep button, no RTC alarm, a reset register. */
	assert_int_equal(field(&t, 112, 4), 0x465);
	assert_gas(&t, 116, 8, ACPI_RESET_PORT);
	assert_int_equal(field(&t, 128, 1), ACPI_RESET_VALUE);
	machine_fini(&m);
}

static void test_facs_is_where_it_must_be(void **state)
{
	struct machine m;
	struct table t;
	uint8_t facs[64];
	uint64_t gpa;

	(void)state;
	boot_with(&m, 1);
	find_table(&m, "FACP", &t);
	gpa = field(&t, 36, 4);
	assert_int_equal(field(&t, 132, 8), 0); /* in one of the places */
	assert_int_equal(gpa % 64, 0);
	assert_in_range(gpa, BIOS_GPA, BIOS_END - sizeof(facs));
	read_ram(&m, gpa, facs, sizeof(facs));
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(number(facs + 4, 4), sizeof(facs));
	machine_fini(&m);
}

/* Counts the entries and checks those of which there is one. */
static void check_madt(const struct table *t, unsigned int nr_cpus)
{
	static const uint8_t override[] = { 2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0 };
	static const uint8_t nmi[] = { 4, 6, 0xff, 0, 0, 1 };
	unsigned int nr[8] = { 0 };
	uint64_t type, bytes;

	assert_int_equal(field(t, 36, 4), 0xfee00000);
	assert_int_equal(field(t, 40, 4), 1);
	for (size_t at = 44; at < t->bytes; at += bytes) {
		const uint8_t *e = t->data + at;

		type = field(t, at, 1);
		bytes = field(t, at + 1, 1);
		assert_in_range(bytes, 2, t->bytes - at);
		assert_true(type < 8);
		switch (type) {
		case 0:
			assert_int_equal(e[2], nr[0]);
			assert_int_equal(e[3], nr[0]);
			assert_int_equal(number(e + 4, 4), 1);
			break;
		case 1:
			assert_int_equal(bytes, 12);
			assert_int_equal(number(e + 4, 4), 0xfec00000);
			assert_int_equal(number(e + 8, 4), 0);
			break;
		case 2:
			assert_memory_equal(e, override, sizeof(override));
			break;
		default:
			assert_memory_equal(e, nmi, sizeof(nmi));
			break;
		}
		nr[type]++;
	}
	assert_int_equal(nr[0], nr_cpus);
	assert_int_equal(nr[1] + nr[2] + nr[4], 3);
	assert_int_equal(nr[1] & nr[2] & nr[4], 1);
}

static void test_madt_lists_the_processors(void **state)
{
	struct machine m;
	struct table t;

	(void)state;
	for (unsigned int nr = 1; nr <= VM_CPUS_MAX; nr++) {
		boot_with(&m, nr);
		find_table(&m, "APIC", &t);
		check_madt(&t, nr);
		machine_fini(&m);
	}
}

static void read_dsdt(struct machine *m, struct table *ret)
{
	struct table fadt;

	find_table(m, "FACP", &fadt);
	assert_int_equal(field(&fadt, 40, 4), field(&fadt, 140, 8));
	read_table(m, field(&fadt, 140, 8), "DSDT", ret);
}

/* The offset of these bytes, which must be there once. */
static size_t find_bytes(const struct table *t, const void *bytes, size_t n)
{
	size_t at = 0;
	unsigned int nr = 0;

	for (size_t i = 36; i + n <= t->bytes; i++) {
		if (memcmp(t->data + i, bytes, n) != 0)
			continue;
		at = i;
		nr++;
	}
	assert_int_equal(nr, 1);
	return at;
}

static void test_dsdt_has_the_pci_window(void **state)
{
	/* DWord address space, 23 bytes follow, memory. */
	static const uint8_t memory[] = { 0x87, 23, 0, 0 };
	struct machine m;
	struct table t;
	size_t at;

	(void)state;
	boot_with(&m, 1);
	read_dsdt(&m, &t);
	at = find_bytes(&t, memory, sizeof(memory));
	assert_int_equal(field(&t, at + 10, 4), VM_PCI_MMIO_GPA);
	assert_int_equal(field(&t, at + 14, 4),
			 VM_PCI_MMIO_GPA + VM_PCI_MMIO_BYTES - 1);
	assert_int_equal(field(&t, at + 18, 4), 0);
	assert_int_equal(field(&t, at + 22, 4), VM_PCI_MMIO_BYTES);
	machine_fini(&m);
}

static void test_dsdt_has_soft_off_and_com1(void **state)
{
	/* Name (_S5, Package (4) { 5, 5, 0, 0 }); a fixed or a ranged port. */
	static const uint8_t s5[] = { 0x08, '_',  'S', '5',  '_', 0x12, 8,
				      4,    0x0a, 5,   0x0a, 5,   0,    0 };
	static const uint8_t com1[] = { 0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8 };
	static const uint8_t irq4[] = { 0x22, 0x10, 0 };
	struct machine m;
	struct table t;
	size_t at;

	(void)state;
	boot_with(&m, 1);
	read_dsdt(&m, &t);
	find_bytes(&t, s5, sizeof(s5));
	at = find_bytes(&t, com1, sizeof(com1));
	assert_int_equal(find_bytes(&t, irq4, sizeof(irq4)), at + sizeof(com1));
	machine_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fadt_describes_platform_c),
		cmocka_unit_test(test_facs_is_where_it_must_be),
		cmocka_unit_test(test_madt_lists_the_processors),
		cmocka_unit_test(test_dsdt_has_the_pci_window),
		cmocka_unit_test(test_dsdt_has_soft_off_and_com1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
