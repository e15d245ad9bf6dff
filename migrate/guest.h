/*
 * migrate/guest.h: a machine together with what migrate/ keeps of its memory:
 * the userfaultfd over its RAM and, while pages are still elsewhere, their fill.
 *
 * Owns:    vm, uffd, fill, collapse.
 * Life:    mig_guest_new() takes the vm; mig_guest_free() ends the fill, closes
 *          the userfaultfd, then frees the vm. That order is the only one in
 *          which a vCPU that waits for a page can be ended.
 * Threads: new/free: whoever owns it then, the operation that brings it in and
 *          later the main thread; the rest: any. An operation
 *          may end its fill while another (a snapshot) works with it: whoever
 *          is not the fill's own operation holds it between mig_guest_fill_get()
 *          and mig_guest_fill_put().
 */
#ifndef MIGRATE_GUEST_H
#define MIGRATE_GUEST_H

#include <pthread.h>

#include "migrate/collapse.h"
#include "uffd/uffd.h"
#include "vmm/vm.h"

struct mig_fill;

struct mig_guest {
	struct vm *vm; /* constant */
	struct mig_collapse collapse;
	/* Under lock. */
	pthread_mutex_t lock;
	struct uffd *uffd;     /* NULL until first needed, then constant */
	struct mig_fill *fill; /* NULL when every page is here */
};

/* On failure the vm stays the caller's. */
int mig_guest_new(struct vm *vm, struct mig_guest **ret_guest);
/* NULL is fine. The operations on it have been freed before. */
void mig_guest_free(struct mig_guest *g);
/* Opens it on first use. *err: what is missing on this host, to be freed. */
int mig_guest_uffd(struct mig_guest *g, struct uffd **ret_uffd, char **err);
/* Pages that are not here yet; 0 when all are. Any thread. */
uint64_t mig_guest_missing_pages(struct mig_guest *g);

/*
 * Lets it run. Invariant: a machine runs only while it holds the locks of all
 * its disks (vm.h), and whoever gives a machine away gives up the locks after its
 * devices have come to rest and before anybody else may run it. They are taken
 * here, so that nobody has to remember which way a machine has come. -EBUSY and
 * a line: a disk is somebody else's, the machine stays stopped and may be tried
 * again. -ECANCELED as vm_resume(). All vCPUs parked.
 */
int mig_guest_resume(struct mig_guest *g, char **err);
/*
 * The locks of a machine that was nearly given away: the one that was to have it
 * may be dying, and holds them a moment longer. Tries for some seconds, while
 * may_wait says so. All vCPUs parked.
 */
int mig_guest_lock_again(struct mig_guest *g, bool (*may_wait)(void *ctx),
			 void *ctx, char **err);

/* The fill, held; NULL when every page is here. put takes NULL. */
struct mig_fill *mig_guest_fill_get(struct mig_guest *g);
void mig_guest_fill_put(struct mig_fill *f);

#endif
