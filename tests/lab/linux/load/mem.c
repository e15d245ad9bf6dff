/* tests/lab/linux/load/mem.c: every page is what was last written to it. */
#include "load.h"

#include <stdlib.h>

#define PAGES_A_ROUND 256

/* Half of the rounds go over all of memory in order, half are here and there. */
int load_mem(int argc, char **argv)
{
	size_t nr = argc == 2 ? strtoul(argv[1], NULL, 10) << 8 : 0;
	uint64_t next = 0;
	uint32_t *versions;
	char *pages;

	if (nr == 0)
		return -1;
	pages = load_memory(nr * PAGE_BYTES);
	versions = load_memory(nr * sizeof(*versions));
	for (size_t i = 0; i < nr; i++)
		load_fill(pages + i * PAGE_BYTES, PAGE_BYTES, i, 0);
	for (uint64_t round = 0;; round++) {
		for (int i = 0; i < PAGES_A_ROUND; i++) {
			uint64_t page = (round % 2 ? next++ : load_random()) %
					nr;
			char *at = pages + page * PAGE_BYTES;

			load_check(at, PAGE_BYTES, page, versions[page],
				   "memory");
			load_fill(at, PAGE_BYTES, page, ++versions[page]);
		}
		load_round(PAGES_A_ROUND * PAGE_BYTES);
	}
}
