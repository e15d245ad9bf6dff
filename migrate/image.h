/*
 * migrate/image.h: a snapshot on disk.
 *
 * A directory of four files, and perhaps copies of disks:
 *
 *	manifest.json	what it is: format, layout, and a sum of all the rest
 *	state.pb	SavedMachine of state.proto: CPUID, vCPUs, devices
 *	memory		RAM, offset by offset; sparse, holes are zero
 *	memory.sums	for each page 8 bytes, little-endian: its sum, 0 when
 *			the page is all zero; sparse as memory is
 *	diskN.raw	the guest's N-th disk, if it was asked for and is
 *			writable; nothing here ever reads it or writes to it
 *			again, and it has no sum
 *
 * The fourth file is what lets a guest start before its memory has been read:
 * one sum over all of memory could only be checked by reading all of it, while
 * a page's own sum is checked when the page is needed. A page's sum is
 * proto_page_sum(), seeded with its index, so that a page in another's place is
 * wrong; a sum that happens to be 0 is written as 1. A page whose sum is 0 is
 * never read from memory: it is zero.
 *
 * The manifest's sum of memory.sums is XXH3-128 over (index as 8 bytes
 * little-endian, then the block) of each 4 KiB block that is not all zero, the
 * last one filled up with zeros: what it costs follows what the guest used, not
 * what it was configured with.
 *
 * Publication: all is written into .NAME.tmp-PID beside the final place,
 * fsynced, and renamed. What has the final name is complete. The writer holds a
 * flock on the temporary directory, so one that nobody holds is a dead
 * process's and may be removed.
 *
 * Threads: one at a time for each object; mig_image_set_sum(): any, for
 *          different pages; a reader's memory and sums: any.
 * Errors:  -errno and a line in *err (may be NULL).
 */
#ifndef MIGRATE_IMAGE_H
#define MIGRATE_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/state_codec.h"

#define MIG_IMAGE_FORMAT 1

/* The sum of a page that is not all zero. Never 0. */
uint64_t mig_image_page_sum(uint64_t page, const void *data);

struct mig_image_writer;

/*
 * Makes the temporary directory beside dir. -EEXIST when there is something at
 * dir. The memory file has ram_bytes and is one hole.
 */
int mig_image_create(const char *dir, uint64_t ram_bytes,
		     struct mig_image_writer **ret_writer, char **err);
/* Write pages at their offsets; borrowed. */
int mig_image_memory_fd(const struct mig_image_writer *w);
void mig_image_set_sum(struct mig_image_writer *w, uint64_t page, uint64_t sum);
/*
 * An empty file of that size for the copy of disk `index`, once for each;
 * *ret_fd is borrowed.
 */
int mig_image_create_disk(struct mig_image_writer *w, unsigned int index,
			  uint64_t bytes, int *ret_fd, char **err);
/*
 * Is this open file one of the copies in the snapshot at dir? Whoever restored a
 * guest onto it would change the snapshot.
 */
bool mig_image_has_disk(const char *dir, int fd);
/*
 * Completes and publishes it. *ret_bytes: of all files but memory. Until it has
 * returned 0 there is nothing at dir.
 */
int mig_image_commit(struct mig_image_writer *w, const struct mig_machine *m,
		     const uint8_t *state, size_t state_bytes,
		     uint64_t *ret_bytes, char **err);
/* Without a commit, or after one that failed: leaves nothing. NULL is fine. */
void mig_image_writer_free(struct mig_image_writer *w);

struct mig_image {
	struct mig_machine machine;
	uint8_t *state; /* owned; packed VmState */
	size_t state_bytes;
	int memory_fd;
	const uint64_t *sums; /* owned; one for each page, host order */
	uint8_t *block_used;  /* owned; by 512 sums: any of them is not 0 */
	uint64_t pages;
	uint64_t data_pages; /* whose sum is not 0 */
};

/* All but the content of memory is verified when it returns 0. */
int mig_image_open(const char *dir, struct mig_image **ret_image, char **err);
void mig_image_free(struct mig_image *img); /* NULL is fine */
/*
 * The first run of at most nr_max pages that have a sum, at *page or after it;
 * false when there is none.
 */
bool mig_image_next_run(const struct mig_image *img, uint64_t *page,
			uint64_t *ret_nr, uint64_t nr_max);
/*
 * Reads pages [page, +nr) into buf, all of them with a sum. 0, or -errno of the
 * read; a short file is -EIO. Does not verify.
 */
int mig_image_read(const struct mig_image *img, uint64_t page, uint64_t nr,
		   void *buf);
bool mig_image_page_is_good(const struct mig_image *img, uint64_t page,
			    const void *data);

#endif
