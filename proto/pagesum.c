#include "proto/wire.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t proto_page_sum(uint64_t page, const void *data)
{
	return XXH3_64bits_withSeed(data, PROTO_PAGE_BYTES, page);
}

/*
 * Nearly every page that is not zero differs in its first line, so the loop
 * reads one line at a time and leaves early; the compiler vectorises the ORs.
 */
bool proto_page_is_zero(const void *data)
{
	const uint64_t *p = data;
	size_t i;

	for (i = 0; i < PROTO_PAGE_BYTES / sizeof(*p); i += 8) {
		if ((p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] |
		     p[i + 5] | p[i + 6] | p[i + 7]) != 0)
			return false;
	}
	return true;
}
