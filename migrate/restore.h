/*
 * migrate/restore.h: a guest out of a snapshot directory.
 *
 * Phases used: MIG_SETUP (image checked, machine built, eager: memory read),
 * MIG_POSTCOPY (the guest runs; lazy: pages still come from the file), then
 * MIG_COMPLETE or MIG_FAILED. Lazy: a page found damaged after the start leaves
 * the guest paused with MIG_PAUSED: it is never shown wrong bytes.
 * Threads: start, free, guest: main thread. status: any.
 */
#ifndef MIGRATE_RESTORE_H
#define MIGRATE_RESTORE_H

#include "migrate/guest.h"
#include "migrate/hardware.h"
#include "migrate/stats.h"

struct mig_restore_config {
	const char *dir; /* copied */
	bool lazy;
	uint32_t dirty_ring_entries;
	struct mig_host_side host; /* what it points to: until free */
	const struct vm_ops
		*vm_ops; /* for vm_new(), which runs on our thread */
	void *vm_ctx;
};

struct mig_restore_ops {
	void (*changed)(void *ctx); /* any thread: post and return */
};

struct mig_restore;

int mig_restore_start(const struct mig_restore_config *cfg,
		      const struct mig_restore_ops *ops, void *ctx,
		      struct mig_restore **ret_restore);
/* As mig_dest_guest(). */
struct mig_guest *mig_restore_guest(struct mig_restore *r);
void mig_restore_status(struct mig_restore *r, struct mig_status *ret_status,
			struct mig_restore_stats *ret_stats);
void mig_restore_free(struct mig_restore *r);

#endif
