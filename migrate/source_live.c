#include "migrate/source_internal.h"

#include <string.h>

/*
 * Where RAM holds anything. What was never populated holds nothing, whatever is said
 * of it (manual starts with every bit set), and is not even read. A guest of 64 GiB
 * has 2 MiB of bits, and may use little of it: so RAM is looked at in chunks, each 4
 * KiB of bitmap, which are alive from the first page on that is found in them, and a
 * pause needs to walk no others.
 *
 * Invariant: after a fetch no bit is set in a dead chunk, in any of the bitmaps.
 * scratch is all clear, but within these functions.
 */
#define CHUNK_PAGES UINT64_C(32768)

static uint64_t nr_chunks(const struct mig_source *s)
{
	return (s->ram_pages + CHUNK_PAGES - 1) / CHUNK_PAGES;
}

uint64_t *mig_source_new_live(const struct mig_source *s)
{
	return bitmap_new(nr_chunks(s));
}

void mig_source_free_live(struct mig_source *s)
{
	bitmap_free(s->live, nr_chunks(s));
}

static uint64_t first_page(const struct mig_source *s, uint64_t chunk)
{
	uint64_t page = chunk * CHUNK_PAGES;

	return page < s->ram_pages ? page : s->ram_pages;
}

static size_t first_word(const struct mig_source *s, uint64_t chunk)
{
	return bitmap_words(first_page(s, chunk));
}

bool mig_source_next_live(const struct mig_source *s, size_t *first,
			  size_t *end)
{
	uint64_t chunk = (*end * 64 + CHUNK_PAGES - 1) / CHUNK_PAGES;
	uint64_t nr = nr_chunks(s);

	chunk = bitmap_next_set(s->live, chunk, nr);
	*first = first_word(s, chunk);
	chunk = bitmap_next_clear(s->live, chunk, nr);
	*end = first_word(s, chunk);
	return *first < *end;
}

static bool has_bit(const struct mig_source *s, const uint64_t *map,
		    uint64_t chunk)
{
	uint64_t end = first_page(s, chunk + 1);

	return bitmap_next_set(map, first_page(s, chunk), end) < end;
}

static void find_live(struct mig_source *s, const uint64_t *map, uint64_t chunk,
		      uint64_t end)
{
	for (; chunk < end; chunk++) {
		if (has_bit(s, map, chunk))
			bitmap_set(s->live, chunk);
	}
}

static int scan(struct mig_source *s, uint64_t page, uint64_t end,
		uint64_t *map)
{
	return vm_mem_scan_populated(s->mem, page * VM_PAGE_BYTES,
				     (end - page) * VM_PAGE_BYTES, map);
}

int mig_source_scan_all(struct mig_source *s, uint64_t *map)
{
	int ret = scan(s, 0, s->ram_pages, map);

	if (ret == 0)
		find_live(s, map, 0, nr_chunks(s));
	return ret;
}

static bool is_in_doubt(const struct mig_source *s, uint64_t chunk)
{
	return !bitmap_test(s->live, chunk) && has_bit(s, s->dirty, chunk);
}

/* Dead until now, and dirtied: some may have been populated since. */
static int look_at_dead(struct mig_source *s, uint64_t chunk, uint64_t end)
{
	int ret;

	ret = scan(s, first_page(s, chunk), first_page(s, end), s->scratch);
	if (ret < 0)
		return ret;
	find_live(s, s->scratch, chunk, end);
	for (; chunk < end; chunk++) {
		size_t i = first_word(s, chunk);
		uint64_t *map = bitmap_test(s->live, chunk) ? s->scratch
							    : s->dirty;

		memset(map + i, 0,
		       (first_word(s, chunk + 1) - i) * sizeof(*map));
	}
	return 0;
}

/* Of words whose pages were dirtied and never sent. */
static int drop_from(struct mig_source *s, size_t first, size_t end)
{
	uint64_t last = end * 64 < s->ram_pages ? end * 64 : s->ram_pages;
	int ret = scan(s, first * 64, last, s->scratch);

	for (; ret == 0 && first < end; first++) {
		s->dirty[first] &= s->sent[first] | s->scratch[first];
		s->scratch[first] = 0;
	}
	return ret;
}

static int look_at_live(struct mig_source *s, size_t first, size_t end)
{
	size_t i;
	int ret = 0;

	for (; ret == 0 && first < end; first = i + 1) {
		for (i = first; i < end && (s->dirty[i] & ~s->sent[i]); i++)
			;
		if (i > first)
			ret = drop_from(s, first, i);
	}
	return ret;
}

int mig_source_drop_unpopulated(struct mig_source *s)
{
	uint64_t nr = nr_chunks(s), chunk, end;
	size_t first, last = 0;
	int ret = 0;

	for (chunk = 0; ret == 0 && chunk < nr; chunk = end) {
		end = chunk + 1;
		if (!is_in_doubt(s, chunk))
			continue;
		while (end < nr && is_in_doubt(s, end))
			end++;
		ret = look_at_dead(s, chunk, end);
	}
	while (ret == 0 && mig_source_next_live(s, &first, &last))
		ret = look_at_live(s, first, last);
	return ret;
}
