/*
 * vmm/boot_pvh.c: the PVH entry. What the guest is told, and the CPU it starts
 * on: 32-bit protected mode, flat segments, no paging, ebx = hvm_start_info.
 *
 * The structures are xen/include/public/arch-x86/hvm/start_info.h, version 1;
 * the CPU state is "x86/HVM direct boot ABI" in Xen's docs/misc/pvh.pandoc.
 */
#include "vmm/boot_internal.h"

#include <errno.h>
#include <string.h>

#include "vmm/vm_internal.h"

#define START_INFO_MAGIC   0x336ec578 /* "xEn3", bit 7 of the E set */
#define START_INFO_VERSION 1

struct start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_gpa;
	uint64_t cmdline_gpa;
	uint64_t rsdp_gpa;
	uint64_t memmap_gpa;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct module {
	uint64_t gpa;
	uint64_t bytes;
	uint64_t cmdline_gpa;
	uint64_t reserved;
};

struct memmap_entry {
	uint64_t gpa;
	uint64_t bytes;
	uint32_t type;
	uint32_t reserved;
};

/* One page at BOOT_INFO_GPA. */
struct pvh_page {
	struct start_info info;
	struct module initrd;
	struct memmap_entry memmap[BOOT_REGIONS_MAX];
};

_Static_assert(sizeof(struct start_info) == 56, "hvm_start_info is ABI");
_Static_assert(sizeof(struct module) == 32, "hvm_modlist_entry is ABI");
_Static_assert(sizeof(struct memmap_entry) == 24, "hvm_memmap is ABI");
_Static_assert(sizeof(struct pvh_page) <= VM_PAGE_BYTES, "one page");

static int put_start_info(struct boot_ctx *c)
{
	struct boot_region regions[BOOT_REGIONS_MAX];
	struct pvh_page page = {
		.info = {
			.magic = START_INFO_MAGIC,
			.version = START_INFO_VERSION,
			.cmdline_gpa = BOOT_CMDLINE_GPA,
			.rsdp_gpa = BOOT_ACPI_GPA,
			.memmap_gpa = BOOT_INFO_GPA +
				      offsetof(struct pvh_page, memmap),
		},
	};
	size_t n = boot_regions(c, regions), i;

	for (i = 0; i < n; i++)
		page.memmap[i] = (struct memmap_entry){
			.gpa = regions[i].gpa,
			.bytes = regions[i].bytes,
			.type = regions[i].type,
		};
	page.info.memmap_entries = (uint32_t)n;
	if (c->initrd.fd >= 0) {
		page.info.nr_modules = 1;
		page.info.modlist_gpa = BOOT_INFO_GPA +
					offsetof(struct pvh_page, initrd);
		page.initrd.gpa = c->initrd_gpa;
		page.initrd.bytes = c->initrd.bytes;
	}
	return boot_write(c, BOOT_INFO_GPA, &page, sizeof(page));
}

int boot_pvh_enter(struct boot_ctx *c, uint32_t entry_gpa)
{
	const struct kvm_segment data = {
		.limit = UINT32_MAX,
		.selector = 0x18,
		.type = 3,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	int ret;

	ret = put_start_info(c);
	if (ret < 0)
		return ret;
	ret = vm_vcpu_get_entry(c->vm, &regs, &sregs);
	if (ret < 0)
		goto fail;
	sregs.cs = sregs.ds = sregs.es = sregs.ss = data;
	sregs.fs = sregs.gs = data;
	sregs.cs.selector = 0x10;
	sregs.cs.type = 11; /* execute, read, accessed */
	sregs.tr = (struct kvm_segment){
		.limit = 0x67, .selector = 0x20, .type = 11, .present = 1
	};
	/* The guest loads its own tables before it loads a segment. */
	memset(&sregs.gdt, 0, sizeof(sregs.gdt));
	memset(&sregs.idt, 0, sizeof(sregs.idt));
	sregs.cr0 = BOOT_CR0_PE | BOOT_CR0_ET;
	sregs.cr3 = sregs.cr4 = sregs.efer = 0;
	regs = (struct kvm_regs){ .rip = entry_gpa,
				  .rbx = BOOT_INFO_GPA,
				  .rflags = BOOT_RFLAGS_FIXED };
	ret = vm_vcpu_set_entry(c->vm, &regs, &sregs);
	if (ret == 0)
		return 0;
fail:
	return boot_fail(c, ret, "KVM refuses the PVH entry state: %s",
			 strerror(-ret));
}
