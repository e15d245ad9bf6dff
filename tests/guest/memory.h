/*
 * memory.h: the machine's RAM, and the test memory laid out in it.
 *
 *	gpa	1 MiB		the image, then page tables for RAM over 4 GiB
 *		16 MiB		records, one per test page
 *				versions, one per block of the disk in use
 *				test pages, from low to high across the hole
 *				one page more: the mirror
 *
 * A test page has an index, counted from 0 through all extents; vCPU k owns a
 * contiguous range of indices.
 */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define MEMORY_FIRST_GPA   UINT64_C(0x1000000)
#define MEMORY_EXTENTS_MAX 8

/*
 * What the guest says it wrote into a page. Its owner marks it RECORD_WRITING
 * before the page is touched and clears that after, so whoever stops the guest
 * and looks can tell a page that is half written.
 */
struct record {
	volatile uint32_t version; /* of the whole page; 0: never written */
	volatile uint32_t touches; /* light writes: see page.h */
};
#define RECORD_WRITING (1u << 31)

struct extent {
	uint64_t first_page;
	uint64_t gpa;
	uint64_t pages;
};

struct memory {
	struct record *records;
	uint64_t pages;
	struct extent extents[MEMORY_EXTENTS_MAX];
	uint32_t nr_extents;
	volatile uint64_t *mirror; /* far from the image */
	uint32_t *disk_versions;   /* one per block of the disk */
};
extern struct memory memory;

/* PVH start_info; set by the first vCPU at CPL 0. */
extern uint64_t memory_boot_info_gpa;

/* The command line, "" without one; valid until memory_place(). */
const char *memory_cmdline(void);
/*
 * Read the memory map and map what lies above 4 GiB. On failure *ret_why is a
 * sentence. All on the first vCPU, at CPL 3, in this order.
 */
bool memory_init(const char **ret_why);
/* Place test_bytes of test memory, and what is kept of so many disk blocks. */
bool memory_place(uint64_t test_bytes, uint64_t disk_blocks,
		  const char **ret_why);

uint64_t memory_page_gpa(uint64_t page);

#endif
