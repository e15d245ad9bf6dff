/*
 * Kernels built byte by byte, and a machine without KVM to boot them on: what
 * vm_boot() would tell KVM, the vCPU's registers, is caught by wrappers.
 */
#ifndef TESTS_UNIT_BOOT_FIXTURE_H
#define TESTS_UNIT_BOOT_FIXTURE_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/boot.h"
#include "vmm/vm_internal.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * 1024)
#define GIB (MIB * 1024)

#define SMALL_RAM     (32 * MIB)
#define IMAGE_BYTES   0x3000
#define HEADERS_BYTES 0x400 /* all headers of both images are within */

#define ELF_LOAD_GPA    UINT64_C(0x100000)
#define ELF_CODE_OFFSET 0x1000
#define ELF_CODE_BYTES  0x2000
#define ELF_MEM_BYTES   0x5000
#define ELF_NOTE_OFFSET 0x200
#define ELF_ENTRY       (ELF_LOAD_GPA + 0x40)
#define LINUX_MAP_VADDR UINT64_C(0xffffffff80000000)

#define BZ_CODE_OFFSET 0x400 /* setup_sects 1 */
#define BZ_CODE_BYTES  0x2c00
#define BZ_PREF_GPA    (16 * MIB)
#define BZ_INIT_BYTES  0x800000

struct image {
	_Alignas(8) uint8_t data[IMAGE_BYTES];
	size_t bytes;
};

struct machine {
	struct vm vm;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	unsigned int nr_entries; /* times that the entry state was set */
	char *err;
};

void machine_init(struct machine *m, uint64_t ram_bytes);
void machine_fini(struct machine *m);
/* A memfd with these bytes. */
int file_of(const void *data, size_t bytes);
int boot_fds(struct machine *m, int kernel_fd, int initrd_fd,
	     const char *cmdline);
/* Boots im, with an initrd of 0xa5 bytes unless initrd_bytes is 0. */
int boot_image(struct machine *m, const struct image *im, size_t initrd_bytes,
	       const char *cmdline);
void read_ram(struct machine *m, uint64_t gpa, void *buf, size_t bytes);
void assert_ram(struct machine *m, uint64_t gpa, const void *want,
		size_t bytes);
/* Pages of RAM that anybody ever touched. */
size_t resident_pages(struct machine *m);
/* Refused in one line, and nothing was touched. */
void assert_refused(struct machine *m, int ret);

/* A PVH note with ELF64 or ELF32; a note of another kind; a bzImage. */
void build_elf64(struct image *im);
void build_elf32(struct image *im);
void build_vmlinux(struct image *im);
void build_bzimage(struct image *im);
/* Where what is in them. */
Elf64_Ehdr *ehdr(struct image *im);
Elf64_Phdr *phdr(struct image *im, size_t i);
Elf64_Nhdr *note(struct image *im);
struct setup_header *setup(struct image *im);
void put_pvh_note(struct image *im, uint64_t entry, uint32_t bytes);

#endif
