/*
 * migrate/fill.h: memory whose pages are still somewhere else.
 *
 * A pending bitmap says which pages are not here yet. Faults on them are passed
 * to a supplier (the source of a postcopy, the file of a lazy restore); other
 * missing pages are zeros and are served here.
 *
 * Invariants:
 * - A pending bit is cleared only after the page is installed, so no fault
 *   thread can take a page on its way for a zero page.
 * - A page is installed by UFFDIO_COPY and UFFDIO_MOVE only, which never replace
 *   one: no older copy can overwrite what the guest wrote.
 * - From new to free RAM is held (vm_mem_hold): a pending page stays pending until
 *   it has been placed, whatever the guest offers to give back.
 * - While protect is set, pages arrive write protected, and setting it waits for
 *   installs under way: no page slips in unprotected after it.
 *
 * Threads: new/free: the operation's; place: any; want runs on fault threads,
 *          several at once, and on those that called mig_fill_ensure() or
 *          mig_fill_want_again().
 *          Other operations than the fill's own hold it while they use it:
 *          mig_guest_fill_get().
 * Units:   pages of VM_PAGE_BYTES (on hugetlb a fill is refused).
 */
#ifndef MIGRATE_FILL_H
#define MIGRATE_FILL_H

#include "migrate/guest.h"
#include "migrate/stats.h"

struct mig_fill_ops {
	/* Get page here soon by mig_fill_place(). May place it at once. */
	void (*want)(void *ctx, uint64_t page);
	/* The last pending page is in. On the thread that placed it. */
	void (*drained)(void *ctx);
};

/*
 * Takes over pending (malloc'd, one bit per page; on failure it stays the
 * caller's), sets g->fill and starts UFFD_MISSING. The vm must be stopped or
 * never started, and no pending page may be populated when one is first placed:
 * a page that is there is never replaced. With nothing pending drained is not
 * called.
 */
int mig_fill_new(struct mig_guest *g, uint64_t *pending,
		 const struct mig_fill_ops *ops, void *ctx,
		 struct mig_fill **ret_fill, char **err);
/*
 * Ends the fill: no op runs once it returns, g->fill is NULL, and with every page
 * here the guest's memory may become huge (collapse.h). NULL is fine. Not
 * from ops; and the operation's own threads are out of mig_fill_place(), those
 * that drained() has been called on included; fault threads are waited for. When
 * pages are still pending they read as zero from here on, so that is only for a
 * machine that will never run again; if it runs it is parked first, as far as it
 * can be.
 */
void mig_fill_free(struct mig_fill *f);

/* data NULL: zeros. Pages that are not pending are ignored. */
int mig_fill_place(struct mig_fill *f, uint64_t page, uint64_t nr,
		   const uint8_t *data);
/*
 * The same out of a block (block.h), from which some may have been placed before: these
 * are no duplicates. data is page aligned, private anonymous memory. A huge page of
 * which all pends becomes the guest's itself (uffd_move); data is undefined then.
 */
int mig_fill_place_block(struct mig_fill *f, uint64_t page, uint64_t nr,
			 uint8_t *data);
/* Whether the huge page that begins with page would, as far as can be told now. */
bool mig_fill_takes_huge(const struct mig_fill *f, uint64_t page);
/*
 * Somebody waits for one of these pages. A fault is noted before ops->want is called.
 * Any thread.
 */
bool mig_fill_is_awaited(struct mig_fill *f, uint64_t page, uint64_t nr);
uint64_t mig_fill_pending(const struct mig_fill *f); /* how many; any thread */
bool mig_fill_is_pending(const struct mig_fill *f, uint64_t page);
/* A copy of the bitmap as of now, ORed into bitmap. Any thread. */
void mig_fill_pending_or(const struct mig_fill *f, uint64_t *bitmap);
/* Asks again for every page a fault waits for (after a rejoin). */
void mig_fill_want_again(struct mig_fill *f);
/*
 * Wait until pages [page, +nr) are here, asking for them; false from keep_going
 * gives up with -ECANCELED; -EIO when the fill ended or failed before. For
 * threads other than the fault threads.
 */
int mig_fill_ensure(struct mig_fill *f, uint64_t page, uint64_t nr,
		    bool (*keep_going)(void *ctx), void *ctx);
/*
 * Lets go of everybody who waits for a page: it reads as zero, as in
 * mig_fill_free(), which is still due. For a machine that will never run, from
 * any thread but the fault threads.
 */
void mig_fill_abandon(struct mig_fill *f);
/* The supplier cannot go on: mig_fill_ensure() stops waiting. */
void mig_fill_fail(struct mig_fill *f);
bool mig_fill_has_failed(struct mig_fill *f);
/* Only between start and stop of UFFD_WP. Any thread. */
void mig_fill_set_protect(struct mig_fill *f, bool protect);
/* Pages that came when they were already there, or were zeros from here. */
uint64_t mig_fill_duplicates(const struct mig_fill *f);
/* Of faults that waited for the supplier; zeros served here do not count. */
void mig_fill_faults(const struct mig_fill *f, struct mig_faults *ret_faults);

/* For mig_guest_fill_get() and _put(); the last drop frees the storage. */
void mig_fill_hold(struct mig_fill *f);
void mig_fill_drop(struct mig_fill *f);

#endif
