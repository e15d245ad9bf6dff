/*
 * migrate/block.h: pages of a postcopy that come one after the other, made into a
 * huge page before the guest gets them.
 *
 * The bulk comes block by block (MIG_STRIPE_PAGES, a huge page). Placing it run by run
 * costs a small page and a copy for each page of it, and one more copy of everything
 * to have huge pages again (collapse.h). A block of which nothing is here yet is put
 * together in a huge page of our own instead, and given to the guest as it is. It is
 * not worth going on with once a page of it had to be placed by itself.
 *
 * Invariants:
 * - A page in a block still pends, so that a session that breaks loses nothing.
 * - Nobody waits for a page that lies in one. Who faults is on the fill's list before
 *   he looks here (mig_block_give); the receiver adds pages before he looks at the list.
 * - What lies in one is placed when MIG_BLOCK_WAIT_MS bring nothing to go on with, and
 *   before anything else is placed by the same receiver: no page needs a later one.
 *
 * One for each bulk channel.
 * Threads: give: any; init, fini: when nobody uses it; trim: the channel's receiver, or
 *          when nobody uses it; the rest: the channel's receiver.
 * Errors:  -errno, of mig_fill_place().
 */
#ifndef MIGRATE_BLOCK_H
#define MIGRATE_BLOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/fill.h"
#include "proto/wire.h"

#define MIG_BLOCK_WAIT_MS 5

struct mig_block {
	/*
	 * Held while pages are placed from here. The range is written under it, by
	 * the receiver, and may be looked at without: who is on the fill's list sees
	 * all that the receiver has not yet held against that list.
	 */
	pthread_mutex_t lock;
	_Atomic uint64_t first_page;
	_Atomic uint64_t nr_pages; /* from first_page on; 0: empty */
	struct mig_fill *fill;     /* of the pages that are here */
	/* Owned; NULL: none. Whole block. Changes only while nothing is here. */
	uint8_t *pages;
	atomic_bool spoiled; /* a page was placed by itself */
	/* The receiver's. */
	bool was_huge; /* pages held a huge page since they were mapped */
	bool is_small; /* there was none when they were new: no more blocks */
};

void mig_block_init(struct mig_block *b);
void mig_block_fini(struct mig_block *b);
/* Gives its memory back. Empty. */
void mig_block_trim(struct mig_block *b);
/*
 * Where the pages of run are to be read to, to be added then; NULL: not here. What is
 * here and does not go on with run is placed first; run NULL: nothing does.
 */
int mig_block_room(struct mig_block *b, struct mig_fill *fill,
		   const struct proto_run *run, uint8_t **ret_room);
/* So many have been read there, and are what was sent. Who waits for one has it. */
int mig_block_add(struct mig_block *b, uint64_t nr_pages);
/* Places what is here. Nobody is in mig_block_give() with success after it. */
int mig_block_flush(struct mig_block *b);
bool mig_block_is_empty(const struct mig_block *b);
/* True if page is here, and has been placed now. */
bool mig_block_give(struct mig_block *b, uint64_t page);

#endif
