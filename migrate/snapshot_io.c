#include "migrate/snapshot_io.h"

#include <errno.h>
#include <liburing.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proto/wire.h"
#include "vmm/bitmap.h"

#define IO_DEPTH 256

/* One write in flight, or on the list of those that are not. */
struct write {
	struct snap_chunk *chunk;
	uint8_t *data;
	uint64_t offset;
	uint32_t bytes;
	struct write *next;
};

struct snap_io {
	struct mig_image_writer *image;
	int fd; /* image's */
	_Atomic uint64_t pages;
	_Atomic uint64_t bytes;
	atomic_int err;
	/* The sweeper's. */
	bool has_ring; /* else every write is done at once */
	struct io_uring ring;
	unsigned int nr_flying;
	struct write *free;
	struct write writes[IO_DEPTH];
};

int snap_pool_init(struct snap_pool *p, unsigned int nr, uint64_t chunk_pages)
{
	memset(p, 0, sizeof(*p));
	pthread_mutex_init(&p->lock, NULL);
	p->chunk_pages = chunk_pages;
	p->data_bytes = (size_t)(nr * chunk_pages * VM_PAGE_BYTES);
	p->chunks = calloc(nr, sizeof(*p->chunks));
	p->data = mmap(NULL, p->data_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!p->chunks || p->data == MAP_FAILED) {
		if (p->data == MAP_FAILED)
			p->data = NULL;
		snap_pool_fini(p);
		return -ENOMEM;
	}
	for (unsigned int i = 0; i < nr; i++) {
		p->chunks[i].pool = p;
		p->chunks[i].data = p->data + i * chunk_pages * VM_PAGE_BYTES;
		snap_pool_put(&p->chunks[i]);
	}
	return 0;
}

void snap_pool_fini(struct snap_pool *p)
{
	if (p->data)
		munmap(p->data, p->data_bytes);
	free(p->chunks);
	pthread_mutex_destroy(&p->lock);
}

struct snap_chunk *snap_pool_get(struct snap_pool *p)
{
	struct snap_chunk *c;

	pthread_mutex_lock(&p->lock);
	c = p->free;
	if (c)
		p->free = c->next;
	pthread_mutex_unlock(&p->lock);
	if (c)
		memset(c->mask, 0, sizeof(c->mask));
	return c;
}

void snap_pool_put(struct snap_chunk *c)
{
	pthread_mutex_lock(&c->pool->lock);
	c->next = c->pool->free;
	c->pool->free = c;
	pthread_mutex_unlock(&c->pool->lock);
}

int snap_io_new(struct mig_image_writer *image, struct snap_io **ret_io)
{
	struct snap_io *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	io->image = image;
	io->fd = mig_image_memory_fd(image);
	for (unsigned int i = 0; i < IO_DEPTH; i++) {
		io->writes[i].next = io->free;
		io->free = &io->writes[i];
	}
	/* Containers often forbid io_uring; a snapshot does without it. */
	io->has_ring = io_uring_queue_init(IO_DEPTH, &io->ring, 0) == 0;
	*ret_io = io;
	return 0;
}

void snap_io_free(struct snap_io *io)
{
	if (!io)
		return;
	snap_io_finish(io);
	if (io->has_ring)
		io_uring_queue_exit(&io->ring);
	free(io);
}

static int note_error(struct snap_io *io, int ret)
{
	int none = 0;

	if (ret < 0)
		atomic_compare_exchange_strong(&io->err, &none, ret);
	return atomic_load(&io->err);
}

/* Sums of the pages of c; a page of zeros leaves its mask and is a hole. */
static void sum_pages(struct snap_io *io, struct snap_chunk *c)
{
	uint64_t nr = c->pool->chunk_pages, i, pages = 0;

	for (i = bitmap_next_set(c->mask, 0, nr); i < nr;
	     i = bitmap_next_set(c->mask, i + 1, nr)) {
		const uint8_t *data = c->data + i * VM_PAGE_BYTES;

		if (proto_page_is_zero(data)) {
			bitmap_clear(c->mask, i);
			continue;
		}
		mig_image_set_sum(io->image, c->page + i,
				  mig_image_page_sum(c->page + i, data));
		pages++;
	}
	atomic_fetch_add(&io->pages, pages);
	atomic_fetch_add(&io->bytes, pages * VM_PAGE_BYTES);
}

static int write_sync(struct snap_io *io, const uint8_t *data, uint64_t offset,
		      uint64_t bytes)
{
	while (bytes > 0) {
		ssize_t n = pwrite(io->fd, data, bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		offset += (uint64_t)n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

/* The write goes on where the last one stopped. */
static int start_write(struct snap_io *io, struct write *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);

	if (!sqe) {
		io_uring_submit(&io->ring);
		sqe = io_uring_get_sqe(&io->ring);
	}
	if (!sqe)
		return -EBUSY;
	io_uring_prep_write(sqe, io->fd, w->data, w->bytes, w->offset);
	io_uring_sqe_set_data(sqe, w);
	io->nr_flying++;
	return 0;
}

static void end_write(struct snap_io *io, struct write *w, int ret)
{
	struct snap_chunk *c = w->chunk;

	note_error(io, ret);
	w->next = io->free;
	io->free = w;
	if (--c->nr_writes == 0)
		snap_pool_put(c);
}

static void on_written(struct snap_io *io, struct write *w, int res)
{
	int ret;

	io->nr_flying--;
	if (res > 0 && (uint32_t)res < w->bytes) {
		w->data += res;
		w->offset += (uint32_t)res;
		w->bytes -= (uint32_t)res;
	} else if (res != -EINTR && res != -EAGAIN) {
		end_write(io, w, res == 0 ? -EIO : res);
		return;
	}
	ret = start_write(io, w);
	if (ret < 0)
		end_write(io, w, ret);
}

int snap_io_reap(struct snap_io *io)
{
	struct io_uring_cqe *cqe;
	int ret;

	if (io->nr_flying == 0)
		return note_error(io, 0);
	ret = io_uring_submit_and_wait(&io->ring, 1);
	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		return note_error(io, ret);
	while (io_uring_peek_cqe(&io->ring, &cqe) == 0) {
		struct write *w = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&io->ring, cqe);
		on_written(io, w, res);
	}
	return note_error(io, 0);
}

int snap_io_finish(struct snap_io *io)
{
	/* To the end, whatever happens: the kernel still reads the buffers. */
	while (io->nr_flying > 0)
		snap_io_reap(io);
	return note_error(io, 0);
}

static int queue_run(struct snap_io *io, struct snap_chunk *c, uint64_t i,
		     uint64_t nr)
{
	struct write *w;

	while (!io->free) {
		if (snap_io_reap(io) < 0 && !io->free)
			return -EIO;
	}
	w = io->free;
	io->free = w->next;
	*w = (struct write){
		.chunk = c,
		.data = c->data + i * VM_PAGE_BYTES,
		.offset = (c->page + i) * VM_PAGE_BYTES,
		.bytes = (uint32_t)(nr * VM_PAGE_BYTES),
	};
	c->nr_writes++;
	if (start_write(io, w) < 0)
		end_write(io, w, -EBUSY);
	return 0;
}

/* Each run of pages of c that are left in its mask. */
static int for_runs(struct snap_io *io, struct snap_chunk *c,
		    int (*op)(struct snap_io *io, struct snap_chunk *c,
			      uint64_t i, uint64_t nr))
{
	uint64_t nr = c->pool->chunk_pages;
	uint64_t i = bitmap_next_set(c->mask, 0, nr);
	int ret = 0;

	while (i < nr && ret == 0) {
		uint64_t end = bitmap_next_clear(c->mask, i, nr);

		ret = op(io, c, i, end - i);
		i = bitmap_next_set(c->mask, end, nr);
	}
	return ret;
}

static int write_run(struct snap_io *io, struct snap_chunk *c, uint64_t i,
		     uint64_t nr)
{
	return write_sync(io, c->data + i * VM_PAGE_BYTES,
			  (c->page + i) * VM_PAGE_BYTES, nr * VM_PAGE_BYTES);
}

int snap_io_write_now(struct snap_io *io, struct snap_chunk *c)
{
	sum_pages(io, c);
	return note_error(io, for_runs(io, c, write_run));
}

int snap_io_submit(struct snap_io *io, struct snap_chunk *c)
{
	int ret;

	if (!io->has_ring) {
		ret = snap_io_write_now(io, c);
		snap_pool_put(c);
		return ret;
	}
	sum_pages(io, c);
	c->nr_writes = 1; /* ours, until all runs are queued */
	note_error(io, for_runs(io, c, queue_run));
	if (--c->nr_writes == 0)
		snap_pool_put(c);
	ret = io_uring_submit(&io->ring);
	if (ret < 0 && ret != -EINTR && ret != -EAGAIN && ret != -EBUSY)
		note_error(io, ret);
	return note_error(io, 0);
}

void snap_io_stats(struct snap_io *io, uint64_t *ret_pages, uint64_t *ret_bytes)
{
	*ret_pages = atomic_load(&io->pages);
	*ret_bytes = atomic_load(&io->bytes);
}
