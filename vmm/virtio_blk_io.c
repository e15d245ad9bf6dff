/*
 * vmm/virtio_blk_io.c: io_uring under a disk.
 *
 * Transfers go straight between the disk and guest memory, by READV and WRITEV.
 * Guest memory is not registered with the ring (IORING_REGISTER_BUFFERS): that
 * would populate all of it, writes into it would go past a userfaultfd's write
 * protection (a snapshot would miss them), and pages that a balloon gave back
 * would still be written to. Registered are the file and, for O_DIRECT, a few
 * bounce buffers for what it cannot take as it is.
 *
 * What a transfer touches of guest memory is there when it comes here
 * (virtio_blk_fetch.c).
 */
#include "vmm/virtio_blk_internal.h"

#include <assert.h>
#include <errno.h>
#include <linux/falloc.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

#define RESUBMIT_MS 1

static uint8_t *bounce_of(const struct virtio_blk *b,
			  const struct blk_request *r)
{
	return b->bounce_data + (size_t)r->bounce * BLK_BOUNCE_BYTES;
}

/*
 * A request has one operation at a time and there is an entry for each request,
 * so there is always room, even while the kernel takes nothing.
 */
static struct io_uring_sqe *next_entry(struct virtio_blk *b)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&b->ring);

	assert(sqe);
	return sqe;
}

static void end_entry(struct io_uring_sqe *sqe, struct blk_request *r,
		      unsigned int flags)
{
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | flags);
	io_uring_sqe_set_data(sqe, r);
}

/*
 * io_uring tries whether a request can be done without waiting before a thread of its
 * own gets it: cached reads are twice as fast that way, and more, one at a time. File
 * systems refuse that for writes into the page cache, so that trying is in vain: a
 * tenth to a fifth slower, 32 at a time (ext4).
 */
static void put_transfer(struct virtio_blk *b, struct blk_request *r)
{
	bool will_wait = r->type != BLK_T_IN && !b->disk.direct;
	unsigned int n = blk_request_slice(r, r->done, r->bytes - r->done);
	struct io_uring_sqe *sqe = next_entry(b);

	if (r->type == BLK_T_IN)
		io_uring_prep_readv(sqe, 0, r->iov, n, r->offset + r->done);
	else
		io_uring_prep_writev(sqe, 0, r->iov, n, r->offset + r->done);
	end_entry(sqe, r, will_wait ? IOSQE_ASYNC : 0);
}

static void put_piece(struct virtio_blk *b, struct blk_request *r)
{
	uint8_t *data = bounce_of(b, r) + r->piece_done;
	unsigned int bytes = r->piece_bytes - r->piece_done;
	uint64_t offset = r->piece_offset + r->piece_done;
	struct io_uring_sqe *sqe = next_entry(b);

	if (r->step == BLK_LOAD && b->bounce_fixed)
		io_uring_prep_read_fixed(sqe, 0, data, bytes, offset,
					 r->bounce);
	else if (r->step == BLK_LOAD)
		io_uring_prep_read(sqe, 0, data, bytes, offset);
	else if (b->bounce_fixed)
		io_uring_prep_write_fixed(sqe, 0, data, bytes, offset,
					  r->bounce);
	else
		io_uring_prep_write(sqe, 0, data, bytes, offset);
	end_entry(sqe, r, 0);
}

static void put_range(struct virtio_blk *b, struct blk_request *r)
{
	struct io_uring_sqe *sqe = next_entry(b);
	int mode = r->step == BLK_PUNCH ? FALLOC_FL_PUNCH_HOLE
					: FALLOC_FL_ZERO_RANGE;

	/* Block devices take it too: they zero, and unmap where they can. */
	io_uring_prep_fallocate(sqe, 0, mode | FALLOC_FL_KEEP_SIZE,
				(off_t)r->offset, (off_t)r->bytes);
	end_entry(sqe, r, 0);
}

static void put_sync(struct virtio_blk *b, struct blk_request *r)
{
	struct io_uring_sqe *sqe = next_entry(b);

	io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
	end_entry(sqe, r, 0);
}

static void put(struct virtio_blk *b, struct blk_request *r)
{
	switch (r->step) {
	case BLK_TRANSFER:
		put_transfer(b, r);
		break;
	case BLK_LOAD:
	case BLK_STORE:
		put_piece(b, r);
		break;
	case BLK_PUNCH:
	case BLK_ZERO_RANGE:
		put_range(b, r);
		break;
	case BLK_SYNC:
		put_sync(b, r);
		break;
	}
}

/* Where the next byte of the request stands in its piece. */
static uint32_t head_of_piece(const struct blk_request *r)
{
	return (uint32_t)(r->offset + r->done - r->piece_offset);
}

/* How many bytes of the request the piece has. */
static uint32_t share_of_piece(const struct blk_request *r)
{
	uint64_t room = r->piece_bytes - head_of_piece(r);
	uint64_t left = r->bytes - r->done;

	return (uint32_t)(room < left ? room : left);
}

static void store_piece(struct virtio_blk *b, struct blk_request *r)
{
	blk_request_copy_in(r, r->done, bounce_of(b, r) + head_of_piece(r),
			    share_of_piece(r));
	r->step = BLK_STORE;
	r->piece_done = 0;
	put(b, r);
}

/* A piece that a write fills only in part is read first. */
static void begin_piece(struct virtio_blk *b, struct blk_request *r)
{
	uint64_t align = b->disk.align;
	uint64_t from = r->offset + r->done;
	uint64_t end = (r->offset + r->bytes + align - 1) / align * align;

	r->piece_offset = from / align * align;
	r->piece_bytes = BLK_BOUNCE_BYTES;
	if (end - r->piece_offset < BLK_BOUNCE_BYTES)
		r->piece_bytes = (uint32_t)(end - r->piece_offset);
	r->piece_done = 0;
	if (r->type != BLK_T_IN && share_of_piece(r) == r->piece_bytes) {
		store_piece(b, r);
		return;
	}
	r->step = BLK_LOAD;
	put(b, r);
}

void blk_io_start(struct virtio_blk *b, struct blk_request *r,
		  enum blk_step step)
{
	if (step == BLK_LOAD) {
		begin_piece(b, r);
		return;
	}
	r->step = step;
	put(b, r);
}

/*
 * A driver that did not take VIRTIO_BLK_F_FLUSH cannot ask for it, so whatever it
 * was told is written has to be (section 5.2.6.2).
 */
static void all_done(struct virtio_blk *b, struct blk_request *r)
{
	bool wrote = r->type == BLK_T_OUT || r->type == BLK_T_WRITE_ZEROES;

	if (wrote && r->step != BLK_SYNC && !virtio_has(&b->dev, BLK_F_FLUSH))
		blk_io_start(b, r, BLK_SYNC);
	else
		blk_request_finish(b, r, BLK_S_OK);
}

static void on_transfer(struct virtio_blk *b, struct blk_request *r, int res)
{
	/* 0: the file has become shorter. */
	if (res <= 0) {
		blk_request_finish(b, r, BLK_S_IOERR);
		return;
	}
	r->done += (uint32_t)res;
	if (r->done < r->bytes)
		put(b, r);
	else
		all_done(b, r);
}

static void on_piece(struct virtio_blk *b, struct blk_request *r, int res)
{
	if (res <= 0) {
		blk_request_finish(b, r, BLK_S_IOERR);
		return;
	}
	r->piece_done += (uint32_t)res;
	if (r->piece_done < r->piece_bytes) {
		put(b, r);
		return;
	}
	if (r->step == BLK_LOAD && r->type != BLK_T_IN) {
		store_piece(b, r);
		return;
	}
	if (r->type == BLK_T_IN)
		blk_request_copy_out(b, r, r->done,
				     bounce_of(b, r) + head_of_piece(r),
				     share_of_piece(r));
	r->done += share_of_piece(r);
	if (r->done < r->bytes)
		begin_piece(b, r);
	else
		all_done(b, r);
}

/*
 * Not every file system makes holes or zeros, and block devices want whole
 * blocks. A discard is advice; zeros must come about, in the end by writing them.
 */
static void on_range(struct virtio_blk *b, struct blk_request *r, int res)
{
	bool cannot = res == -EOPNOTSUPP || res == -EINVAL || res == -ENOSYS;

	if (res == 0 || (cannot && r->type == BLK_T_DISCARD))
		all_done(b, r);
	else if (cannot && r->step == BLK_PUNCH)
		blk_io_start(b, r, BLK_ZERO_RANGE);
	else if (cannot)
		begin_piece(b, r);
	else
		blk_request_finish(b, r, BLK_S_IOERR);
}

static void on_completed(struct virtio_blk *b, struct blk_request *r, int res)
{
	if (res == -EINTR || res == -EAGAIN) {
		put(b, r);
		return;
	}
	switch (r->step) {
	case BLK_TRANSFER:
		on_transfer(b, r, res);
		break;
	case BLK_LOAD:
	case BLK_STORE:
		on_piece(b, r, res);
		break;
	case BLK_PUNCH:
	case BLK_ZERO_RANGE:
		on_range(b, r, res);
		break;
	case BLK_SYNC:
		blk_request_finish(b, r, res < 0 ? BLK_S_IOERR : BLK_S_OK);
		break;
	}
}

void blk_io_reap(struct virtio_blk *b)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&b->ring, &cqe) == 0) {
		struct blk_request *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&b->ring, cqe);
		on_completed(b, r, res);
	}
}

void blk_io_submit(struct virtio_blk *b)
{
	int ret;

	do
		ret = io_uring_submit(&b->ring);
	while (ret == -EINTR);
	/* Short of memory, say: what it did not take is still in the ring. */
	if (io_uring_sq_ready(&b->ring) > 0)
		ev_timer_start(virtio_loop(&b->dev), &b->resubmit);
}

void blk_io_wait(struct virtio_blk *b)
{
	struct pollfd rings = { .fd = b->ring_eventfd, .events = POLLIN };

	poll(&rings, 1, io_uring_sq_ready(&b->ring) > 0 ? RESUBMIT_MS : -1);
}

static void on_resubmit(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	blk_io_submit(w->data);
}

/*
 * Bounce buffers are address space only until they are used; registering them
 * populates them, so only O_DIRECT, which uses them for speed, does. It may not
 * be allowed to (RLIMIT_MEMLOCK): they work all the same.
 */
static int bounces_init(struct virtio_blk *b)
{
	const size_t bytes = (size_t)BLK_BOUNCES * BLK_BOUNCE_BYTES;
	struct iovec iov[BLK_BOUNCES];

	b->bounce_data = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->bounce_data == MAP_FAILED)
		return -ENOMEM;
	for (int i = 0; i < BLK_BOUNCES; i++) {
		iov[i].iov_base = b->bounce_data + (size_t)i * BLK_BOUNCE_BYTES;
		iov[i].iov_len = BLK_BOUNCE_BYTES;
		b->bounce_free[b->nr_bounce_free++] = i;
	}
	b->bounce_fixed = b->disk.direct &&
			  io_uring_register_buffers(&b->ring, iov,
						    BLK_BOUNCES) == 0;
	return 0;
}

int blk_io_init(struct virtio_blk *b, char **err)
{
	int ret = io_uring_queue_init(BLK_REQUESTS_MAX, &b->ring, 0);

	if (ret < 0)
		return vm_err(err, ret,
			      "disk %s: no io_uring here (%s); see "
			      "/proc/sys/kernel/io_uring_disabled",
			      b->disk.path, strerror(-ret));
	b->ring_eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->ring_eventfd < 0) {
		ret = -errno;
		goto exit_ring;
	}
	ret = io_uring_register_eventfd(&b->ring, b->ring_eventfd);
	if (ret < 0)
		goto close_eventfd;
	ret = io_uring_register_files(&b->ring, &b->disk.fd, 1);
	if (ret < 0)
		goto close_eventfd;
	ret = bounces_init(b);
	if (ret < 0)
		goto close_eventfd;
	ev_timer_init(&b->resubmit, on_resubmit, RESUBMIT_MS / 1e3, 0.);
	b->resubmit.data = b;
	return 0;
close_eventfd:
	close(b->ring_eventfd);
exit_ring:
	io_uring_queue_exit(&b->ring);
	return vm_err(err, ret, "disk %s: %s", b->disk.path, strerror(-ret));
}

void blk_io_fini(struct virtio_blk *b)
{
	io_uring_queue_exit(&b->ring);
	close(b->ring_eventfd);
	munmap(b->bounce_data, (size_t)BLK_BOUNCES * BLK_BOUNCE_BYTES);
}
