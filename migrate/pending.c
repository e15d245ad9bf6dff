#include "migrate/pending.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "vmm/bitmap.h"

#define PIECE_WORDS 4096 /* 32 KiB: 1 GiB of RAM */

static size_t piece_words(uint64_t pages, size_t first_word)
{
	size_t left = bitmap_words(pages) - first_word;

	return left < PIECE_WORDS ? left : PIECE_WORDS;
}

int mig_pending_send(struct mig_link *l, const uint64_t *map, uint64_t pages)
{
	uint64_t le[PIECE_WORDS];
	size_t first, i, nr;
	int ret;

	for (first = 0; first < bitmap_words(pages); first += nr) {
		Vmmd__Pending msg = VMMD__PENDING__INIT;
		uint64_t any = 0;

		nr = piece_words(pages, first);
		for (i = 0; i < nr; i++) {
			any |= map[first + i];
			le[i] = htole64(map[first + i]);
		}
		if (!any)
			continue;
		msg.first_page = first * BITMAP_WORD_BITS;
		msg.bitmap.data = (uint8_t *)le;
		msg.bitmap.len = nr * sizeof(le[0]);
		ret = mig_link_send(l, PROTO_PENDING, &msg.base);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int mig_pending_decode(const Vmmd__Pending *msg, uint64_t *map, uint64_t pages)
{
	uint64_t page;
	size_t i;
	int bit;

	if (msg->first_page % 8 != 0 || msg->first_page > pages)
		return -EBADMSG;
	page = msg->first_page;
	for (i = 0; i < msg->bitmap.len; i++, page += 8) {
		for (bit = 0; bit < 8; bit++) {
			if (!(msg->bitmap.data[i] >> bit & 1))
				continue;
			if (page + (uint64_t)bit >= pages)
				return -EBADMSG;
			bitmap_set(map, page + (uint64_t)bit);
		}
	}
	return 0;
}
