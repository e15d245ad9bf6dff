/*
 * tests/lab/linux/load/disk.c: a file system at work. One large file by O_DIRECT,
 * whose every block is verified before it is written again, and small ones that
 * come, are renamed and go, for the journal.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES    (16 * PAGE_BYTES)
#define BLOCKS_A_ROUND 16
#define SMALL_BYTES    (5 * PAGE_BYTES)
#define NR_SMALL       8

struct work {
	const char *directory;
	int fd;
	size_t nr_blocks;
	uint32_t *versions;
	char *buffer;
	uint64_t round;
};

static int open_in(struct work *w, const char *name, int flags)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", w->directory, name);
	fd = open(path, flags | O_CLOEXEC, 0644);
	if (fd < 0)
		load_wrong("%s: %s", path, strerror(errno));
	return fd;
}

static void write_all(int fd, const void *data, size_t bytes, off_t at)
{
	ssize_t n = pwrite(fd, data, bytes, at);

	if (n != (ssize_t)bytes)
		load_wrong("write at %lld: %zd: %s", (long long)at, n,
			   strerror(errno));
}

static void read_all(int fd, void *data, size_t bytes, off_t at)
{
	ssize_t n = pread(fd, data, bytes, at);

	if (n != (ssize_t)bytes)
		load_wrong("read at %lld: %zd: %s", (long long)at, n,
			   strerror(errno));
}

static void flush(int fd)
{
	if (fsync(fd) < 0)
		load_wrong("fsync: %s", strerror(errno));
}

static void large_blocks(struct work *w)
{
	for (int i = 0; i < BLOCKS_A_ROUND; i++) {
		size_t block = load_random() % w->nr_blocks;
		off_t at = (off_t)(block * BLOCK_BYTES);

		read_all(w->fd, w->buffer, BLOCK_BYTES, at);
		load_check(w->buffer, BLOCK_BYTES, block, w->versions[block],
			   "disk");
		load_fill(w->buffer, BLOCK_BYTES, block, ++w->versions[block]);
		write_all(w->fd, w->buffer, BLOCK_BYTES, at);
	}
	flush(w->fd);
}

/* Read back from the disk: what is clean and not wanted leaves the page cache. */
static void small_file(struct work *w)
{
	char name[32], old[300], new[300];
	uint64_t number = w->round % NR_SMALL;
	int fd;

	fd = open_in(w, "new", O_RDWR | O_CREAT | O_TRUNC);
	load_fill(w->buffer, SMALL_BYTES, number, w->round);
	write_all(fd, w->buffer, SMALL_BYTES, 0);
	flush(fd);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	read_all(fd, w->buffer, SMALL_BYTES, 0);
	load_check(w->buffer, SMALL_BYTES, number, w->round, "small file");
	close(fd);
	snprintf(name, sizeof(name), "small%llu", (unsigned long long)number);
	snprintf(old, sizeof(old), "%s/new", w->directory);
	snprintf(new, sizeof(new), "%s/%s", w->directory, name);
	if (rename(old, new) < 0)
		load_wrong("rename: %s", strerror(errno));
}

int load_disk(int argc, char **argv)
{
	struct work w = { 0 };

	if (argc != 3)
		return -1;
	w.directory = argv[1];
	w.nr_blocks = (strtoul(argv[2], NULL, 10) << 20) / BLOCK_BYTES;
	if (w.nr_blocks == 0)
		return -1;
	w.versions = load_memory(w.nr_blocks * sizeof(*w.versions));
	w.buffer = load_memory(BLOCK_BYTES);
	w.fd = open_in(&w, "large", O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
	for (size_t block = 0; block < w.nr_blocks; block++) {
		load_fill(w.buffer, BLOCK_BYTES, block, 0);
		write_all(w.fd, w.buffer, BLOCK_BYTES,
			  (off_t)(block * BLOCK_BYTES));
	}
	for (;; w.round++) {
		large_blocks(&w);
		small_file(&w);
		load_round(BLOCKS_A_ROUND * BLOCK_BYTES);
	}
}
