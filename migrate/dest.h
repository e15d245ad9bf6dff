/*
 * migrate/dest.h: the side a guest arrives at.
 *
 * Life:    mig_dest_start() takes a listening socket and spawns the threads;
 *          ops->changed says when to look again. mig_dest_free() stops them.
 * Phases:  MIG_SETUP waits for a source; MIG_POSTCOPY and later (see
 *          mig_dest_guest) the guest runs here; MIG_COMPLETE every page is in;
 *          MIG_FAILED, MIG_CANCELLED the guest never ran here and never will;
 *          MIG_PAUSED the link was lost after it: waits on the listener.
 * Threads: start, free, guest: main thread. status: any.
 */
#ifndef MIGRATE_DEST_H
#define MIGRATE_DEST_H

#include "migrate/guest.h"
#include "migrate/hardware.h"
#include "migrate/stats.h"

struct mig_dest_config {
	int listen_fd; /* owned by the mig_dest once start has succeeded */
	uint32_t dirty_ring_entries;
	struct mig_host_side host; /* what it points to: until free */
	const struct vm_ops
		*vm_ops; /* for vm_new(), which runs on our thread */
	void *vm_ctx;
};

struct mig_dest_ops {
	void (*changed)(void *ctx); /* any thread: post and return */
};

struct mig_dest;

int mig_dest_start(const struct mig_dest_config *cfg,
		   const struct mig_dest_ops *ops, void *ctx,
		   struct mig_dest **ret_dest);
/*
 * The guest, once it runs here (MIG_POSTCOPY, or MIG_PAUSED/MIG_COMPLETE after
 * it): ownership passes to the caller with the first call that returns it; free
 * the mig_dest before it. NULL before.
 */
struct mig_guest *mig_dest_guest(struct mig_dest *d);
void mig_dest_status(struct mig_dest *d, struct mig_status *ret_status,
		     struct mig_stats *ret_stats);
void mig_dest_free(struct mig_dest *d);

#endif
