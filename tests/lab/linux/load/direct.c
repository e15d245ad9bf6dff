/*
 * tests/lab/linux/load/direct.c: a disk read and written past the page cache, by
 * readv and by io_uring, from and to memory that is not there at the moment: the
 * guest was moved by postcopy after every page of the buffers had been written.
 *
 *	load direct NAME DEVICE MIB
 *
 * Fills the device and its buffers, creates $LOAD_DIR/ready, waits until there is
 * a $LOAD_DIR/go, and then works as fast as it can. Ends by itself.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHUNK_BYTES (16 * PAGE_BYTES)
#define DEPTH       16
#define STALE       77 /* the version in buffers that nothing was read into */

/* A third of the device each: what is read by readv, by io_uring, and written. */
struct work {
	int fd;
	size_t nr; /* chunks of each third */
	char *vectored;
	char *queued;
	char *written;
	struct io_uring ring;
};

static char *in_memory_dir(char path[256], const char *name)
{
	const char *directory = getenv("LOAD_DIR");

	snprintf(path, 256, "%s/%s", directory ? directory : "/tmp", name);
	return path;
}

static off_t at(const struct work *w, int third, size_t chunk)
{
	return (off_t)(((size_t)third * w->nr + chunk) * CHUNK_BYTES);
}

static void transfer(ssize_t n, const char *what)
{
	if (n != CHUNK_BYTES)
		load_wrong("%s: %zd: %s", what, n,
			   n < 0 ? strerror(errno) : "short");
}

static void fill_device(struct work *w)
{
	char *buffer = load_memory(CHUNK_BYTES);

	for (size_t chunk = 0; chunk < 3 * w->nr; chunk++) {
		load_fill(buffer, CHUNK_BYTES, chunk, 1);
		transfer(pwrite(w->fd, buffer, CHUNK_BYTES, at(w, 0, chunk)),
			 "pwrite");
	}
	if (fsync(w->fd) < 0)
		load_wrong("fsync: %s", strerror(errno));
}

/* Every page holds something, which is not what will be read into it. */
static char *filled(size_t nr, size_t first_chunk, uint64_t version)
{
	char *p = load_memory(nr * CHUNK_BYTES);

	for (size_t chunk = 0; chunk < nr; chunk++)
		load_fill(p + chunk * CHUNK_BYTES, CHUNK_BYTES,
			  first_chunk + chunk, version);
	return p;
}

/* Each page of a chunk is a vector of its own, and they are out of order. */
static void read_vectored(struct work *w, size_t chunk)
{
	struct iovec iov[CHUNK_BYTES / PAGE_BYTES];
	char *to = w->vectored + chunk * CHUNK_BYTES;
	size_t nr = sizeof(iov) / sizeof(iov[0]);
	char *whole = load_memory(CHUNK_BYTES);

	for (size_t i = 0; i < nr; i++) {
		iov[i].iov_base = to + (i * 7 % nr) * PAGE_BYTES;
		iov[i].iov_len = PAGE_BYTES;
	}
	transfer(preadv(w->fd, iov, (int)nr, at(w, 0, chunk)), "preadv");
	for (size_t i = 0; i < nr; i++)
		memcpy(whole + i * PAGE_BYTES, iov[i].iov_base, PAGE_BYTES);
	load_check(whole, CHUNK_BYTES, chunk, 1, "readv");
	load_round(CHUNK_BYTES);
}

static void queue(struct work *w, size_t chunk)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&w->ring);
	char *to = w->queued + chunk * CHUNK_BYTES;

	if (!sqe)
		load_wrong("io_uring: no entry");
	io_uring_prep_read(sqe, w->fd, to, CHUNK_BYTES,
			   (uint64_t)at(w, 1, chunk));
	io_uring_sqe_set_data(sqe, to);
	if (io_uring_submit(&w->ring) != 1)
		load_wrong("io_uring: submit");
}

static void reap(struct work *w)
{
	struct io_uring_cqe *cqe;
	char *to;

	if (io_uring_wait_cqe(&w->ring, &cqe) < 0)
		load_wrong("io_uring: wait");
	if (cqe->res != CHUNK_BYTES)
		load_wrong("io_uring: %d: %s", cqe->res,
			   cqe->res < 0 ? strerror(-cqe->res) : "short");
	to = io_uring_cqe_get_data(cqe);
	io_uring_cqe_seen(&w->ring, cqe);
	load_check(to, CHUNK_BYTES,
		   w->nr + (size_t)(to - w->queued) / CHUNK_BYTES, 1,
		   "io_uring");
	load_round(CHUNK_BYTES);
}

static void read_queued(struct work *w)
{
	size_t submitted = 0;

	for (size_t done = 0; done < w->nr; done++) {
		while (submitted < w->nr && submitted < done + DEPTH)
			queue(w, submitted++);
		reap(w);
	}
}

/* The bytes to write are missing too; they are read back into fresh memory. */
static void write_and_look(struct work *w)
{
	char *buffer = load_memory(CHUNK_BYTES);

	for (size_t chunk = 0; chunk < w->nr; chunk++)
		transfer(pwrite(w->fd, w->written + chunk * CHUNK_BYTES,
				CHUNK_BYTES, at(w, 2, chunk)),
			 "pwrite");
	for (size_t chunk = 0; chunk < w->nr; chunk++) {
		transfer(pread(w->fd, buffer, CHUNK_BYTES, at(w, 2, chunk)),
			 "pread");
		load_check(buffer, CHUNK_BYTES, 2 * w->nr + chunk, 2,
			   "written");
		load_round(CHUNK_BYTES);
	}
}

int load_direct(int argc, char **argv)
{
	struct work w = { 0 };
	char path[256];

	if (argc != 3)
		return -1;
	w.nr = (strtoul(argv[2], NULL, 10) << 20) / (3 * CHUNK_BYTES);
	w.fd = open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
	if (w.fd < 0 || w.nr == 0)
		load_wrong("%s: %s", argv[1], strerror(errno));
	if (io_uring_queue_init(DEPTH, &w.ring, 0) < 0)
		load_wrong("no io_uring");
	fill_device(&w);
	w.vectored = filled(w.nr, 0, STALE);
	w.queued = filled(w.nr, w.nr, STALE);
	w.written = filled(w.nr, 2 * w.nr, 2);
	close(open(in_memory_dir(path, "ready"), O_CREAT | O_WRONLY, 0644));
	while (access(in_memory_dir(path, "go"), F_OK) < 0)
		usleep(1000);
	for (size_t chunk = 0; chunk < w.nr; chunk++)
		read_vectored(&w, chunk);
	read_queued(&w);
	write_and_look(&w);
	close(open(in_memory_dir(path, "done"), O_CREAT | O_WRONLY, 0644));
	exit(0);
}
