#include "memory.h"

#include <stddef.h>

#include "cpu.h"
#include "machine.h"

#define GIB       (UINT64_C(1) << 30)
#define HUGE_PAGE (UINT64_C(2) << 20)
#define LOW_END   (4 * GIB) /* start.S maps what is below */

#define PTE_TABLE 0x67 /* present, writable, user, accessed, dirty */
#define PTE_PAGE  0xe7 /* and a leaf above 4 KiB */

#define RAM_RANGES_MAX 16

/* Xen, public/arch-x86/hvm/start_info.h, version 1. */
#define START_INFO_MAGIC 0x336ec578u
#define MEMMAP_RAM       1

struct start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modules_gpa;
	uint64_t cmdline_gpa;
	uint64_t rsdp_gpa;
	uint64_t memmap_gpa;
	uint32_t nr_memmap;
	uint32_t reserved;
};

struct memmap_entry {
	uint64_t gpa;
	uint64_t bytes;
	uint32_t type;
	uint32_t reserved;
};

struct memory memory;
uint64_t memory_boot_info_gpa;

/* RAM from MEMORY_FIRST_GPA up, page aligned, ascending; what is left of it. */
static struct ram_range {
	uint64_t gpa;
	uint64_t end;
} ram[RAM_RANGES_MAX];
static uint32_t nr_ram;

extern uint64_t page_root[], page_directory_pointers[];
extern uint8_t image_end[];
static uint8_t *next_table = image_end;

static const struct start_info *start_info(void)
{
	return (const struct start_info *)memory_boot_info_gpa;
}

const char *memory_cmdline(void)
{
	const struct start_info *s = start_info();

	if (s->magic != START_INFO_MAGIC || s->cmdline_gpa == 0)
		return "";
	return (const char *)s->cmdline_gpa;
}

static bool ram_add(uint64_t gpa, uint64_t end)
{
	uint32_t i = nr_ram;

	gpa = (gpa + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
	end &= ~(uint64_t)(PAGE_BYTES - 1);
	if (gpa < MEMORY_FIRST_GPA)
		gpa = MEMORY_FIRST_GPA;
	if (gpa >= end)
		return true;
	if (nr_ram == RAM_RANGES_MAX)
		return false;
	for (; i > 0 && ram[i - 1].gpa > gpa; i--)
		ram[i] = ram[i - 1];
	ram[i] = (struct ram_range){ gpa, end };
	nr_ram++;
	return true;
}

/* The space for it was never used before us, but a reset may leave it dirty. */
static uint64_t *table_new(void)
{
	uint64_t *table = (uint64_t *)next_table;

	next_table += PAGE_BYTES;
	for (int i = 0; i < 512; i++)
		table[i] = 0;
	return table;
}

static uint64_t gib_entry(uint64_t gpa)
{
	uint64_t *directory;

	if (machine.has_huge_pages)
		return gpa | PTE_PAGE;
	directory = table_new();
	for (uint64_t i = 0; i < 512; i++)
		directory[i] = (gpa + i * HUGE_PAGE) | PTE_PAGE;
	return (uint64_t)directory | PTE_TABLE;
}

/*
 * The 512 GiB that slot of the root stands for, up to end. Stores into a table
 * in use may each be caught by a shadowing MMU, so a new one is completed first
 * and comes in by a single store. What was mapped stays as it was: no TLB to
 * flush.
 */
static void map_slot(uint64_t slot, uint64_t end)
{
	uint64_t *pointers = table_new();
	uint64_t gpa = slot << 39;

	if (slot == 0) {
		for (; gpa < LOW_END; gpa += GIB)
			pointers[gpa / GIB] =
				page_directory_pointers[gpa / GIB];
	}
	for (uint64_t i = gpa / GIB % 512; i < 512 && gpa < end; i++) {
		pointers[i] = gib_entry(gpa);
		gpa += GIB;
	}
	page_root[slot] = (uint64_t)pointers | PTE_TABLE;
}

/* Holes above 4 GiB are mapped too: nobody goes there. */
static bool map_high(uint64_t end)
{
	uint64_t room = MEMORY_FIRST_GPA - (uint64_t)next_table;

	/* At worst a table for each GiB, and one for each slot. */
	if ((end / GIB + 1 + (end >> 39) + 1) * PAGE_BYTES > room)
		return false;
	for (uint64_t slot = 0; slot << 39 < end; slot++)
		map_slot(slot, end);
	return true;
}

bool memory_init(const char **ret_why)
{
	const struct start_info *s = start_info();
	const struct memmap_entry *e;

	*ret_why = "no-start-info-with-memory-map";
	if (s->magic != START_INFO_MAGIC || s->version < 1 || s->nr_memmap == 0)
		return false;
	e = (const struct memmap_entry *)s->memmap_gpa;
	*ret_why = "memory-map-too-long";
	for (uint32_t i = 0; i < s->nr_memmap; i++)
		if (e[i].type == MEMMAP_RAM &&
		    !ram_add(e[i].gpa, e[i].gpa + e[i].bytes))
			return false;
	*ret_why = "no-room-for-page-tables";
	if (nr_ram && ram[nr_ram - 1].end > LOW_END &&
	    !map_high(ram[nr_ram - 1].end))
		return false;
	return true;
}

/* The next contiguous pages from the lowest range that has so many; or 0. */
static uint64_t take_contiguous(uint64_t pages)
{
	for (uint32_t i = 0; i < nr_ram; i++) {
		uint64_t gpa = ram[i].gpa;

		if ((ram[i].end - gpa) / PAGE_BYTES < pages)
			continue;
		ram[i].gpa += pages * PAGE_BYTES;
		return gpa;
	}
	return 0;
}

static bool take_extents(uint64_t pages)
{
	for (uint32_t i = 0; i < nr_ram && memory.pages < pages; i++) {
		struct extent *x = &memory.extents[memory.nr_extents];
		uint64_t left = pages - memory.pages;
		uint64_t here = (ram[i].end - ram[i].gpa) / PAGE_BYTES;

		if (here == 0)
			continue;
		if (memory.nr_extents++ == MEMORY_EXTENTS_MAX)
			return false;
		x->first_page = memory.pages;
		x->gpa = ram[i].gpa;
		x->pages = here < left ? here : left;
		ram[i].gpa += x->pages * PAGE_BYTES;
		memory.pages += x->pages;
	}
	return memory.pages == pages;
}

static void *take_table(uint64_t nr, uint64_t entry_bytes)
{
	return (void *)take_contiguous((nr * entry_bytes + PAGE_BYTES - 1) /
				       PAGE_BYTES);
}

bool memory_place(uint64_t test_bytes, uint64_t disk_blocks,
		  const char **ret_why)
{
	uint64_t pages = test_bytes / PAGE_BYTES;
	uint64_t mirror = 0;

	*ret_why = "mem-larger-than-the-machine";
	memory.records = take_table(pages, sizeof(*memory.records));
	memory.disk_versions = take_table(disk_blocks,
					  sizeof(*memory.disk_versions));
	if (!memory.records || !memory.disk_versions || !take_extents(pages))
		return false;
	for (uint32_t i = 0; i < nr_ram; i++)
		if (ram[i].gpa < ram[i].end)
			mirror = ram[i].gpa;
	memory.mirror = (volatile uint64_t *)mirror;
	return mirror != 0;
}

uint64_t memory_page_gpa(uint64_t page)
{
	const struct extent *x = memory.extents;

	while (page - x->first_page >= x->pages)
		x++;
	return x->gpa + (page - x->first_page) * PAGE_BYTES;
}
