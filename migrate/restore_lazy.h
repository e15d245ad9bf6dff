/*
 * migrate/restore_lazy.h: guest memory filled from a snapshot while it runs.
 *
 * The fault threads read what the guest waits for, with its neighbours; the
 * restore's thread reads the rest in file order and stands back for faults. No
 * page is installed before its sum has been checked.
 *
 * Threads: new, loaded, run: the restore's. end, stats: any. free: after both.
 * Borrows: guest and image, until free; after end the guest no more.
 */
#ifndef MIGRATE_RESTORE_LAZY_H
#define MIGRATE_RESTORE_LAZY_H

#include "migrate/fill.h"
#include "migrate/image.h"

struct restore_lazy;

/* Starts serving faults. The guest has not run and its memory is untouched. */
int restore_lazy_new(struct mig_guest *g, const struct mig_image *img,
		     struct restore_lazy **ret_lazy, char **err);
/*
 * The state has been loaded, which may have needed pages. On failure one of them
 * could not be had, and the guest must not run.
 */
int restore_lazy_loaded(struct restore_lazy *l, char **err);
/*
 * Returns 0 when every page is in; -ECANCELED when keep_going says so or the
 * fill was ended; else a page cannot be had and *err says which: faults on
 * others are still served.
 */
int restore_lazy_run(struct restore_lazy *l, bool (*keep_going)(void *ctx),
		     void *ctx, char **err);
/* Ends the fill, once; see mig_fill_free(). */
void restore_lazy_end(struct restore_lazy *l);
void restore_lazy_stats(struct restore_lazy *l, uint64_t *ret_left_pages,
			struct mig_faults *ret_faults);
void restore_lazy_free(struct restore_lazy *l); /* after end; NULL is fine */

#endif
