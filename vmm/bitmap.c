#include "vmm/bitmap.h"

#include <stdlib.h>

#include "vmm/huge.h"
#include "vmm/mem.h"

static size_t bitmap_bytes(uint64_t bits)
{
	return bitmap_words(bits) * sizeof(uint64_t);
}

static bool is_big(uint64_t bits)
{
	return bitmap_bytes(bits) >= VM_HUGE_PAGE_BYTES;
}

uint64_t *bitmap_new(uint64_t bits)
{
	if (!is_big(bits))
		return calloc(bitmap_words(bits), sizeof(uint64_t));
	return huge_map(bitmap_bytes(bits));
}

void bitmap_free(uint64_t *map, uint64_t bits)
{
	if (is_big(bits))
		huge_unmap(map, bitmap_bytes(bits));
	else
		free(map);
}
