/*
 * vmm/boot_linux.c: Linux by its 64-bit boot protocol: a bzImage's setup header,
 * the zero page, and a vCPU in long mode with memory mapped one to one.
 *
 * All of it is Linux's Documentation/arch/x86/boot.rst and zero-page.rst; the
 * structures are its uapi asm/bootparam.h.
 */
#include "vmm/boot_internal.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vmm/vm_internal.h"

#define SECTOR_BYTES         512
#define SETUP_SECTS_LEGACY   4 /* what setup_sects 0 stands for */
#define HEADER_OFFSET        offsetof(struct boot_params, hdr)
#define BOOT_FLAG            0xaa55
#define HDRS_MAGIC           0x53726448 /* "HdrS" */
#define PROTOCOL_XLOADFLAGS  0x020c     /* Linux 3.8 brought the 64-bit entry */
#define LOADER_UNDEFINED     0xff
#define HEAP_END_PTR         0xfe00
#define ENTRY_64_OFFSET      0x200
#define KERNEL_ALIGN_VMLINUX 0x1000000

#define SELECTOR_CS 0x10 /* __BOOT_CS */
#define SELECTOR_DS 0x18 /* __BOOT_DS */
#define SELECTOR_TR 0x20

#define PTE_TABLE      0x03 /* present, writable */
#define PDE_LARGE      0x83 /* ... 2 MiB */
#define LARGE_BYTES    (UINT64_C(2) << 20)
#define TABLE_ENTRIES  512
#define NR_DIRECTORIES 4 /* 1 GiB each: all below 4 GiB */
#define CR0_PG         (UINT64_C(1) << 31)
#define CR4_PAE        (UINT64_C(1) << 5)
#define EFER_LME       (UINT64_C(1) << 8)
#define EFER_LMA       (UINT64_C(1) << 10)

bool boot_is_bzimage(const struct boot_ctx *c)
{
	uint32_t magic;

	memcpy(&magic,
	       c->head + HEADER_OFFSET + offsetof(struct setup_header, header),
	       sizeof(magic));
	return magic == HDRS_MAGIC;
}

static int check_kind(struct boot_ctx *c, const struct setup_header *h)
{
	if (h->boot_flag != BOOT_FLAG)
		return boot_fail(
			c, -EINVAL,
			"kernel: bzImage with boot flag 0x%04x instead "
			"of 0x%04x; is it damaged?",
			h->boot_flag, BOOT_FLAG);
	if (!(h->loadflags & LOADED_HIGH))
		return boot_fail(c, -ENOEXEC,
				 "kernel: a zImage; build a bzImage");
	if (h->version < PROTOCOL_XLOADFLAGS)
		return boot_fail(
			c, -ENOEXEC,
			"kernel: bzImage of boot protocol %u.%02u; Linux "
			"3.8 or newer (protocol 2.12) is needed",
			h->version >> 8, h->version & 0xff);
	if (!(h->xloadflags & XLF_KERNEL_64))
		return boot_fail(c, -ENOEXEC,
				 "kernel: a 32-bit bzImage; give a 64-bit one");
	return 0;
}

static int check_place(struct boot_ctx *c, const struct setup_header *h,
		       uint64_t code_offset, uint64_t code_bytes)
{
	uint64_t low_end = boot_low_ram_end(c);

	if (code_offset > c->kernel.bytes ||
	    code_bytes > c->kernel.bytes - code_offset)
		return boot_fail(c, -EINVAL,
				 "kernel: the bzImage is cut off: %" PRIu64
				 " bytes of %" PRIu64,
				 c->kernel.bytes, code_offset + code_bytes);
	if (code_bytes <= ENTRY_64_OFFSET || h->init_size < code_bytes ||
	    h->pref_address < BOOT_HIMEM_GPA ||
	    h->pref_address % VM_PAGE_BYTES != 0)
		return boot_fail(c, -EINVAL,
				 "kernel: damaged bzImage: %" PRIu64
				 " bytes of code, 0x%x to run, at 0x%" PRIx64,
				 code_bytes, h->init_size,
				 (uint64_t)h->pref_address);
	if (h->pref_address > low_end ||
	    h->init_size > low_end - h->pref_address)
		return boot_fail(c, -ENOSPC,
				 "kernel: it needs 0x%x bytes at 0x%" PRIx64
				 ", but memory ends at 0x%" PRIx64
				 "; give the guest more",
				 h->init_size, (uint64_t)h->pref_address,
				 low_end);
	return 0;
}

/*
 * The setup header as the file has it, and no more of the file than that: the
 * bytes around it are not for the zero page. Its end is in its own jump
 * instruction; what is newer than our struct is no business of ours.
 */
static int take_header(struct boot_ctx *c, struct setup_header *ret_header)
{
	size_t end = offsetof(struct boot_params, hdr.header) +
		     c->head[offsetof(struct boot_params, hdr.jump) + 1];
	size_t bytes = sizeof(*ret_header);

	/* 2.12 goes up to handover_offset. */
	if (end < HEADER_OFFSET +
			    offsetof(struct setup_header, kernel_info_offset) ||
	    end > c->head_bytes)
		return boot_fail(
			c, -EINVAL,
			"kernel: the bzImage's setup header is damaged");
	if (end - HEADER_OFFSET < bytes)
		bytes = end - HEADER_OFFSET;
	memset(ret_header, 0, sizeof(*ret_header));
	memcpy(ret_header, c->head + HEADER_OFFSET, bytes);
	return 0;
}

static void fill_e820(const struct boot_ctx *c, struct boot_params *params)
{
	struct boot_region regions[BOOT_REGIONS_MAX];
	size_t n = boot_regions(c, regions), i;

	for (i = 0; i < n; i++) {
		params->e820_table[i].addr = regions[i].gpa;
		params->e820_table[i].size = regions[i].bytes;
		params->e820_table[i].type = regions[i].type;
	}
	params->e820_entries = (__u8)n;
}

/* Loader's fields of the zero page; params holds the kernel's own. */
static int put_zero_page(struct boot_ctx *c, struct boot_params *params)
{
	struct setup_header *h = &params->hdr;

	h->type_of_loader = LOADER_UNDEFINED;
	h->loadflags |= LOADED_HIGH | CAN_USE_HEAP;
	h->heap_end_ptr = HEAP_END_PTR;
	h->cmd_line_ptr = (__u32)BOOT_CMDLINE_GPA;
	params->acpi_rsdp_addr = BOOT_ACPI_GPA;
	if (c->initrd.fd >= 0) {
		h->ramdisk_image = (__u32)c->initrd_gpa;
		h->ramdisk_size = (__u32)c->initrd.bytes;
		params->ext_ramdisk_image = (__u32)(c->initrd_gpa >> 32);
		params->ext_ramdisk_size = (__u32)(c->initrd.bytes >> 32);
	}
	fill_e820(c, params);
	return boot_write(c, BOOT_INFO_GPA, params, sizeof(*params));
}

/* The six pages at BOOT_PGTABLE_GPA: root, one pointer table, directories. */
static int put_page_tables(struct boot_ctx *c)
{
	uint64_t table[TABLE_ENTRIES] = { 0 };
	uint64_t gpa = BOOT_PGTABLE_GPA, page = 0;
	unsigned int dir, i;
	int ret;

	table[0] = (gpa + VM_PAGE_BYTES) | PTE_TABLE;
	ret = boot_write(c, gpa, table, sizeof(table));
	gpa += VM_PAGE_BYTES;
	for (i = 0; i < NR_DIRECTORIES; i++)
		table[i] = (gpa + (i + 1) * VM_PAGE_BYTES) | PTE_TABLE;
	if (ret == 0)
		ret = boot_write(c, gpa, table, sizeof(table));
	for (dir = 0; dir < NR_DIRECTORIES && ret == 0; dir++) {
		for (i = 0; i < TABLE_ENTRIES; i++, page += LARGE_BYTES)
			table[i] = page | PDE_LARGE;
		gpa += VM_PAGE_BYTES;
		ret = boot_write(c, gpa, table, sizeof(table));
	}
	return ret;
}

static int put_gdt(struct boot_ctx *c)
{
	static const uint64_t gdt[] = {
		[SELECTOR_CS / 8] = 0x00af9b000000ffff, /* 64-bit code */
		[SELECTOR_DS / 8] = 0x00cf93000000ffff, /* data, 4 GiB */
		[SELECTOR_TR / 8] = 0x00008b0000000067, /* a busy TSS at 0 */
		[SELECTOR_TR / 8 + 1] = 0,
	};

	_Static_assert(sizeof(gdt) == BOOT_GDT_BYTES, "the limit says so");
	return boot_write(c, BOOT_GDT_GPA, gdt, sizeof(gdt));
}

static int enter_long_mode(struct boot_ctx *c, uint64_t entry_gpa)
{
	const struct kvm_segment data = {
		.limit = UINT32_MAX,
		.selector = SELECTOR_DS,
		.type = 3,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	int ret;

	ret = vm_vcpu_get_entry(c->vm, &regs, &sregs);
	if (ret < 0)
		goto fail;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.cs = data;
	sregs.cs.selector = SELECTOR_CS;
	sregs.cs.type = 11; /* execute, read, accessed */
	sregs.cs.db = 0;
	sregs.cs.l = 1;
	sregs.tr = (struct kvm_segment){
		.limit = 0x67, .present = 1, .selector = SELECTOR_TR, .type = 11
	};
	sregs.gdt.base = BOOT_GDT_GPA;
	sregs.gdt.limit = BOOT_GDT_BYTES - 1;
	memset(&sregs.idt, 0, sizeof(sregs.idt));
	sregs.cr0 = BOOT_CR0_PE | BOOT_CR0_ET | CR0_PG;
	sregs.cr3 = BOOT_PGTABLE_GPA;
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LME | EFER_LMA;
	regs = (struct kvm_regs){ .rip = entry_gpa,
				  .rsi = BOOT_INFO_GPA,
				  .rflags = BOOT_RFLAGS_FIXED };
	ret = vm_vcpu_set_entry(c->vm, &regs, &sregs);
	if (ret == 0)
		return 0;
fail:
	return boot_fail(c, ret, "KVM refuses the 64-bit entry state: %s",
			 strerror(-ret));
}

static int enter(struct boot_ctx *c, struct boot_params *params,
		 uint64_t entry_gpa)
{
	int ret;

	ret = put_zero_page(c, params);
	if (ret == 0)
		ret = put_page_tables(c);
	if (ret == 0)
		ret = put_gdt(c);
	if (ret == 0)
		ret = enter_long_mode(c, entry_gpa);
	return ret;
}

int boot_bzimage(struct boot_ctx *c)
{
	struct boot_params params = { 0 };
	struct setup_header *h = &params.hdr;
	uint64_t code_offset, code_bytes;
	int ret;

	ret = take_header(c, h);
	if (ret == 0)
		ret = check_kind(c, h);
	if (ret < 0)
		return ret;
	code_offset = (uint64_t)(h->setup_sects ? h->setup_sects
						: SETUP_SECTS_LEGACY);
	code_offset = (code_offset + 1) * SECTOR_BYTES;
	code_bytes = (uint64_t)h->syssize * 16;
	ret = check_place(c, h, code_offset, code_bytes);
	if (ret < 0)
		return ret;
	if (strlen(c->cmdline) > h->cmdline_size)
		return boot_fail(
			c, -E2BIG,
			"command line: %zu bytes, this kernel takes %u",
			strlen(c->cmdline), h->cmdline_size);
	/*
	 * At pref_address and nowhere lower, relocatable or not: a 64-bit
	 * kernel unpacks itself at or above it, so init_size from there on is
	 * what it needs wherever it was loaded.
	 */
	c->kernel_end_gpa = h->pref_address + h->init_size;
	ret = boot_place_initrd(c, h->initrd_addr_max,
				h->xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G);
	if (ret == 0)
		ret = boot_read_ram(c, &c->kernel, code_offset, h->pref_address,
				    code_bytes);
	if (ret == 0)
		ret = boot_put_common(c);
	if (ret < 0)
		return ret;
	h->code32_start = (__u32)h->pref_address;
	return enter(c, &params, h->pref_address + ENTRY_64_OFFSET);
}

int boot_vmlinux_enter(struct boot_ctx *c, uint64_t entry_gpa)
{
	struct boot_params params = {
		.hdr = {
			.boot_flag = BOOT_FLAG,
			.header = HDRS_MAGIC,
			.version = PROTOCOL_XLOADFLAGS,
			.kernel_alignment = KERNEL_ALIGN_VMLINUX,
			.cmdline_size = VM_CMDLINE_BYTES_MAX - 1,
		},
	};

	return enter(c, &params, entry_gpa);
}
