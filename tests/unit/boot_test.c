/*
 * What vm_boot() makes of good kernels: where everything goes, what the guest is
 * told, and the CPU it starts on.
 */
#include "boot_fixture.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The initrd is there, whole. */
static void assert_initrd(struct machine *m, uint64_t gpa, uint64_t bytes)
{
	uint8_t *want = malloc(bytes);

	assert_non_null(want);
	memset(want, 0xa5, bytes);
	assert_int_equal(gpa % VM_PAGE_BYTES, 0);
	assert_ram(m, gpa, want, bytes);
	free(want);
}

struct start_info { /* Xen's, version 1 */
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};

struct memmap_entry {
	uint64_t gpa, bytes;
	uint32_t type, reserved;
};

/* Entries in order, apart, RAM ones within RAM, and together all but 384 KiB
 * below 1 MiB. */
static void assert_map(uint64_t ram_bytes, const struct memmap_entry *e,
		       size_t nr)
{
	uint64_t end = 0, ram = 0;

	for (size_t i = 0; i < nr; i++) {
		assert_true(e[i].gpa >= end);
		assert_true(e[i].bytes > 0);
		end = e[i].gpa + e[i].bytes;
		assert_true(e[i].type == 1 || e[i].type == 2);
		if (e[i].type != 1)
			continue;
		ram += e[i].bytes;
		assert_true(end <= 3 * GIB || e[i].gpa >= 4 * GIB);
	}
	assert_int_equal(ram, ram_bytes - (MIB - 0x9fc00));
	if (ram_bytes > 3 * GIB) {
		assert_int_equal(e[nr - 1].gpa, 4 * GIB);
		assert_int_equal(e[nr - 1].bytes, ram_bytes - 3 * GIB);
	}
}

static const uint64_t ram_sizes[] = { SMALL_RAM, 1 * GIB, 3 * GIB,
				      3 * GIB + 4 * KIB, 6 * GIB };
#define NR_SIZES (sizeof(ram_sizes) / sizeof(ram_sizes[0]))

static void assert_pvh_cpu(const struct machine *m)
{
	assert_int_equal(m->nr_entries, 1);
	assert_int_equal(m->regs.rip, ELF_ENTRY);
	assert_int_equal(m->regs.rflags, 2);
	assert_int_equal(m->sregs.cr0, 0x11);
	assert_int_equal(m->sregs.cr4, 0);
	assert_int_equal(m->sregs.efer, 0);
	assert_int_equal(m->sregs.cs.base, 0);
	assert_int_equal(m->sregs.cs.limit, UINT32_MAX);
	assert_int_equal(m->sregs.cs.db, 1);
	assert_int_equal(m->sregs.cs.l, 0);
	assert_int_equal(m->sregs.ss.limit, UINT32_MAX);
	assert_int_equal(m->sregs.tr.limit, 0x67);
}

static void check_pvh(const struct image *im, uint64_t ram_bytes)
{
	struct machine m;
	struct start_info info;
	struct memmap_entry map[16];
	uint64_t module[4];
	uint8_t zeros[ELF_MEM_BYTES - ELF_CODE_BYTES] = { 0 };
	uint64_t low_end = ram_bytes < 3 * GIB ? ram_bytes : 3 * GIB;

	machine_init(&m, ram_bytes);
	assert_int_equal(boot_image(&m, im, 3 * MIB + 5, "work=fill"), 0);
	assert_null(m.err);
	assert_pvh_cpu(&m);
	read_ram(&m, m.regs.rbx, &info, sizeof(info));
	assert_int_equal(info.magic, 0x336ec578);
	assert_int_equal(info.version, 1);
	assert_int_equal(info.rsdp, 0xe0000);
	assert_ram(&m, info.cmdline, "work=fill", sizeof("work=fill"));
	assert_true(info.memmap_entries <= 16);
	read_ram(&m, info.memmap, map, info.memmap_entries * sizeof(map[0]));
	assert_map(ram_bytes, map, info.memmap_entries);
	assert_int_equal(info.nr_modules, 1);
	read_ram(&m, info.modlist, module, sizeof(module));
	assert_int_equal(module[1], 3 * MIB + 5);
	assert_true(module[0] + module[1] <= low_end);
	assert_true(module[0] + module[1] + VM_PAGE_BYTES > low_end);
	assert_initrd(&m, module[0], module[1]);
	assert_ram(&m, ELF_LOAD_GPA, im->data + ELF_CODE_OFFSET,
		   ELF_CODE_BYTES);
	assert_ram(&m, ELF_LOAD_GPA + ELF_CODE_BYTES, zeros, sizeof(zeros));
	machine_fini(&m);
}

static void test_pvh_in_every_ram_size(void **state)
{
	struct image im;

	(void)state;
	for (size_t i = 0; i < NR_SIZES; i++) {
		build_elf64(&im);
		check_pvh(&im, ram_sizes[i]);
	}
}

static void test_pvh_elf32_and_long_note(void **state)
{
	struct image im;

	(void)state;
	build_elf32(&im);
	check_pvh(&im, SMALL_RAM);
	build_elf64(&im);
	put_pvh_note(&im, ELF_ENTRY, 8);
	phdr(&im, 1)->p_filesz += 4;
	check_pvh(&im, SMALL_RAM);
}

/* Linux has others before it, of odd lengths. */
static void test_pvh_note_behind_others(void **state)
{
	struct image im;
	Elf64_Nhdr *n = note(&im);
	uint64_t entry = ELF_ENTRY;

	(void)state;
	build_elf64(&im);
	*n = (Elf64_Nhdr){ 6, 3, 6 };
	memcpy(n + 1, "Linux\0\0\0abc", 12);
	n = (Elf64_Nhdr *)((uint8_t *)(n + 1) + 12);
	*n = (Elf64_Nhdr){ 4, 8, 18 };
	memcpy(n + 1, "Xen", 4);
	memcpy((uint8_t *)(n + 1) + 4, &entry, 8);
	phdr(&im, 1)->p_filesz = 12 + 12 + 12 + 12;
	check_pvh(&im, SMALL_RAM);
}

static void assert_long_mode(struct machine *m, uint64_t rip)
{
	uint64_t table[512], next;

	assert_int_equal(m->nr_entries, 1);
	assert_int_equal(m->regs.rip, rip);
	assert_int_equal(m->regs.rflags, 2);
	assert_int_equal(m->sregs.cr0, 0x80000011);
	assert_int_equal(m->sregs.cr4, 0x20);
	assert_int_equal(m->sregs.efer, 0x500);
	assert_int_equal(m->sregs.cs.selector, 0x10);
	assert_int_equal(m->sregs.cs.l, 1);
	assert_int_equal(m->sregs.cs.db, 0);
	assert_int_equal(m->sregs.ds.selector, 0x18);
	assert_int_equal(m->sregs.ss.selector, 0x18);
	read_ram(m, m->sregs.gdt.base, table, m->sregs.gdt.limit + 1u);
	assert_int_equal(table[2], 0x00af9b000000ffff);
	assert_int_equal(table[3], 0x00cf93000000ffff);
	/* The last 2 MiB below 4 GiB are mapped to themselves. */
	read_ram(m, m->sregs.cr3, table, sizeof(table));
	assert_int_equal(table[1], 0);
	next = table[0] & ~UINT64_C(0xfff);
	read_ram(m, next, table, sizeof(table));
	assert_int_equal(table[4], 0);
	next = table[3] & ~UINT64_C(0xfff);
	read_ram(m, next, table, sizeof(table));
	assert_int_equal(table[511], 4 * GIB - 2 * MIB + 0x83);
}

static void read_zero_page(struct machine *m, uint64_t ram_bytes,
			   const char *cmdline, struct boot_params *ret)
{
	struct memmap_entry map[16];

	read_ram(m, m->regs.rsi, ret, sizeof(*ret));
	assert_int_equal(ret->hdr.header, 0x53726448);
	assert_int_equal(ret->hdr.boot_flag, 0xaa55);
	assert_int_equal(ret->hdr.type_of_loader, 0xff);
	assert_true(ret->hdr.loadflags & LOADED_HIGH);
	assert_true(ret->hdr.loadflags & CAN_USE_HEAP);
	assert_int_equal(ret->sentinel, 0);
	assert_int_equal(ret->acpi_rsdp_addr, 0xe0000);
	assert_int_equal(ret->screen_info.orig_x, 0);
	assert_ram(m, ret->hdr.cmd_line_ptr, cmdline, strlen(cmdline) + 1);
	assert_true(ret->e820_entries <= 16);
	for (size_t i = 0; i < ret->e820_entries; i++)
		map[i] = (struct memmap_entry){ ret->e820_table[i].addr,
						ret->e820_table[i].size,
						ret->e820_table[i].type, 0 };
	assert_map(ram_bytes, map, ret->e820_entries);
}

static uint64_t zero_page_initrd(const struct boot_params *p)
{
	return (uint64_t)p->ext_ramdisk_image << 32 | p->hdr.ramdisk_image;
}

static void check_vmlinux(const struct image *im, uint64_t ram_bytes)
{
	struct boot_params params;
	struct machine m;

	machine_init(&m, ram_bytes);
	assert_int_equal(boot_image(&m, im, 5000, "quiet"), 0);
	assert_long_mode(&m, ELF_ENTRY);
	read_zero_page(&m, ram_bytes, "quiet", &params);
	assert_int_equal(params.hdr.ramdisk_size, 5000);
	assert_initrd(&m, zero_page_initrd(&params), 5000);
	assert_ram(&m, ELF_LOAD_GPA, im->data + ELF_CODE_OFFSET,
		   ELF_CODE_BYTES);
	machine_fini(&m);
}

static void test_vmlinux_by_physical_and_virtual_entry(void **state)
{
	struct image im;

	(void)state;
	for (size_t i = 0; i < NR_SIZES; i++) {
		build_vmlinux(&im);
		check_vmlinux(&im, ram_sizes[i]);
		ehdr(&im)->e_entry += LINUX_MAP_VADDR;
		check_vmlinux(&im, ram_sizes[i]);
	}
}

/* Boots im and returns where the initrd went. */
static uint64_t check_bzimage(const struct image *im, uint64_t ram_bytes,
			      uint64_t initrd_bytes)
{
	struct boot_params params;
	struct machine m;
	uint64_t initrd;

	machine_init(&m, ram_bytes);
	assert_int_equal(boot_image(&m, im, initrd_bytes, "console=ttyS0"), 0);
	assert_long_mode(&m, BZ_PREF_GPA + 0x200);
	read_zero_page(&m, ram_bytes, "console=ttyS0", &params);
	assert_int_equal(params.hdr.version, 0x020f);
	assert_int_equal(params.hdr.ramdisk_size, initrd_bytes);
	assert_int_equal(params.ext_ramdisk_size, 0);
	initrd = zero_page_initrd(&params);
	assert_initrd(&m, initrd, initrd_bytes);
	assert_true(initrd >= BZ_PREF_GPA + params.hdr.init_size);
	assert_ram(&m, BZ_PREF_GPA, im->data + BZ_CODE_OFFSET, BZ_CODE_BYTES);
	machine_fini(&m);
	return initrd;
}

static void test_bzimage_in_every_ram_size(void **state)
{
	struct image im;
	uint64_t end;

	(void)state;
	build_bzimage(&im);
	for (size_t i = 0; i < NR_SIZES; i++) {
		/* As high as RAM and initrd_addr_max allow. */
		end = ram_sizes[i] < 2 * GIB ? ram_sizes[i] : 2 * GIB;
		assert_int_equal(check_bzimage(&im, ram_sizes[i], 3 * MIB),
				 end - 3 * MIB);
	}
}

/* Past initrd_addr_max only for a kernel that says it can reach it. */
static void test_initrd_goes_high_only_when_allowed(void **state)
{
	struct image im;
	struct machine m;

	(void)state;
	build_bzimage(&im);
	setup(&im)->init_size = (uint32_t)(2 * GIB);
	assert_int_equal(check_bzimage(&im, 5 * GIB, 4 * MIB),
			 3 * GIB - 4 * MIB);
	setup(&im)->init_size = (uint32_t)(3 * GIB - 18 * MIB);
	assert_int_equal(check_bzimage(&im, 5 * GIB, 4 * MIB),
			 6 * GIB - 4 * MIB);

	setup(&im)->xloadflags = XLF_KERNEL_64;
	machine_init(&m, 5 * GIB);
	assert_int_equal(boot_image(&m, &im, 4 * MIB, ""), -ENOSPC);
	assert_non_null(strstr(m.err, "initrd"));
	assert_int_equal(resident_pages(&m), 0);
	machine_fini(&m);
}

static void test_cmdline_limits(void **state)
{
	char cmdline[VM_CMDLINE_BYTES_MAX + 1];
	struct image im;
	struct machine m;

	(void)state;
	machine_init(&m, SMALL_RAM);
	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[VM_CMDLINE_BYTES_MAX] = 0;
	build_elf64(&im);
	assert_int_equal(boot_image(&m, &im, 0, cmdline), -E2BIG);
	assert_non_null(strstr(m.err, "command line"));
	cmdline[VM_CMDLINE_BYTES_MAX - 1] = 0;
	assert_int_equal(boot_image(&m, &im, 0, cmdline), 0);
	build_bzimage(&im);
	setup(&im)->cmdline_size = 255;
	assert_int_equal(boot_image(&m, &im, 0, cmdline), -E2BIG);
	cmdline[255] = 0;
	assert_int_equal(boot_image(&m, &im, 0, cmdline), 0);
	assert_int_equal(boot_image(&m, &im, 0, NULL), 0);
	machine_fini(&m);
}

static void test_reboot_starts_from_zeros(void **state)
{
	struct image im;
	struct machine m;
	struct vm_boot boot = { .initrd_fd = -1, .cmdline = "again" };
	uint8_t zero = 0;

	(void)state;
	build_elf64(&im);
	machine_init(&m, SMALL_RAM);
	boot.kernel_fd = file_of(im.data, im.bytes);
	assert_int_equal(vm_boot(&m.vm, &boot, &m.err), 0);
	assert_int_equal(vm_mem_write(m.vm.mem, 8 * MIB, "dirt", 4), 0);
	assert_int_equal(vm_mem_write(m.vm.mem, ELF_LOAD_GPA, "dirt", 4), 0);
	assert_int_equal(vm_reboot(&m.vm, &boot, &m.err), 0);
	assert_ram(&m, 8 * MIB, &zero, 1);
	assert_ram(&m, ELF_LOAD_GPA, im.data + ELF_CODE_OFFSET, 4);
	assert_int_equal(m.regs.rip, ELF_ENTRY);
	close(boot.kernel_fd);
	machine_fini(&m);
}

/* An initrd as large as RAM, on either side of fitting. */
static void test_initrd_too_large(void **state)
{
	struct image im;
	struct machine m;
	uint64_t room = SMALL_RAM - ELF_LOAD_GPA - ELF_MEM_BYTES;

	(void)state;
	build_elf64(&im);
	machine_init(&m, SMALL_RAM);
	assert_int_equal(boot_image(&m, &im, room + 1, ""), -ENOSPC);
	assert_non_null(strstr(m.err, "initrd"));
	assert_refused(&m, -ENOSPC);
	assert_int_equal(boot_image(&m, &im, room, ""), 0);
	machine_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvh_in_every_ram_size),
		cmocka_unit_test(test_pvh_elf32_and_long_note),
		cmocka_unit_test(test_pvh_note_behind_others),
		cmocka_unit_test(test_vmlinux_by_physical_and_virtual_entry),
		cmocka_unit_test(test_bzimage_in_every_ram_size),
		cmocka_unit_test(test_initrd_goes_high_only_when_allowed),
		cmocka_unit_test(test_cmdline_limits),
		cmocka_unit_test(test_reboot_starts_from_zeros),
		cmocka_unit_test(test_initrd_too_large),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
