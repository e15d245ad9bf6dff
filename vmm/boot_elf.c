/*
 * vmm/boot_elf.c: ELF kernels. Checks the headers, finds Xen's PVH note, puts
 * the segments where p_paddr says, and lets the right protocol take over: PVH
 * where there is a note, else Linux's 64-bit protocol for a vmlinux.
 *
 * The note: Xen's public/elfnote.h and docs/misc/pvh.pandoc.
 */
#include "vmm/boot_internal.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENTS_MAX             64         /* kernels have about 5 */
#define NOTES_BYTES_MAX          (1u << 20) /* and notes of about 1 KiB */
#define XEN_ELFNOTE_PHYS32_ENTRY 18         /* xen/include/public/elfnote.h */
#define LINUX_KERNEL_VADDR_MIN   (UINT64_C(1) << 63)

/* A program header of either class. */
struct segment {
	uint32_t type;
	uint64_t offset;
	uint64_t vaddr;
	uint64_t paddr;
	uint64_t file_bytes;
	uint64_t mem_bytes;
};

struct elf {
	bool is_64;
	uint16_t type;
	uint16_t machine;
	uint64_t entry;
	uint64_t table_offset;
	uint16_t header_bytes; /* of one program header */
	size_t nr;
	struct segment segments[SEGMENTS_MAX];
	bool has_pvh;
	uint64_t pvh_entry;
};

static int parse_header(struct boot_ctx *c, struct elf *e)
{
	const Elf64_Ehdr *h64 = (const void *)c->head;
	const Elf32_Ehdr *h32 = (const void *)c->head;

	e->is_64 = c->head[EI_CLASS] == ELFCLASS64;
	if (c->head_bytes < (e->is_64 ? sizeof(*h64) : sizeof(*h32)))
		return boot_fail(c, -EINVAL,
				 "kernel: the ELF header is cut off after %zu "
				 "bytes",
				 c->head_bytes);
	if ((!e->is_64 && c->head[EI_CLASS] != ELFCLASS32) ||
	    c->head[EI_DATA] != ELFDATA2LSB ||
	    c->head[EI_VERSION] != EV_CURRENT)
		return boot_fail(
			c, -ENOEXEC,
			"kernel: ELF of class %u, byte order %u, "
			"version %u; a little-endian x86 ELF is needed",
			c->head[EI_CLASS], c->head[EI_DATA],
			c->head[EI_VERSION]);
	/* The same up to e_entry in both classes. */
	e->type = h64->e_type;
	e->machine = h64->e_machine;
	e->entry = e->is_64 ? h64->e_entry : h32->e_entry;
	e->table_offset = e->is_64 ? h64->e_phoff : h32->e_phoff;
	e->header_bytes = e->is_64 ? h64->e_phentsize : h32->e_phentsize;
	e->nr = e->is_64 ? h64->e_phnum : h32->e_phnum;
	return 0;
}

static int check_header(struct boot_ctx *c, const struct elf *e)
{
	size_t want = e->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

	if (e->machine == EM_AARCH64)
		return boot_fail(c, -ENOEXEC,
				 "kernel: an arm64 ELF; x86 is needed");
	if (e->machine != EM_X86_64 && e->machine != EM_386)
		return boot_fail(c, -ENOEXEC,
				 "kernel: ELF for machine %u; x86 is needed",
				 e->machine);
	if (e->type != ET_EXEC && e->type != ET_DYN)
		return boot_fail(c, -ENOEXEC,
				 "kernel: ELF of type %u is not an executable; "
				 "link it",
				 e->type);
	if (e->nr == 0 || e->nr > SEGMENTS_MAX)
		return boot_fail(
			c, -EINVAL,
			"kernel: ELF with %zu program headers, not 1 to %d",
			e->nr, SEGMENTS_MAX);
	if (e->header_bytes != want)
		return boot_fail(
			c, -EINVAL,
			"kernel: ELF program headers of %u bytes, not %zu",
			e->header_bytes, want);
	return 0;
}

static struct segment segment_from_64(const Elf64_Phdr *p)
{
	return (struct segment){ p->p_type,  p->p_offset, p->p_vaddr,
				 p->p_paddr, p->p_filesz, p->p_memsz };
}

static struct segment segment_from_32(const Elf32_Phdr *p)
{
	return (struct segment){ p->p_type,  p->p_offset, p->p_vaddr,
				 p->p_paddr, p->p_filesz, p->p_memsz };
}

static int read_segments(struct boot_ctx *c, struct elf *e)
{
	union {
		Elf64_Phdr p64[SEGMENTS_MAX];
		Elf32_Phdr p32[SEGMENTS_MAX];
	} table;
	size_t bytes = e->nr * e->header_bytes, i;
	int ret;

	if (e->table_offset > c->kernel.bytes ||
	    bytes > c->kernel.bytes - e->table_offset)
		return boot_fail(c, -EINVAL,
				 "kernel: the ELF program headers at 0x%" PRIx64
				 " are beyond the end of the file",
				 e->table_offset);
	ret = boot_read(c, &c->kernel, e->table_offset, &table, bytes);
	if (ret < 0)
		return ret;
	for (i = 0; i < e->nr; i++)
		e->segments[i] = e->is_64 ? segment_from_64(&table.p64[i])
					  : segment_from_32(&table.p32[i]);
	return 0;
}

static bool is_loaded(const struct segment *s)
{
	return s->type == PT_LOAD && s->mem_bytes > 0;
}

/* Both ranges are known not to wrap. */
static bool overlap(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

/* Everything that is read must be in the file. */
static int check_in_file(struct boot_ctx *c, const struct elf *e)
{
	const struct segment *s;
	size_t i, nr_loads = 0;

	for (i = 0; i < e->nr; i++) {
		s = &e->segments[i];
		if (s->type != PT_NOTE && !is_loaded(s))
			continue;
		if (s->offset > c->kernel.bytes ||
		    s->file_bytes > c->kernel.bytes - s->offset)
			return boot_fail(
				c, -EINVAL,
				"kernel: ELF segment %zu reaches beyond "
				"the end of the file; is it cut off?",
				i);
		nr_loads += is_loaded(s);
	}
	if (nr_loads == 0)
		return boot_fail(c, -EINVAL,
				 "kernel: ELF with nothing to load");
	return 0;
}

static uint64_t align4(uint64_t bytes)
{
	return (bytes + 3) & ~UINT64_C(3);
}

static int take_pvh_note(struct boot_ctx *c, struct elf *e, const uint8_t *desc,
			 uint32_t bytes)
{
	uint32_t entry_32;

	if (bytes == sizeof(e->pvh_entry)) {
		memcpy(&e->pvh_entry, desc, sizeof(e->pvh_entry));
	} else if (bytes == sizeof(entry_32)) {
		memcpy(&entry_32, desc, sizeof(entry_32));
		e->pvh_entry = entry_32;
	} else {
		return boot_fail(
			c, -EINVAL,
			"kernel: the PVH note has %u bytes, not 4 or 8", bytes);
	}
	e->has_pvh = true;
	return 0;
}

static int parse_notes(struct boot_ctx *c, struct elf *e, const uint8_t *notes,
		       uint64_t left)
{
	Elf64_Nhdr n; /* the same in both classes */
	uint64_t name_bytes, desc_bytes;
	int ret;

	while (left >= sizeof(n)) {
		memcpy(&n, notes, sizeof(n));
		notes += sizeof(n);
		left -= sizeof(n);
		name_bytes = align4(n.n_namesz);
		desc_bytes = align4(n.n_descsz);
		/* The last note's padding may be missing. */
		if (name_bytes > left || n.n_descsz > left - name_bytes)
			return boot_fail(c, -EINVAL,
					 "kernel: damaged ELF note: its sizes "
					 "reach beyond its segment");
		if (n.n_type == XEN_ELFNOTE_PHYS32_ENTRY && n.n_namesz == 4 &&
		    memcmp(notes, "Xen", 4) == 0) {
			ret = take_pvh_note(c, e, notes + name_bytes,
					    n.n_descsz);
			if (ret < 0)
				return ret;
		}
		if (desc_bytes > left - name_bytes)
			break;
		notes += name_bytes + desc_bytes;
		left -= name_bytes + desc_bytes;
	}
	return 0;
}

static int find_pvh_note(struct boot_ctx *c, struct elf *e)
{
	const struct segment *s;
	uint8_t *notes;
	size_t i;
	int ret = 0;

	for (i = 0; i < e->nr && ret == 0; i++) {
		s = &e->segments[i];
		if (s->type != PT_NOTE || s->file_bytes == 0)
			continue;
		if (s->file_bytes > NOTES_BYTES_MAX)
			return boot_fail(
				c, -EINVAL,
				"kernel: %" PRIu64
				" bytes of ELF notes; %u are the limit",
				s->file_bytes, NOTES_BYTES_MAX);
		notes = malloc(s->file_bytes);
		if (!notes)
			return boot_fail(c, -ENOMEM, "kernel: out of memory");
		ret = boot_read(c, &c->kernel, s->offset, notes, s->file_bytes);
		if (ret == 0)
			ret = parse_notes(c, e, notes, s->file_bytes);
		free(notes);
	}
	return ret;
}

/* The segment that is in memory at physical address gpa. */
static const struct segment *segment_at(const struct elf *e, uint64_t gpa)
{
	size_t i;

	for (i = 0; i < e->nr; i++) {
		const struct segment *s = &e->segments[i];

		if (is_loaded(s) && gpa >= s->paddr &&
		    gpa - s->paddr < s->mem_bytes)
			return s;
	}
	return NULL;
}

/*
 * Linux links vmlinux at the top of the address space and gives e_entry as a
 * physical address (phys_startup_64); other linkers leave the virtual one.
 * A segment in the upper half is what tells a kernel from an ordinary program.
 */
static int vmlinux_entry(const struct elf *e, uint64_t *ret_gpa)
{
	const struct segment *s = segment_at(e, e->entry);
	size_t i;

	if (s && s->vaddr >= LINUX_KERNEL_VADDR_MIN) {
		*ret_gpa = e->entry;
		return 0;
	}
	for (i = 0; i < e->nr; i++) {
		s = &e->segments[i];
		if (!is_loaded(s) || s->vaddr < LINUX_KERNEL_VADDR_MIN ||
		    e->entry < s->vaddr || e->entry - s->vaddr >= s->mem_bytes)
			continue;
		*ret_gpa = e->entry - s->vaddr + s->paddr;
		return 0;
	}
	return -ENOEXEC;
}

static int choose_entry(struct boot_ctx *c, const struct elf *e,
			uint64_t *ret_gpa)
{
	if (e->has_pvh) {
		*ret_gpa = e->pvh_entry;
		return 0;
	}
	if (!e->is_64 || e->machine != EM_X86_64)
		return boot_fail(c, -ENOEXEC,
				 "kernel: a 32-bit ELF without a PVH note; add "
				 "one (CONFIG_PVH in Linux) or give a 64-bit "
				 "kernel");
	if (vmlinux_entry(e, ret_gpa) < 0)
		return boot_fail(
			c, -ENOEXEC,
			"kernel: an ELF without a PVH note that is not "
			"a Linux vmlinux either; give one of these or "
			"a bzImage");
	return 0;
}

static int check_place(struct boot_ctx *c, const struct elf *e, size_t i)
{
	const struct segment *s = &e->segments[i], *other;
	uint64_t offset;
	size_t j;

	if (s->file_bytes > s->mem_bytes)
		return boot_fail(
			c, -EINVAL,
			"kernel: ELF segment %zu: file size over memory size",
			i);
	/* Above 4 GiB neither protocol could reach it. */
	if (vm_mem_gpa_to_offset(c->mem, s->paddr, s->mem_bytes, &offset) < 0 ||
	    s->paddr >= boot_low_ram_end(c))
		return boot_fail(c, -ENOSPC,
				 "kernel: ELF segment %zu, 0x%" PRIx64
				 " bytes at 0x%" PRIx64
				 ", is not within guest memory below 4 GiB; "
				 "give the guest more or link the kernel lower",
				 i, s->mem_bytes, s->paddr);
	if (overlap(s->paddr, s->mem_bytes, BOOT_AREA_GPA,
		    BOOT_AREA_END - BOOT_AREA_GPA) ||
	    overlap(s->paddr, s->mem_bytes, BOOT_ACPI_GPA,
		    BOOT_ACPI_END - BOOT_ACPI_GPA))
		return boot_fail(
			c, -EINVAL,
			"kernel: ELF segment %zu at 0x%" PRIx64
			" covers memory where boot data goes; link the "
			"kernel at 1 MiB",
			i, s->paddr);
	for (j = 0; j < i; j++) {
		other = &e->segments[j];
		if (is_loaded(other) && overlap(s->paddr, s->mem_bytes,
						other->paddr, other->mem_bytes))
			return boot_fail(c, -EINVAL,
					 "kernel: ELF segments %zu and %zu "
					 "overlap in memory",
					 j, i);
	}
	return 0;
}

/* Everything that is loaded, and the entry, must have a place of its own. */
static int check_places(struct boot_ctx *c, const struct elf *e,
			uint64_t entry_gpa)
{
	const struct segment *s;
	size_t i;
	int ret;

	for (i = 0; i < e->nr; i++) {
		s = &e->segments[i];
		if (!is_loaded(s))
			continue;
		ret = check_place(c, e, i);
		if (ret < 0)
			return ret;
		/* vm_mem_gpa_to_offset() has shown that this cannot wrap. */
		if (s->paddr + s->mem_bytes > c->kernel_end_gpa)
			c->kernel_end_gpa = s->paddr + s->mem_bytes;
	}
	if (!segment_at(e, entry_gpa))
		return boot_fail(c, -EINVAL,
				 "kernel: the ELF's entry 0x%" PRIx64
				 " is in none of its segments",
				 entry_gpa);
	return 0;
}

static int load_segments(struct boot_ctx *c, const struct elf *e)
{
	const struct segment *s;
	size_t i;
	int ret;

	for (i = 0; i < e->nr; i++) {
		s = &e->segments[i];
		if (!is_loaded(s))
			continue;
		/* The rest, bss, is zero: nothing ever touched this RAM. */
		ret = boot_read_ram(c, &c->kernel, s->offset, s->paddr,
				    s->file_bytes);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int boot_elf(struct boot_ctx *c)
{
	struct elf e = { 0 };
	uint64_t entry_gpa = 0;
	int ret;

	ret = parse_header(c, &e);
	if (ret == 0)
		ret = check_header(c, &e);
	if (ret == 0)
		ret = read_segments(c, &e);
	if (ret == 0)
		ret = check_in_file(c, &e);
	if (ret == 0)
		ret = find_pvh_note(c, &e);
	if (ret == 0)
		ret = choose_entry(c, &e, &entry_gpa);
	if (ret == 0)
		ret = check_places(c, &e, entry_gpa);
	if (ret == 0)
		ret = boot_place_initrd(
			c, e.has_pvh ? UINT32_MAX : BOOT_INITRD_GPA_MAX,
			!e.has_pvh);
	if (ret == 0)
		ret = load_segments(c, &e);
	if (ret == 0)
		ret = boot_put_common(c);
	if (ret < 0)
		return ret;
	return e.has_pvh ? boot_pvh_enter(c, (uint32_t)entry_gpa)
			 : boot_vmlinux_enter(c, entry_gpa);
}
