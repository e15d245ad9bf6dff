/*
 * migrate/snapshot_disks.h: the disks of the instant of a snapshot.
 *
 * Threads: the snapshot's, with the guest stopped.
 * Errors:  -errno and a line in *err.
 */
#ifndef MIGRATE_SNAPSHOT_DISKS_H
#define MIGRATE_SNAPSHOT_DISKS_H

#include <stdbool.h>

#include "migrate/image.h"

struct snap_disks_stats {
	unsigned int disks;
	unsigned int cloned;
	uint64_t bytes;
};

/* A copy of every writable disk into the image; false from keep_going: ends. */
int snap_disks_copy(struct vm *vm, struct mig_image_writer *image,
		    bool (*keep_going)(void *ctx), void *ctx,
		    struct snap_disks_stats *ret_stats, char **err);

#endif
