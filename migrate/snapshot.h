/*
 * migrate/snapshot.h: a running guest into a directory (image.h has the format).
 *
 * What it promises: memory, vCPUs and devices of one instant, at which no disk
 * request is under way. With cfg.disks also the writable disks of that instant;
 * without, nothing about disks: they go on changing.
 *
 * Phases used: MIG_SETUP, MIG_SWITCHOVER (guest stopped), MIG_PRECOPY (pages
 * are being written; the guest runs unless cfg.stop), then an end. Whatever
 * fails, the guest goes on and nothing is left of the directory.
 * Threads: start, cancel, free: main thread. status: any. Own threads: one that
 *          sweeps; page saving also on the uffd's fault threads.
 * Borrows: the guest, until free.
 */
#ifndef MIGRATE_SNAPSHOT_H
#define MIGRATE_SNAPSHOT_H

#include "migrate/guest.h"
#include "migrate/stats.h"

struct mig_snapshot_config {
	const char *dir; /* must not exist; copied */
	bool stop;       /* keep the guest stopped while pages are written */
	bool disks; /* copies of writable disks, made while it is stopped */
};

struct mig_snapshot_ops {
	void (*changed)(void *ctx); /* any thread: post and return */
};

struct mig_snapshot;

int mig_snapshot_start(struct mig_guest *g,
		       const struct mig_snapshot_config *cfg,
		       const struct mig_snapshot_ops *ops, void *ctx,
		       struct mig_snapshot **ret_snapshot, char **err);
void mig_snapshot_cancel(struct mig_snapshot *s);
void mig_snapshot_status(struct mig_snapshot *s, struct mig_status *ret_status,
			 struct mig_snapshot_stats *ret_stats);
void mig_snapshot_free(struct mig_snapshot *s);

#endif
