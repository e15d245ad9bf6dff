#include "vmm/bitmap.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "vmm/mem.h"

static size_t bitmap_bytes(uint64_t bits)
{
	return bitmap_words(bits) * sizeof(uint64_t);
}

static bool is_big(uint64_t bits)
{
	return bitmap_bytes(bits) >= VM_HUGE_PAGE_BYTES;
}

/* What a mapping has of it. */
static size_t mapped_bytes(uint64_t bits)
{
	return (bitmap_bytes(bits) + VM_PAGE_BYTES - 1) & -VM_PAGE_BYTES;
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

uint64_t *bitmap_new(uint64_t bits)
{
	void *map;

	if (!is_big(bits))
		return calloc(bitmap_words(bits), sizeof(uint64_t));
	map = map_aligned(mapped_bytes(bits));
	if (map) /* without huge pages it is slower, no more */
		madvise(map, mapped_bytes(bits), MADV_HUGEPAGE);
	return map;
}

void bitmap_free(uint64_t *map, uint64_t bits)
{
	if (!map || !is_big(bits))
		free(map);
	else
		munmap(map, mapped_bytes(bits));
}
