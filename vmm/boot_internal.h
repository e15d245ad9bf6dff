/*
 * vmm/boot_internal.h: what the loaders share: the files, where boot data goes
 * in guest memory, and how a refusal is put into words. Private to vmm/boot*.c.
 *
 * Every loader checks the whole file first and writes guest memory after, so
 * that a file it refuses has left nothing behind.
 */
#ifndef VMM_BOOT_INTERNAL_H
#define VMM_BOOT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/boot.h"

/*
 * What the guest finds below 1 MiB: one block at the top of conventional
 * memory, where PC boot loaders have always put such things. RAM above 0x9fc00
 * was the BIOS's; it is reported as reserved, as every PC does.
 */
#define BOOT_AREA_GPA    UINT64_C(0x90000)
#define BOOT_GDT_GPA     UINT64_C(0x90000)
#define BOOT_INFO_GPA    UINT64_C(0x91000) /* hvm_start_info or zero page */
#define BOOT_PGTABLE_GPA UINT64_C(0x92000) /* 6 pages, see boot_linux.c */
#define BOOT_CMDLINE_GPA UINT64_C(0x98000)
#define BOOT_AREA_END    UINT64_C(0x99000)
#define BOOT_LOW_RAM_END UINT64_C(0x9fc00)
#define BOOT_ACPI_GPA    UINT64_C(0xe0000) /* where guests scan for the RSDP */
#define BOOT_ACPI_END    UINT64_C(0x100000)
#define BOOT_HIMEM_GPA   UINT64_C(0x100000)
#define BOOT_IOAPIC_GPA  UINT64_C(0xfec00000) /* from here to 4 GiB: chips */

/* Where an initrd may end when the kernel does not say: boot.rst's own value. */
#define BOOT_INITRD_GPA_MAX UINT64_C(0x7fffffff)

#define BOOT_GDT_BYTES    48
#define BOOT_CR0_PE       (UINT64_C(1) << 0)
#define BOOT_CR0_ET       (UINT64_C(1) << 4) /* always set on a CPU of today */
#define BOOT_RFLAGS_FIXED 2                  /* bit 1 is always set */

#define BOOT_HEAD_BYTES 4096

struct boot_file {
	int fd;
	const char *what; /* "kernel" or "initrd", for messages */
	uint64_t bytes;
};

struct boot_ctx {
	struct vm *vm;
	struct vm_mem *mem;
	char **err; /* may be NULL */
	const char *cmdline;
	struct boot_file kernel;
	struct boot_file initrd; /* fd -1: none */
	_Alignas(8)
		uint8_t head[BOOT_HEAD_BYTES]; /* of the kernel, zero padded */
	size_t head_bytes;
	uint64_t kernel_end_gpa; /* first byte after the kernel */
	uint64_t initrd_gpa;     /* set by boot_place_initrd() */
};

enum boot_region_type { BOOT_REGION_RAM = 1, BOOT_REGION_RESERVED = 2 };

struct boot_region {
	uint64_t gpa;
	uint64_t bytes;
	enum boot_region_type type; /* e820's numbers, which are PVH's too */
};

#define BOOT_REGIONS_MAX 5

/* The loaders. Each leaves RAM filled and vCPU 0 at the entry. */
int boot_elf(struct boot_ctx *c);
int boot_bzimage(struct boot_ctx *c);
bool boot_is_bzimage(const struct boot_ctx *c);
/* Everything but the kernel's own bytes, which are in place already. */
int boot_pvh_enter(struct boot_ctx *c, uint32_t entry_gpa);
int boot_vmlinux_enter(struct boot_ctx *c, uint64_t entry_gpa);

/* Puts the sentence into *err, returns ret. */
int boot_fail(struct boot_ctx *c, int ret, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* Exactly bytes, or -EINVAL with a sentence. */
int boot_read(struct boot_ctx *c, const struct boot_file *f, uint64_t offset,
	      void *buf, size_t bytes);
/* The same straight into guest RAM; -EINVAL also when that is not all RAM. */
int boot_read_ram(struct boot_ctx *c, const struct boot_file *f,
		  uint64_t offset, uint64_t gpa, uint64_t bytes);
/* vm_mem_write() with a sentence. */
int boot_write(struct boot_ctx *c, uint64_t gpa, const void *buf, size_t bytes);
/* End of the RAM below the 32-bit hole. */
uint64_t boot_low_ram_end(const struct boot_ctx *c);
/*
 * Chooses initrd_gpa: page aligned, as high as it fits in low RAM ending at or
 * below max_gpa + 1 and above the kernel. Failing that, and if the kernel said
 * that it can (anywhere), the rest of low RAM or the RAM above 4 GiB.
 */
int boot_place_initrd(struct boot_ctx *c, uint64_t max_gpa, bool anywhere);
/* What every guest finds: initrd, command line, ACPI tables. */
int boot_put_common(struct boot_ctx *c);
/* From BOOT_ACPI_GPA on, the RSDP first. */
int boot_put_acpi(struct boot_ctx *c);
/* The memory map that the guest is shown; returns how many. */
size_t boot_regions(const struct boot_ctx *c,
		    struct boot_region ret_regions[BOOT_REGIONS_MAX]);

#endif
