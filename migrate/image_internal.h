/* migrate/image_internal.h: what writing and reading an image share. */
#ifndef MIGRATE_IMAGE_INTERNAL_H
#define MIGRATE_IMAGE_INTERNAL_H

#include "migrate/image.h"

#define IMAGE_MANIFEST "manifest.json"
#define IMAGE_STATE    "state.pb"
#define IMAGE_MEMORY   "memory"
#define IMAGE_SUMS     "memory.sums"

#define IMAGE_MANIFEST_BYTES_MAX (64u << 10)
#define IMAGE_BLOCK_BYTES        4096u
#define IMAGE_BLOCK_SUMS         (IMAGE_BLOCK_BYTES / 8) /* pages of a block */

#define IMAGE_DISK_NAME_CHARS 16
void image_disk_name(unsigned int index, char ret_name[IMAGE_DISK_NAME_CHARS]);

/* XXH3-128 as 32 hexadecimal digits and a NUL. */
#define IMAGE_HASH_CHARS 33

void image_hash(const void *data, size_t bytes, char ret_hex[IMAGE_HASH_CHARS]);

/* Feed it the blocks of memory.sums that are not all zero, in order. */
struct image_sums_hash;
struct image_sums_hash *image_sums_hash_new(void);
void image_sums_hash_add(struct image_sums_hash *h, uint64_t block,
			 const uint64_t sums[IMAGE_BLOCK_SUMS]);
/* Frees h. */
void image_sums_hash_end(struct image_sums_hash *h,
			 char ret_hex[IMAGE_HASH_CHARS]);

/* An array of a sum for each page; what nobody touches takes no memory. */
uint64_t *image_sums_new(uint64_t pages);
void image_sums_free(uint64_t *sums, uint64_t pages);

/* What the manifest says beyond what is in state.pb. */
struct image_manifest {
	uint64_t ram_bytes;
	uint64_t data_pages;
	uint64_t state_bytes;
	char state_hash[IMAGE_HASH_CHARS];
	char sums_hash[IMAGE_HASH_CHARS];
	/* Copies of disks: for people and other programs, not read back. */
	struct image_disk {
		unsigned int index;
		uint64_t bytes;
	} disks[MIG_DISKS_MAX];
	size_t nr_disks;
};

/* *ret_text: malloc'd JSON with a newline at its end. */
int image_manifest_write(const struct image_manifest *f,
			 const struct mig_machine *m, char **ret_text);
int image_manifest_parse(const char *text, size_t bytes,
			 struct image_manifest *ret_manifest, char **err);

#endif
