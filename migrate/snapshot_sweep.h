/*
 * migrate/snapshot_sweep.h: every page of the instant of the stop, saved once.
 *
 * The set S of pages that may hold data is fixed while the guest is stopped;
 * what is not in it was zero and is a hole. The sweeper saves in file order, and
 * the fault threads whatever the guest is about to write. A page is claimed by
 * clearing its bit in `todo`, atomically, so exactly one of them copies it, and
 * it stays protected until it has been copied.
 *
 * Bits stand for host pages: on hugetlb the kernel protects nothing smaller.
 *
 * Threads: as noted; the sweeper is the thread of the snapshot.
 */
#ifndef MIGRATE_SNAPSHOT_SWEEP_H
#define MIGRATE_SNAPSHOT_SWEEP_H

#include "migrate/fill.h"
#include "migrate/guest.h"
#include "migrate/image.h"

struct snap_sweep;

/*
 * live: protect S and save faults, for a guest that will run on; this starts
 * UFFD_WP, but protects nothing yet. False from keep_going ends a run.
 */
int snap_sweep_new(struct mig_guest *g, struct mig_image_writer *image,
		   bool live, bool (*keep_going)(void *ctx), void *ctx,
		   struct snap_sweep **ret_sweep, char **err);
/* Lets go of every page that is still protected. NULL is fine. */
void snap_sweep_free(struct snap_sweep *s);
/* Guest stopped: fix S and protect it. */
int snap_sweep_plan(struct snap_sweep *s, char **err);
/* Save it all. Afterwards nothing is protected and all writes have ended. */
int snap_sweep_run(struct snap_sweep *s, char **err);

struct snap_sweep_stats {
	uint64_t total_pages; /* of S */
	uint64_t left_pages;
	uint64_t data_pages; /* in the image */
	uint64_t bytes_written;
	struct mig_latency faults;
};
void snap_sweep_stats(struct snap_sweep *s, struct snap_sweep_stats *ret);

#endif
