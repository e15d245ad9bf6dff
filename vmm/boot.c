/*
 * vmm/boot.c: tell what a kernel file is, hand it to its loader, and the parts
 * that all loaders need.
 */
#include "vmm/boot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/boot_internal.h"
#include "vmm/vm_internal.h"

#define MIB (UINT64_C(1) << 20)

int boot_fail(struct boot_ctx *c, int ret, const char *fmt, ...)
{
	char *line = NULL;
	va_list ap;

	if (!c->err)
		return ret;
	va_start(ap, fmt);
	if (vasprintf(&line, fmt, ap) < 0)
		line = NULL;
	va_end(ap);
	free(*c->err);
	*c->err = line;
	return ret;
}

int boot_read(struct boot_ctx *c, const struct boot_file *f, uint64_t offset,
	      void *buf, size_t bytes)
{
	uint8_t *to = buf;
	ssize_t n;

	while (bytes > 0) {
		n = pread(f->fd, to, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return boot_fail(c, -errno, "%s: cannot read: %s",
					 f->what, strerror(errno));
		if (n == 0)
			return boot_fail(c, -EINVAL,
					 "%s: the file ends at byte %" PRIu64
					 " while it is being read",
					 f->what, offset);
		to += n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}

int boot_read_ram(struct boot_ctx *c, const struct boot_file *f,
		  uint64_t offset, uint64_t gpa, uint64_t bytes)
{
	uint64_t ram_offset;
	int ret;

	ret = vm_mem_gpa_to_offset(c->mem, gpa, bytes, &ram_offset);
	if (ret < 0)
		return boot_fail(c, -EINVAL,
				 "%s: 0x%" PRIx64 "+0x%" PRIx64
				 " is not guest memory",
				 f->what, gpa, bytes);
	ret = boot_read(c, f, offset, vm_mem_base(c->mem) + ram_offset, bytes);
	/* Marked even after a failure: a part may be in place. */
	vm_mem_mark_dirty(c->mem, ram_offset, bytes);
	return ret;
}

int boot_write(struct boot_ctx *c, uint64_t gpa, const void *buf, size_t bytes)
{
	int ret = vm_mem_write(c->mem, gpa, buf, bytes);

	if (ret < 0)
		return boot_fail(c, ret,
				 "boot data at 0x%" PRIx64
				 " is outside guest memory",
				 gpa);
	return 0;
}

uint64_t boot_low_ram_end(const struct boot_ctx *c)
{
	const struct vm_slot *slots;

	vm_mem_slots(c->mem, &slots);
	return slots[0].gpa + slots[0].bytes;
}

/* Highest page aligned place for bytes in [floor, end); 0: none. */
static uint64_t fit_below(uint64_t floor, uint64_t end, uint64_t bytes)
{
	uint64_t gpa;

	if (end < floor || bytes > end - floor)
		return 0;
	gpa = (end - bytes) & ~(VM_PAGE_BYTES - 1);
	return gpa >= floor ? gpa : 0;
}

int boot_place_initrd(struct boot_ctx *c, uint64_t max_gpa, bool anywhere)
{
	uint64_t low_end = boot_low_ram_end(c), end = low_end;
	uint64_t floor = c->kernel_end_gpa;
	const struct vm_slot *slots;
	size_t nr_slots;

	if (c->initrd.fd < 0)
		return 0;
	nr_slots = vm_mem_slots(c->mem, &slots);
	if (floor < BOOT_HIMEM_GPA)
		floor = BOOT_HIMEM_GPA;
	if (max_gpa < end)
		end = max_gpa + 1;
	c->initrd_gpa = fit_below(floor, end, c->initrd.bytes);
	if (!c->initrd_gpa && anywhere)
		c->initrd_gpa = fit_below(floor, low_end, c->initrd.bytes);
	if (!c->initrd_gpa && anywhere && nr_slots > 1)
		c->initrd_gpa = fit_below(slots[1].gpa,
					  slots[1].gpa + slots[1].bytes,
					  c->initrd.bytes);
	if (c->initrd_gpa)
		return 0;
	return boot_fail(
		c, -ENOSPC,
		"initrd: %" PRIu64 " MiB do not fit above the kernel, "
		"which ends at %" PRIu64 " MiB, and below %" PRIu64
		" MiB: give the guest more memory or use a smaller one",
		c->initrd.bytes / MIB + 1, floor / MIB, end / MIB);
}

int boot_put_common(struct boot_ctx *c)
{
	int ret;

	if (c->initrd.fd >= 0) {
		ret = boot_read_ram(c, &c->initrd, 0, c->initrd_gpa,
				    c->initrd.bytes);
		if (ret < 0)
			return ret;
	}
	ret = boot_write(c, BOOT_CMDLINE_GPA, c->cmdline,
			 strlen(c->cmdline) + 1);
	if (ret < 0)
		return ret;
	return boot_put_acpi(c);
}

size_t boot_regions(const struct boot_ctx *c,
		    struct boot_region ret_regions[BOOT_REGIONS_MAX])
{
	const struct vm_slot *slots;
	size_t nr_slots = vm_mem_slots(c->mem, &slots), n = 0;
	uint64_t low_end = boot_low_ram_end(c);

	ret_regions[n++] = (struct boot_region){ 0, BOOT_LOW_RAM_END,
						 BOOT_REGION_RAM };
	ret_regions[n++] =
		(struct boot_region){ BOOT_LOW_RAM_END,
				      BOOT_HIMEM_GPA - BOOT_LOW_RAM_END,
				      BOOT_REGION_RESERVED };
	ret_regions[n++] = (struct boot_region){ BOOT_HIMEM_GPA,
						 low_end - BOOT_HIMEM_GPA,
						 BOOT_REGION_RAM };
	/* I/O APIC, local APICs, and the pages that KVM on Intel keeps there. */
	ret_regions[n++] =
		(struct boot_region){ BOOT_IOAPIC_GPA,
				      VM_HIGH_RAM_GPA - BOOT_IOAPIC_GPA,
				      BOOT_REGION_RESERVED };
	if (nr_slots > 1)
		ret_regions[n++] = (struct boot_region){ slots[1].gpa,
							 slots[1].bytes,
							 BOOT_REGION_RAM };
	return n;
}

static int open_file(struct boot_ctx *c, int fd, const char *what,
		     struct boot_file *ret_file)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return boot_fail(c, -errno, "%s: %s", what, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return boot_fail(c, -EINVAL,
				 "%s: not a regular file; copy it to one",
				 what);
	if (st.st_size == 0)
		return boot_fail(c, -EINVAL, "%s: the file is empty", what);
	*ret_file = (struct boot_file){ .fd = fd,
					.what = what,
					.bytes = (uint64_t)st.st_size };
	return 0;
}

/* What people hand over that is not a kernel we can start, by its magic. */
static const struct {
	size_t offset;
	size_t bytes;
	const char *magic;
	const char *what;
} known_others[] = {
	{ 0, 2, "\x1f\x8b", "gzip-compressed; unpack it with gunzip" },
	{ 0, 4, "\x28\xb5\x2f\xfd", "zstd-compressed; unpack it with unzstd" },
	{ 0, 6,
	  "\xfd"
	  "7zXZ",
	  "xz-compressed; unpack it with unxz" },
	{ 0, 3, "BZh", "bzip2-compressed; unpack it with bunzip2" },
	{ 0, 4, "\x02\x21\x4c\x18", "lz4-compressed; unpack it with unlz4" },
	{ 0, 4, "\x04\x22\x4d\x18", "lz4-compressed; unpack it with unlz4" },
	{ 0x38, 4, "ARM\x64", "an arm64 Image; an x86-64 kernel is needed" },
	{ 0, 2, "MZ",
	  "an EFI program, not a Linux bzImage; give an x86-64 "
	  "bzImage, vmlinux or an ELF with a PVH note" },
};

static int refuse_unknown(struct boot_ctx *c)
{
	size_t i;

	for (i = 0; i < sizeof(known_others) / sizeof(known_others[0]); i++) {
		if (memcmp(c->head + known_others[i].offset,
			   known_others[i].magic, known_others[i].bytes) == 0)
			return boot_fail(c, -ENOEXEC, "kernel: the file is %s",
					 known_others[i].what);
	}
	return boot_fail(c, -ENOEXEC,
			 "kernel: not a kernel this machine can start; give an "
			 "x86-64 bzImage, vmlinux or an ELF with a PVH note");
}

static int open_all(struct boot_ctx *c, const struct vm_boot *boot)
{
	int ret;

	if (boot->cmdline)
		c->cmdline = boot->cmdline;
	if (strlen(c->cmdline) >= VM_CMDLINE_BYTES_MAX)
		return boot_fail(c, -E2BIG,
				 "command line: %zu bytes, %d are the limit",
				 strlen(c->cmdline), VM_CMDLINE_BYTES_MAX - 1);
	ret = open_file(c, boot->kernel_fd, "kernel", &c->kernel);
	if (ret < 0)
		return ret;
	if (boot->initrd_fd >= 0) {
		ret = open_file(c, boot->initrd_fd, "initrd", &c->initrd);
		if (ret < 0)
			return ret;
	}
	c->head_bytes = sizeof(c->head);
	if (c->kernel.bytes < c->head_bytes)
		c->head_bytes = (size_t)c->kernel.bytes;
	return boot_read(c, &c->kernel, 0, c->head, c->head_bytes);
}

int vm_boot(struct vm *vm, const struct vm_boot *boot, char **err)
{
	struct boot_ctx c = {
		.vm = vm,
		.mem = vm_mem(vm),
		.err = err,
		.cmdline = "",
		.initrd = { .fd = -1 },
	};
	int ret;

	if (err)
		*err = NULL;
	ret = open_all(&c, boot);
	if (ret < 0)
		return ret;
	if (memcmp(c.head, "\177ELF", 4) == 0)
		return boot_elf(&c);
	if (boot_is_bzimage(&c))
		return boot_bzimage(&c);
	return refuse_unknown(&c);
}

int vm_reboot(struct vm *vm, const struct vm_boot *boot, char **err)
{
	struct vm_mem *mem = vm_mem(vm);
	int ret;

	if (err)
		*err = NULL;
	ret = vm_mem_discard(mem, 0, vm_mem_bytes(mem));
	if (ret < 0)
		return vm_err(err, ret, "cannot clear guest memory: %s",
			      strerror(-ret));
	vm_bus_reset(vm);
	ret = vm_reset_cpus(vm, err);
	if (ret < 0)
		return ret;
	return vm_boot(vm, boot, err);
}
