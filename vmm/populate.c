/*
 * vmm/populate.c: which pages of guest RAM hold anything, without touching any; and
 * pages for what is about to hold something.
 *
 * A memfd knows itself which of its pages exist. For private and hugetlb memory
 * only the page tables do, and RAM has just this one mapping.
 */
#include "vmm/mem_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "compat/linux.h"

/* Linux Documentation/admin-guide/mm/pagemap.rst */
#define PM_PRESENT  (UINT64_C(1) << 63)
#define PM_SWAPPED  (UINT64_C(1) << 62)
#define PM_PFN_MASK ((UINT64_C(1) << 55) - 1)

#define SCAN_REGIONS  256
#define PAGEMAP_CHUNK 8192 /* entries read at once: 32 MiB of RAM */

/* Where found pages go. */
struct scan {
	uint64_t categories; /* PAGE_IS_*: any of them makes a page count */
	uint64_t none_of;    /* but none of these, where the kernel tells */
	uint64_t *bitmap;    /* NULL: only count */
	bool exact;          /* -EPERM rather than a page too many */
	uint64_t nr_pages;
};

static void found(struct scan *s, uint64_t page, uint64_t nr_pages)
{
	s->nr_pages += nr_pages;
	if (!s->bitmap)
		return;
	for (; nr_pages > 0 && page % 64 != 0; page++, nr_pages--)
		s->bitmap[page / 64] |= UINT64_C(1) << page % 64;
	for (; nr_pages >= 64; page += 64, nr_pages -= 64)
		s->bitmap[page / 64] = UINT64_MAX;
	if (nr_pages > 0)
		s->bitmap[page / 64] |= (UINT64_C(1) << nr_pages) - 1;
}

/*
 * PFNZERO is inverted and required: pages that do not map the zero page. So is
 * none_of. PFNZERO is also all that is returned, i.e. always 0, so that regions merge
 * across present and swapped.
 */
static int scan_by_ioctl(const struct vm_mem *m, int fd, uint64_t offset,
			 uint64_t bytes, struct scan *s)
{
	struct page_region regions[SCAN_REGIONS];
	uint64_t base = (uintptr_t)m->base;
	uint64_t none_of = PAGE_IS_PFNZERO | s->none_of;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = base + offset,
		.end = base + offset + bytes,
		.vec = (uintptr_t)regions,
		.vec_len = SCAN_REGIONS,
		.category_inverted = none_of,
		.category_mask = none_of,
		.category_anyof_mask = s->categories,
		.return_mask = PAGE_IS_PFNZERO,
	};
	int nr;

	do {
		nr = ioctl(fd, PAGEMAP_SCAN, &arg);
		if (nr < 0)
			return -errno;
		for (int i = 0; i < nr; i++)
			found(s, (regions[i].start - base) >> VM_PAGE_SHIFT,
			      (regions[i].end - regions[i].start) >>
				      VM_PAGE_SHIFT);
		/*
		 * walk_end may stop short of the end although all was seen; an
		 * array that is not full is the sure sign.
		 */
		arg.start = arg.walk_end;
	} while (nr == SCAN_REGIONS && arg.start < arg.end);
	return 0;
}

/* The frame behind a fresh page that was only read; 0 if we may not know. */
static uint64_t zero_page_frame(int fd)
{
	uint64_t entry = 0;
	volatile uint8_t *p = mmap(NULL, VM_PAGE_BYTES, PROT_READ,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 0;
	(void)*p;
	if (pread(fd, &entry, sizeof(entry),
		  (off_t)((uintptr_t)p >> VM_PAGE_SHIFT) * 8) != sizeof(entry))
		entry = 0;
	munmap((void *)p, VM_PAGE_BYTES);
	return entry & PM_PRESENT ? entry & PM_PFN_MASK : 0;
}

/*
 * Kernels before 6.7. Frame numbers are shown to CAP_SYS_ADMIN only; without
 * it, pages that map the zero page count, which costs bytes and loses none.
 */
static int scan_by_pagemap(const struct vm_mem *m, int fd, uint64_t offset,
			   uint64_t bytes, struct scan *s)
{
	static _Thread_local uint64_t entries[PAGEMAP_CHUNK];
	uint64_t zero_frame = zero_page_frame(fd);
	uint64_t base_page = (uintptr_t)m->base >> VM_PAGE_SHIFT;
	uint64_t page = offset >> VM_PAGE_SHIFT;
	uint64_t end = (offset + bytes) >> VM_PAGE_SHIFT;
	uint64_t wanted = s->categories & PAGE_IS_SWAPPED
				  ? PM_PRESENT | PM_SWAPPED
				  : PM_PRESENT;

	if (s->exact && !zero_frame)
		return -EPERM;
	while (page < end) {
		uint64_t nr = end - page < PAGEMAP_CHUNK ? end - page
							 : PAGEMAP_CHUNK;
		ssize_t got = pread(fd, entries, nr * 8,
				    (off_t)(base_page + page) * 8);

		if (got < 0)
			return -errno;
		if (got < 8)
			return -EIO;
		nr = (uint64_t)got / 8;
		for (uint64_t i = 0; i < nr; i++) {
			if (!(entries[i] & wanted))
				continue;
			if (zero_frame && entries[i] & PM_PRESENT &&
			    (entries[i] & PM_PFN_MASK) == zero_frame)
				continue;
			found(s, page + i, 1);
		}
		page += nr;
	}
	return 0;
}

typedef int (*scan_fn)(const struct vm_mem *m, int fd, uint64_t offset,
		       uint64_t bytes, struct scan *s);

static int with_pagemap(const struct vm_mem *m, scan_fn scan, uint64_t offset,
			uint64_t bytes, struct scan *s)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = scan(m, fd, offset, bytes, s);
	close(fd);
	return ret;
}

static int scan_page_tables(const struct vm_mem *m, uint64_t offset,
			    uint64_t bytes, struct scan *s)
{
	int ret = with_pagemap(m, scan_by_ioctl, offset, bytes, s);

	if (ret == -ENOTTY)
		ret = with_pagemap(m, scan_by_pagemap, offset, bytes, s);
	return ret;
}

static int scan_memfd(const struct vm_mem *m, uint64_t offset, uint64_t bytes,
		      struct scan *s)
{
	uint64_t end = offset + bytes;

	while (offset < end) {
		off_t data = lseek(m->fd, (off_t)offset, SEEK_DATA);
		off_t hole;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		if ((uint64_t)data >= end)
			return 0;
		hole = lseek(m->fd, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		if ((uint64_t)hole > end)
			hole = (off_t)end;
		found(s, (uint64_t)data >> VM_PAGE_SHIFT,
		      (uint64_t)(hole - data) >> VM_PAGE_SHIFT);
		offset = (uint64_t)hole;
	}
	return 0;
}

static int check_range(const struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	if (offset % VM_PAGE_BYTES || bytes % VM_PAGE_BYTES ||
	    offset > m->bytes || bytes > m->bytes - offset)
		return -EINVAL;
	return 0;
}

int vm_mem_scan_ioctl(const struct vm_mem *m, uint64_t offset, uint64_t bytes,
		      uint64_t *bitmap)
{
	struct scan s = { .categories = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
			  .bitmap = bitmap };

	return with_pagemap(m, scan_by_ioctl, offset, bytes, &s);
}

int vm_mem_scan_pagemap(const struct vm_mem *m, uint64_t offset, uint64_t bytes,
			uint64_t *bitmap)
{
	struct scan s = { .categories = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
			  .bitmap = bitmap };

	return with_pagemap(m, scan_by_pagemap, offset, bytes, &s);
}

int vm_mem_scan_populated(const struct vm_mem *m, uint64_t offset,
			  uint64_t bytes, uint64_t *bitmap)
{
	struct scan s = { .categories = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
			  .bitmap = bitmap };
	int ret = check_range(m, offset, bytes);

	if (ret < 0 || bytes == 0)
		return ret;
	if (m->backend == VM_MEM_MEMFD)
		return scan_memfd(m, offset, bytes, &s);
	return scan_page_tables(m, offset, bytes, &s);
}

uint64_t vm_mem_resident_bytes(const struct vm_mem *m)
{
	struct scan s = { .categories = PAGE_IS_PRESENT };
	struct stat st;

	/* A memfd's blocks are what it holds, in memory or in swap. */
	if (m->fd >= 0)
		return fstat(m->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
	if (scan_page_tables(m, 0, m->bytes, &s) < 0)
		return 0;
	return s.nr_pages << VM_PAGE_SHIFT;
}

/*
 * Never-touched memory stays that way, so RAM as a whole wants no huge pages; the
 * wish is taken back at once, or RAM would fall into ever more mappings, of which
 * a process can have only so many.
 */
static void populate_huge(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	uint64_t end = (offset + bytes) / VM_HUGE_PAGE_BYTES *
		       VM_HUGE_PAGE_BYTES;
	uint64_t at = (offset + VM_HUGE_PAGE_BYTES - 1) / VM_HUGE_PAGE_BYTES *
		      VM_HUGE_PAGE_BYTES;

	if (at >= end)
		return;
	madvise(m->base + at, end - at, MADV_HUGEPAGE);
	madvise(m->base + at, end - at, MADV_POPULATE_WRITE);
	madvise(m->base + at, end - at, MADV_NOHUGEPAGE);
}

void vm_mem_populate(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	if (m->huge == HUGE_ON_REQUEST)
		populate_huge(m, offset, bytes);
	madvise(m->base + offset, bytes, MADV_POPULATE_WRITE);
}

bool vm_mem_stays_small(const struct vm_mem *m)
{
	struct scan s = { .categories = PAGE_IS_PRESENT };

	return m->huge == HUGE_ON_REQUEST &&
	       with_pagemap(m, scan_by_ioctl, 0, VM_PAGE_BYTES, &s) == 0;
}

/*
 * All of it populated in small pages, and by such that hold something, as far as can
 * be known.
 */
static bool is_whole(const struct vm_mem *m, uint64_t offset)
{
	struct scan s = { .categories = PAGE_IS_PRESENT,
			  .none_of = PAGE_IS_HUGE,
			  .exact = true };

	return scan_page_tables(m, offset, VM_HUGE_PAGE_BYTES, &s) == 0 &&
	       s.nr_pages == VM_HUGE_PAGE_BYTES / VM_PAGE_BYTES;
}

int vm_mem_collapse(struct vm_mem *m, uint64_t offset)
{
	uint8_t *at = m->base + offset;
	int ret;

	if (m->huge == HUGE_NEVER || offset > m->bytes ||
	    m->bytes - offset < VM_HUGE_PAGE_BYTES || !is_whole(m, offset))
		return 0;
	if (m->huge == HUGE_ON_REQUEST)
		madvise(at, VM_HUGE_PAGE_BYTES, MADV_HUGEPAGE);
	ret = madvise(at, VM_HUGE_PAGE_BYTES, MADV_COLLAPSE) < 0 ? -errno : 1;
	if (m->huge == HUGE_ON_REQUEST)
		madvise(at, VM_HUGE_PAGE_BYTES, MADV_NOHUGEPAGE);
	return ret;
}
