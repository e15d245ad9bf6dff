/*
 * migrate/snapshot_io.h: copies of guest pages on their way into the image.
 *
 * What is written is always a copy: the guest may run on the moment a page has
 * been copied, and no disk ever holds it up. Zero pages become holes.
 *
 * Threads: new, submit, reap, finish, free: the sweeper; write_now, stats: any;
 *          pools: any.
 * Errors:  -errno; the first one that a write met stays, and every later call
 *          that writes returns it.
 */
#ifndef MIGRATE_SNAPSHOT_IO_H
#define MIGRATE_SNAPSHOT_IO_H

#include <pthread.h>

#include "migrate/image.h"

#define SNAP_CHUNK_PAGES_MAX 512 /* one huge page */
#define SNAP_CHUNK_WORDS     (SNAP_CHUNK_PAGES_MAX / 64)

struct snap_pool;

/* A copy of some of the pages [page, +nr_pages), each at its own place. */
struct snap_chunk {
	struct snap_pool *pool; /* constant: where it goes when it is written */
	uint8_t *data;          /* constant: room for the pool's chunk_pages */
	uint64_t page;
	uint64_t mask[SNAP_CHUNK_WORDS]; /* pages that are to be written */
	unsigned int nr_writes;          /* io's: in flight */
	struct snap_chunk *next;
};

/* A fixed number of chunks. */
struct snap_pool {
	pthread_mutex_t lock;
	struct snap_chunk *free; /* under lock */
	struct snap_chunk *chunks;
	uint8_t *data;
	size_t data_bytes;
	uint64_t chunk_pages;
};

int snap_pool_init(struct snap_pool *p, unsigned int nr, uint64_t chunk_pages);
void snap_pool_fini(struct snap_pool *p);
struct snap_chunk *snap_pool_get(struct snap_pool *p); /* NULL: all in use */
void snap_pool_put(struct snap_chunk *c);

struct snap_io;

int snap_io_new(struct mig_image_writer *image, struct snap_io **ret_io);
/* Waits for what is in flight. NULL is fine. */
void snap_io_free(struct snap_io *io);
/* Takes c; it goes back to its pool when it has been written. */
int snap_io_submit(struct snap_io *io, struct snap_chunk *c);
/* Wait for at least one write in flight, if there is any. */
int snap_io_reap(struct snap_io *io);
int snap_io_finish(struct snap_io *io); /* for all of them */
/* Writes c before it returns; c stays the caller's. */
int snap_io_write_now(struct snap_io *io, struct snap_chunk *c);
void snap_io_stats(struct snap_io *io, uint64_t *ret_pages,
		   uint64_t *ret_bytes);

#endif
