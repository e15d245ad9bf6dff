/*
 * migrate/disk_copy.h: a copy of a disk that nobody writes to meanwhile.
 *
 * A clone where the file system can share blocks (FICLONE), which is instant;
 * else a copy of what is not a hole.
 * Threads: pure, any thread.
 */
#ifndef MIGRATE_DISK_COPY_H
#define MIGRATE_DISK_COPY_H

#include <stdbool.h>
#include <stdint.h>

struct mig_disk_copy {
	int from_fd; /* a file or a block device of at least `bytes` */
	int to_fd;   /* a file of that size that is one hole */
	uint64_t bytes;
	/* False from it ends the copy with -ECANCELED. */
	bool (*keep_going)(void *ctx);
	void *ctx;
};

/* -EIO: the disk has become shorter. */
int mig_disk_copy(const struct mig_disk_copy *c, bool *ret_cloned);

#endif
