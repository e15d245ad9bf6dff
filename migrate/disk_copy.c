#include "migrate/disk_copy.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "proto/wire.h"

/* Between two looks at keep_going. */
#define STEP_BYTES (UINT64_C(1) << 20)

static int write_all(int fd, const uint8_t *data, uint64_t bytes, uint64_t at)
{
	while (bytes > 0) {
		ssize_t n = pwrite(fd, data, bytes, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		data += n;
		at += (uint64_t)n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

/* Bytes that are all zero stay a hole. A short disk ends with an error. */
static int copy_by_hand(const struct mig_disk_copy *c, uint8_t *buf,
			uint64_t at, uint64_t bytes)
{
	ssize_t n = pread(c->from_fd, buf, bytes, (off_t)at);
	uint64_t i = 0, piece;
	int ret;

	if (n < 0 && errno == EINTR)
		return 0;
	if (n <= 0)
		return n < 0 ? -errno : -EIO;
	for (; i < (uint64_t)n; i += piece) {
		piece = (uint64_t)n - i;
		if (piece >= PROTO_PAGE_BYTES) {
			piece = PROTO_PAGE_BYTES;
			if (proto_page_is_zero(buf + i))
				continue;
		}
		ret = write_all(c->to_fd, buf + i, piece, at + i);
		if (ret < 0)
			return ret;
	}
	return (int)n;
}

/* Returns how many bytes, at most STEP_BYTES. */
static int copy_step(const struct mig_disk_copy *c, uint8_t *buf, uint64_t at,
		     uint64_t bytes)
{
	off_t from = (off_t)at, to = (off_t)at;
	ssize_t n;

	if (bytes > STEP_BYTES)
		bytes = STEP_BYTES;
	/* Not for block devices, nor between all file systems. */
	n = copy_file_range(c->from_fd, &from, c->to_fd, &to, bytes, 0);
	if (n > 0)
		return (int)n;
	return copy_by_hand(c, buf, at, bytes);
}

static int copy_extent(const struct mig_disk_copy *c, uint8_t *buf, uint64_t at,
		       uint64_t end)
{
	while (at < end) {
		int n;

		if (!c->keep_going(c->ctx))
			return -ECANCELED;
		n = copy_step(c, buf, at, end - at);
		if (n < 0)
			return n;
		at += (uint64_t)n;
	}
	return 0;
}

/* The next extent of data; *ret_at is bytes when there is none. */
static void next_extent(const struct mig_disk_copy *c, uint64_t from,
			uint64_t *ret_at, uint64_t *ret_end)
{
	off_t at = lseek(c->from_fd, (off_t)from, SEEK_DATA), hole = -1;

	if (at >= 0)
		hole = lseek(c->from_fd, at, SEEK_HOLE);
	*ret_end = c->bytes;
	if (at < 0 && errno == ENXIO)
		*ret_at = c->bytes;
	else if (hole < 0) /* cannot tell holes: a block device */
		*ret_at = from;
	else
		*ret_at = (uint64_t)at < c->bytes ? (uint64_t)at : c->bytes;
	if (hole >= 0 && (uint64_t)hole < c->bytes)
		*ret_end = (uint64_t)hole;
}

static int copy_data(const struct mig_disk_copy *c)
{
	uint8_t *buf = malloc(STEP_BYTES);
	uint64_t at = 0, end;
	int ret = 0;

	if (!buf)
		return -ENOMEM;
	while (ret == 0) {
		next_extent(c, at, &at, &end);
		if (at >= c->bytes)
			break;
		ret = copy_extent(c, buf, at, end);
		at = end;
	}
	free(buf);
	return ret;
}

int mig_disk_copy(const struct mig_disk_copy *c, bool *ret_cloned)
{
	off_t end = lseek(c->from_fd, 0, SEEK_END);
	int ret = 0;
	bool cloned;

	if (end < 0 || (uint64_t)end < c->bytes)
		return end < 0 ? -errno : -EIO;
	cloned = ioctl(c->to_fd, FICLONE, c->from_fd) == 0;
	if (!cloned)
		ret = copy_data(c);
	if (ret == 0)
		*ret_cloned = cloned;
	return ret;
}
