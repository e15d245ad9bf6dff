/*
 * vmm/virtio_blk_internal.h: what the files of the block device share (virtio
 * 1.2 section 5.2).
 *
 *	virtio_blk.c		the device: what it offers, start, stop, its queues
 *	virtio_blk_request.c	one request: what the guest asks, and the answer
 *	virtio_blk_fetch.c	threads that wait for the memory of a request
 *	virtio_blk_io.c		io_uring: how a request gets done, step by step
 *
 * A request is taken from its queue only when it can start at once: there is a
 * free blk_request, a bounce buffer if it needs one, and nobody in its way if it
 * has to be alone. Otherwise it stays in the ring and its queue is `hungry`. So
 * every request that was taken is with blk_fetch or has exactly one operation in the
 * ring, and comes to its end when its memory and the disk allow: stopping is waiting for
 * nr_taken to reach zero. For missing headers, for missing rings, and for the status of
 * what moves no data the worker waits itself.
 *
 * Threads: all of it on the worker; new, free, lock and unlock while stopped.
 */
#ifndef VMM_VIRTIO_BLK_INTERNAL_H
#define VMM_VIRTIO_BLK_INTERNAL_H

#include <ev.h>
#include <liburing.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/disk.h"
#include "vmm/virtio.h"

#define BLK_REQUESTS_MAX  128 /* taken at a time; also the entries of the ring */
#define BLK_FETCHERS_MAX  8 /* requests whose memory is waited for at a time */
#define BLK_BOUNCES       16
#define BLK_BOUNCE_BYTES  65536u
#define BLK_HEADER_BYTES  16u
#define BLK_RANGE_BYTES   16u /* of a discard or write zeroes request */
#define BLK_DISCARD_BYTES (UINT64_C(1) << 30) /* at most, by one request */
/* Where no file system helps, zeros are written: a stop waits for them. */
#define BLK_ZEROES_BYTES (UINT64_C(32) << 20)

/* Feature bits, section 5.2.3. */
#define BLK_F_SEG_MAX      (UINT64_C(1) << 2)
#define BLK_F_RO           (UINT64_C(1) << 5)
#define BLK_F_BLK_SIZE     (UINT64_C(1) << 6)
#define BLK_F_FLUSH        (UINT64_C(1) << 9)
#define BLK_F_TOPOLOGY     (UINT64_C(1) << 10)
#define BLK_F_MQ           (UINT64_C(1) << 12)
#define BLK_F_DISCARD      (UINT64_C(1) << 13)
#define BLK_F_WRITE_ZEROES (UINT64_C(1) << 14)

/* Request types and answers, section 5.2.6. */
enum blk_type {
	BLK_T_IN = 0,
	BLK_T_OUT = 1,
	BLK_T_FLUSH = 4,
	BLK_T_GET_ID = 8,
	BLK_T_DISCARD = 11,
	BLK_T_WRITE_ZEROES = 13
};
enum blk_status { BLK_S_OK, BLK_S_IOERR, BLK_S_UNSUPP };

/* The operation that a request has in the ring. */
enum blk_step {
	BLK_TRANSFER,   /* between disk and guest memory */
	BLK_LOAD,       /* disk to bounce buffer */
	BLK_STORE,      /* bounce buffer to disk */
	BLK_PUNCH,      /* make a hole */
	BLK_ZERO_RANGE, /* zeros, still allocated */
	BLK_SYNC
};

struct blk_request {
	struct blk_request *next; /* on the free list, or one of blk_fetch */
	struct virtio_queue *queue;
	uint32_t type;
	bool unmap; /* zeros may be a hole */
	bool alone; /* nothing else is in flight while this is */
	enum blk_step step;
	/* What is done to the disk, and how much of it has been. */
	uint64_t offset;
	uint64_t bytes;
	uint64_t done;
	/* The piece in the bounce buffer, widened to what O_DIRECT can do. */
	int bounce; /* index, -1: none */
	uint64_t piece_offset;
	uint32_t piece_bytes;
	uint32_t piece_done;
	struct virtio_chain chain;
	struct iovec iov[VIRTIO_CHAIN_SEGS_MAX]; /* of BLK_TRANSFER */
};

struct blk_fetch {
	pthread_mutex_t lock;
	pthread_cond_t asked;
	/* Under lock. */
	struct blk_request *wanted; /* nobody has begun with them */
	struct blk_request *wanted_last;
	unsigned int nr_wanted;
	unsigned int nr_idle;     /* threads */
	struct blk_request *here; /* in any order */
	bool quit;
	/* The worker's. */
	pthread_t threads[BLK_FETCHERS_MAX];
	unsigned int nr_threads;
};

struct virtio_blk {
	struct virtio_device dev; /* first: ops get it back by a cast */
	unsigned int index;
	struct vm_disk disk;

	struct io_uring ring;
	int ring_eventfd;
	ev_io completed; /* on ring_eventfd: something of ring, or of fetch */
	ev_timer resubmit;
	struct blk_fetch fetch;

	struct blk_request *requests;
	unsigned int nr_used; /* requests[nr_used..] were never touched */
	struct blk_request *free;
	unsigned int nr_taken;

	uint8_t *bounce_data;
	bool bounce_fixed; /* registered with the ring */
	int bounce_free[BLK_BOUNCES];
	unsigned int nr_bounce_free;

	uint32_t hungry;   /* queues that were not emptied, a bit each */
	uint32_t pushed;   /* queues to be notified */
	unsigned int turn; /* queue that is served first */
	struct virtio_queue *waiter; /* its next request has to be alone */
	bool alone;                  /* and this one is running */
};

/* virtio_blk_request.c */

/* A free one, its chain to be filled; NULL: all are taken. */
struct blk_request *blk_request_take(struct virtio_blk *b);
/* Nothing was done with it, or it is done. */
void blk_request_release(struct virtio_blk *b, struct blk_request *r);
/*
 * What r->chain asks for: finished at once, or started with its first step.
 * False: not now, and nothing was done with it.
 */
bool blk_request_begin(struct virtio_blk *b, struct blk_request *r);
/* The answer goes to the guest; releases r. */
void blk_request_finish(struct virtio_blk *b, struct blk_request *r,
			enum blk_status status);
/* [at, at + bytes) of the data of r, as pieces of guest memory in r->iov. */
unsigned int blk_request_slice(struct blk_request *r, uint64_t at,
			       uint64_t bytes);
/* Between the data of r, from byte `at` of it, and buf; zeros have no data. */
void blk_request_copy_in(struct blk_request *r, uint64_t at, uint8_t *buf,
			 size_t bytes);
void blk_request_copy_out(struct virtio_blk *b, struct blk_request *r,
			  uint64_t at, const uint8_t *buf, size_t bytes);

/* virtio_blk_fetch.c */

void blk_fetch_init(struct virtio_blk *b);
/* Stopped: nothing is waited for. */
void blk_fetch_fini(struct virtio_blk *b);
/*
 * Goes on with this step of a transfer when its data can be touched without waiting:
 * now, or when blk_fetch_reap() learns that it is so. Without a single thread to be
 * had the worker waits itself.
 */
void blk_fetch(struct virtio_blk *b, struct blk_request *r, enum blk_step step);
void blk_fetch_reap(struct virtio_blk *b);

/* virtio_blk_io.c */

int blk_io_init(struct virtio_blk *b, char **err);
void blk_io_fini(struct virtio_blk *b);
/* Goes on with this step; blk_io_submit() tells the kernel. */
void blk_io_start(struct virtio_blk *b, struct blk_request *r,
		  enum blk_step step);
void blk_io_submit(struct virtio_blk *b);
/* Goes on with every request whose operation has come to an end. */
void blk_io_reap(struct virtio_blk *b);
/* Until there is something to go on with, or to be submitted again. */
void blk_io_wait(struct virtio_blk *b);

#endif
