/* migrate/image_read.c: a snapshot directory, verified before it is believed. */
#include "migrate/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/image_internal.h"
#include "migrate/say.h"

static int say_errno(char **err, const char *name)
{
	int ret = -errno;

	return mig_say(err, ret, "%s: %s", name, strerror(-ret));
}

/* O_NONBLOCK: a FIFO under that name must not hold us up. */
static int open_file(int dir_fd, const char *name, uint64_t *ret_bytes,
		     char **err)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	int ret;

	if (fd < 0)
		return errno == ENOENT
			       ? mig_say(err, -ENOENT,
					 "%s is missing: not a whole snapshot",
					 name)
			       : say_errno(err, name);
	if (fstat(fd, &st) < 0) {
		ret = say_errno(err, name);
		close(fd);
		return ret;
	}
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		return mig_say(err, -EBADMSG, "%s: not a regular file", name);
	}
	*ret_bytes = (uint64_t)st.st_size;
	return fd;
}

static int read_all(int fd, void *buf, size_t bytes, uint64_t offset)
{
	uint8_t *p = buf;

	while (bytes > 0) {
		ssize_t n = pread(fd, p, bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int read_whole(int dir_fd, const char *name, uint64_t bytes_max,
		      uint8_t **ret_buf, size_t *ret_bytes, char **err)
{
	uint64_t bytes;
	uint8_t *buf;
	int fd = open_file(dir_fd, name, &bytes, err);
	int ret;

	if (fd < 0)
		return fd;
	if (bytes == 0 || bytes > bytes_max) {
		close(fd);
		return mig_say(err, -EBADMSG, "%s: %llu bytes, not 1 to %llu",
			       name, (unsigned long long)bytes,
			       (unsigned long long)bytes_max);
	}
	buf = malloc(bytes);
	ret = buf ? read_all(fd, buf, bytes, 0) : -ENOMEM;
	close(fd);
	if (ret < 0) {
		free(buf);
		return mig_say(err, ret, "%s: %s", name, strerror(-ret));
	}
	*ret_buf = buf;
	*ret_bytes = bytes;
	return 0;
}

static int read_manifest(int dir_fd, struct image_manifest *f, char **err)
{
	uint8_t *text;
	size_t bytes;
	int ret;

	ret = read_whole(dir_fd, IMAGE_MANIFEST, IMAGE_MANIFEST_BYTES_MAX,
			 &text, &bytes, err);
	if (ret < 0)
		return ret;
	ret = image_manifest_parse((char *)text, bytes, f, err);
	free(text);
	return ret;
}

static int read_state(struct mig_image *img, int dir_fd,
		      const struct image_manifest *f, char **err)
{
	char hash[IMAGE_HASH_CHARS];
	uint8_t *buf;
	size_t bytes;
	int ret;

	ret = read_whole(dir_fd, IMAGE_STATE, MIG_STATE_BYTES_MAX, &buf, &bytes,
			 err);
	if (ret < 0)
		return ret;
	image_hash(buf, bytes, hash);
	if (bytes != f->state_bytes || strcmp(hash, f->state_hash) != 0)
		ret = mig_say(err, -EBADMSG,
			      IMAGE_STATE ": damaged: not what the manifest "
					  "says");
	else
		ret = mig_saved_unpack(buf, bytes, &img->machine, &img->state,
				       &img->state_bytes, err);
	free(buf);
	if (ret == 0 && img->machine.ram_bytes != f->ram_bytes)
		ret = mig_say(err, -EBADMSG,
			      IMAGE_MANIFEST " and " IMAGE_STATE
					     " disagree on the RAM");
	return ret;
}

static int open_memory(struct mig_image *img, int dir_fd, char **err)
{
	uint64_t bytes;
	int fd = open_file(dir_fd, IMAGE_MEMORY, &bytes, err);

	if (fd < 0)
		return fd;
	img->memory_fd = fd;
	if (bytes != img->machine.ram_bytes)
		return mig_say(err, -EBADMSG,
			       IMAGE_MEMORY ": %llu bytes instead of %llu",
			       (unsigned long long)bytes,
			       (unsigned long long)img->machine.ram_bytes);
	return 0;
}

static bool block_is_zero(const uint64_t sums[IMAGE_BLOCK_SUMS])
{
	for (size_t i = 0; i < IMAGE_BLOCK_SUMS; i++) {
		if (sums[i] != 0)
			return false;
	}
	return true;
}

/* Blocks that are all zero are not kept: the array stays sparse, too. */
static int read_block(struct mig_image *img, int fd, uint64_t block,
		      uint64_t *sums, struct image_sums_hash *hash)
{
	uint64_t at = block * IMAGE_BLOCK_BYTES;
	uint64_t buf[IMAGE_BLOCK_SUMS] = { 0 };
	uint64_t bytes = img->pages * 8 - at;
	int ret;

	if (bytes > IMAGE_BLOCK_BYTES)
		bytes = IMAGE_BLOCK_BYTES;
	ret = read_all(fd, buf, bytes, at);
	if (ret < 0 || block_is_zero(buf))
		return ret;
	image_sums_hash_add(hash, block, buf);
	memcpy(sums + block * IMAGE_BLOCK_SUMS, buf, sizeof(buf));
	img->block_used[block] = 1;
	for (size_t i = 0; i < IMAGE_BLOCK_SUMS; i++)
		img->data_pages += buf[i] != 0;
	return 0;
}

/* Only where the file has data; a file system that cannot tell has it all. */
static int read_blocks(struct mig_image *img, int fd, uint64_t *sums,
		       struct image_sums_hash *hash)
{
	uint64_t end = img->pages * 8;
	off_t at = 0, hole;
	int ret = 0;

	while (ret == 0 && (uint64_t)at < end) {
		at = lseek(fd, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? 0 : -errno;
		hole = lseek(fd, at, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		at -= at % IMAGE_BLOCK_BYTES;
		for (; ret == 0 && at < hole && (uint64_t)at < end;
		     at += IMAGE_BLOCK_BYTES)
			ret = read_block(img, fd,
					 (uint64_t)at / IMAGE_BLOCK_BYTES, sums,
					 hash);
	}
	return ret;
}

static int check_sums(struct mig_image *img, int fd,
		      const struct image_manifest *f, char **err)
{
	struct image_sums_hash *hash = image_sums_hash_new();
	uint64_t *sums = image_sums_new(img->pages);
	char hex[IMAGE_HASH_CHARS] = "";
	int ret = -ENOMEM;

	img->sums = sums;
	img->block_used = calloc(img->pages / IMAGE_BLOCK_SUMS + 1, 1);
	if (hash && sums && img->block_used)
		ret = read_blocks(img, fd, sums, hash);
	if (hash)
		image_sums_hash_end(hash, hex);
	if (ret < 0)
		return mig_say(err, ret, IMAGE_SUMS ": %s", strerror(-ret));
	if (strcmp(hex, f->sums_hash) != 0 || img->data_pages != f->data_pages)
		return mig_say(err, -EBADMSG,
			       IMAGE_SUMS ": damaged: not what the manifest "
					  "says");
	return 0;
}

static int read_sums(struct mig_image *img, int dir_fd,
		     const struct image_manifest *f, char **err)
{
	uint64_t bytes;
	int fd = open_file(dir_fd, IMAGE_SUMS, &bytes, err);
	int ret;

	if (fd < 0)
		return fd;
	img->pages = img->machine.ram_bytes / VM_PAGE_BYTES;
	if (bytes == img->pages * 8)
		ret = check_sums(img, fd, f, err);
	else
		ret = mig_say(err, -EBADMSG,
			      IMAGE_SUMS ": %llu bytes instead of %llu",
			      (unsigned long long)bytes,
			      (unsigned long long)img->pages * 8);
	close(fd);
	return ret;
}

static int open_all(struct mig_image *img, int dir_fd, char **err)
{
	struct image_manifest f;
	int ret = read_manifest(dir_fd, &f, err);

	if (ret == 0)
		ret = read_state(img, dir_fd, &f, err);
	if (ret == 0)
		ret = open_memory(img, dir_fd, err);
	if (ret == 0)
		ret = read_sums(img, dir_fd, &f, err);
	return ret;
}

/* Puts the directory in front of the line, for it is what the user named. */
static int fail(const char *dir, int ret, char *line, char **err)
{
	mig_say(err, ret, "snapshot %s: %s", dir, line ? line : strerror(-ret));
	free(line);
	return ret;
}

int mig_image_open(const char *dir, struct mig_image **ret_image, char **err)
{
	struct mig_image *img = calloc(1, sizeof(*img));
	char *line = NULL;
	int dir_fd, ret;

	if (!img)
		return -ENOMEM;
	img->memory_fd = -1;
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ret = dir_fd < 0 ? -errno : open_all(img, dir_fd, &line);
	if (dir_fd >= 0)
		close(dir_fd);
	if (ret < 0) {
		mig_image_free(img);
		return fail(dir, ret, line, err);
	}
	*ret_image = img;
	return 0;
}

void mig_image_free(struct mig_image *img)
{
	if (!img)
		return;
	if (img->memory_fd >= 0)
		close(img->memory_fd);
	image_sums_free((uint64_t *)img->sums, img->pages);
	free(img->block_used);
	mig_machine_fini(&img->machine);
	free(img->state);
	free(img);
}

bool mig_image_has_disk(const char *dir, int fd)
{
	int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[IMAGE_DISK_NAME_CHARS];
	struct stat file, copy;
	bool has = false;

	if (dir_fd < 0)
		return false;
	for (unsigned int i = 0; i < MIG_DISKS_MAX && !has; i++) {
		image_disk_name(i, name);
		has = fstatat(dir_fd, name, &copy, 0) == 0 &&
		      fstat(fd, &file) == 0 && file.st_dev == copy.st_dev &&
		      file.st_ino == copy.st_ino;
	}
	close(dir_fd);
	return has;
}

static bool has_sum(const struct mig_image *img, uint64_t page)
{
	return img->block_used[page / IMAGE_BLOCK_SUMS] && img->sums[page] != 0;
}

bool mig_image_next_run(const struct mig_image *img, uint64_t *page,
			uint64_t *ret_nr, uint64_t nr_max)
{
	uint64_t at = *page, nr = 0;

	while (at < img->pages && !has_sum(img, at)) {
		if (img->block_used[at / IMAGE_BLOCK_SUMS])
			at++;
		else
			at += IMAGE_BLOCK_SUMS - at % IMAGE_BLOCK_SUMS;
	}
	while (nr < nr_max && at + nr < img->pages && has_sum(img, at + nr))
		nr++;
	*page = at;
	*ret_nr = nr;
	return nr > 0;
}

int mig_image_read(const struct mig_image *img, uint64_t page, uint64_t nr,
		   void *buf)
{
	return read_all(img->memory_fd, buf, nr * VM_PAGE_BYTES,
			page * VM_PAGE_BYTES);
}

bool mig_image_page_is_good(const struct mig_image *img, uint64_t page,
			    const void *data)
{
	return mig_image_page_sum(page, data) == img->sums[page];
}
