/* migrate/image_sums.c: the sums of pages, of files, and of memory.sums. */
#include "migrate/image_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "proto/wire.h"

uint64_t mig_image_page_sum(uint64_t page, const void *data)
{
	uint64_t sum = proto_page_sum(page, data);

	return sum ? sum : 1;
}

static void to_hex(XXH128_hash_t hash, char ret_hex[IMAGE_HASH_CHARS])
{
	snprintf(ret_hex, IMAGE_HASH_CHARS, "%016llx%016llx",
		 (unsigned long long)hash.high64,
		 (unsigned long long)hash.low64);
}

void image_hash(const void *data, size_t bytes, char ret_hex[IMAGE_HASH_CHARS])
{
	to_hex(XXH3_128bits(data, bytes), ret_hex);
}

/* Its own struct, so that xxhash.h stays in this file. */
struct image_sums_hash {
	XXH3_state_t *xxh;
};

struct image_sums_hash *image_sums_hash_new(void)
{
	struct image_sums_hash *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->xxh = XXH3_createState();
	if (!h->xxh) {
		free(h);
		return NULL;
	}
	XXH3_128bits_reset(h->xxh);
	return h;
}

void image_sums_hash_add(struct image_sums_hash *h, uint64_t block,
			 const uint64_t sums[IMAGE_BLOCK_SUMS])
{
	XXH3_128bits_update(h->xxh, &block, sizeof(block));
	XXH3_128bits_update(h->xxh, sums, IMAGE_BLOCK_BYTES);
}

void image_sums_hash_end(struct image_sums_hash *h,
			 char ret_hex[IMAGE_HASH_CHARS])
{
	to_hex(XXH3_128bits_digest(h->xxh), ret_hex);
	XXH3_freeState(h->xxh);
	free(h);
}

static size_t sums_bytes(uint64_t pages)
{
	uint64_t blocks = (pages + IMAGE_BLOCK_SUMS - 1) / IMAGE_BLOCK_SUMS;

	return (size_t)(blocks * IMAGE_BLOCK_BYTES);
}

uint64_t *image_sums_new(uint64_t pages)
{
	void *p = mmap(NULL, sums_bytes(pages), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void image_sums_free(uint64_t *sums, uint64_t pages)
{
	if (sums)
		munmap(sums, sums_bytes(pages));
}
