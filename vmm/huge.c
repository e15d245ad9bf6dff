#include "vmm/huge.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compat/linux.h"
#include "vmm/mem.h"

/* What a mapping has of it. */
static size_t mapped_bytes(size_t bytes)
{
	return (bytes + VM_PAGE_BYTES - 1) & -VM_PAGE_BYTES;
}

/* From a huge page's boundary on; what was mapped around it is given back. */
static void *map_aligned(size_t bytes)
{
	uint8_t *p = mmap(NULL, bytes + VM_HUGE_PAGE_BYTES,
			  PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;

	if (p == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)p % VM_HUGE_PAGE_BYTES;
	if (before)
		munmap(p, before);
	munmap(p + before + bytes, VM_HUGE_PAGE_BYTES - before);
	return p + before;
}

void *huge_map(size_t bytes)
{
	void *map = map_aligned(mapped_bytes(bytes));

	if (map)
		madvise(map, mapped_bytes(bytes), MADV_HUGEPAGE);
	return map;
}

void huge_unmap(void *map, size_t bytes)
{
	if (map)
		munmap(map, mapped_bytes(bytes));
}

bool huge_is(const void *map)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region region = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)map,
		.end = (uintptr_t)map + VM_HUGE_PAGE_BYTES,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};
	bool is = fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) == 1 &&
		  region.end - region.start == VM_HUGE_PAGE_BYTES;

	if (fd >= 0)
		close(fd);
	return is;
}
