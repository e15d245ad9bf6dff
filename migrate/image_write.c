/* migrate/image_write.c: a snapshot from its temporary name to its own. */
#include "migrate/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/image_internal.h"
#include "migrate/say.h"

struct mig_image_writer {
	char *dir;      /* owned: as the caller said it, for messages */
	char *name;     /* owned: its last component */
	char *tmp_name; /* owned */
	int parent_fd;
	int tmp_fd; /* flocked; -1: there is no temporary directory */
	int memory_fd;
	uint64_t ram_bytes;
	uint64_t pages;
	uint64_t *sums;      /* owned: image_sums_new() */
	uint8_t *block_used; /* owned: by block of sums, any is not 0 */
	uint64_t nr_blocks;
	uint64_t data_pages; /* counted by write_sums() */
	uint64_t bytes;      /* of all files but memory and disks */
	/* Copies of disks; their files are open until they are synced. */
	struct image_disk disks[MIG_DISKS_MAX];
	int disk_fds[MIG_DISKS_MAX];
	size_t nr_disks;
};

static const char *const file_names[] = { IMAGE_MANIFEST, IMAGE_STATE,
					  IMAGE_MEMORY, IMAGE_SUMS };

static int say_errno(char **err, const char *dir, const char *what)
{
	int ret = -errno;

	return mig_say(err, ret, "snapshot %s: %s: %s", dir, what,
		       strerror(-ret));
}

/* Splits dir into an open parent and a last component. */
static int open_parent(struct mig_image_writer *w, char **err)
{
	char *path = strdup(w->dir);
	char *slash, *name = path;
	const char *parent = ".";
	size_t len;

	if (!path)
		return -ENOMEM;
	for (len = strlen(path); len > 1 && path[len - 1] == '/'; len--)
		path[len - 1] = '\0';
	slash = strrchr(path, '/');
	if (slash) {
		*slash = '\0';
		name = slash + 1;
		parent = slash == path ? "/" : path;
	}
	w->parent_fd = -1;
	errno = EINVAL;
	if (name[0] != '\0' && strcmp(name, ".") != 0 &&
	    strcmp(name, "..") != 0)
		w->parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->parent_fd >= 0)
		w->name = strdup(name);
	free(path);
	if (w->parent_fd < 0)
		return say_errno(err, w->dir, "cannot be made there");
	return w->name ? 0 : -ENOMEM;
}

static int refuse_existing(struct mig_image_writer *w, char **err)
{
	struct stat st;

	if (fstatat(w->parent_fd, w->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return mig_say(err, -EEXIST,
			       "snapshot %s: it exists already: name another "
			       "directory or remove it",
			       w->dir);
	return errno == ENOENT ? 0 : say_errno(err, w->dir, "cannot be made");
}

static void remove_tmp(struct mig_image_writer *w, const char *name, int tmp_fd)
{
	char disk[IMAGE_DISK_NAME_CHARS];

	for (size_t i = 0; i < sizeof(file_names) / sizeof(*file_names); i++)
		unlinkat(tmp_fd, file_names[i], 0);
	for (unsigned int i = 0; i < MIG_DISKS_MAX; i++) {
		image_disk_name(i, disk);
		unlinkat(tmp_fd, disk, 0);
	}
	unlinkat(w->parent_fd, name, AT_REMOVEDIR);
}

/* A descriptor of it; -EBUSY when somebody else holds it. */
static int lock_tmp(struct mig_image_writer *w, const char *name)
{
	int fd = openat(w->parent_fd, name,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		ret = errno == EWOULDBLOCK ? -EBUSY : -errno;
		close(fd);
		return ret;
	}
	return fd;
}

/* ".NAME.tmp-" and digits: a try at this very snapshot. */
static bool is_tmp_of(const struct mig_image_writer *w, const char *entry)
{
	size_t len = strlen(w->name);

	return entry[0] == '.' && strncmp(entry + 1, w->name, len) == 0 &&
	       strncmp(entry + 1 + len, ".tmp-", 5) == 0 &&
	       entry[len + 6] != '\0' &&
	       strspn(entry + len + 6, "0123456789") == strlen(entry + len + 6);
}

/*
 * What a process that was killed left behind is taken away by whoever takes this
 * snapshot next; one that somebody still holds is not.
 */
static void remove_leftovers(struct mig_image_writer *w)
{
	int fd = openat(w->parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *parent = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;
	int tmp_fd;

	if (!parent) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((e = readdir(parent)) != NULL) {
		if (!is_tmp_of(w, e->d_name))
			continue;
		tmp_fd = lock_tmp(w, e->d_name);
		if (tmp_fd < 0)
			continue;
		remove_tmp(w, e->d_name, tmp_fd);
		close(tmp_fd);
	}
	closedir(parent);
}

static int make_tmp(struct mig_image_writer *w, char **err)
{
	int ret;

	if (asprintf(&w->tmp_name, ".%s.tmp-%ld", w->name, (long)getpid()) <
	    0) {
		w->tmp_name = NULL;
		return -ENOMEM;
	}
	remove_leftovers(w);
	ret = mkdirat(w->parent_fd, w->tmp_name, 0700) < 0 ? -errno : 0;
	if (ret == 0)
		ret = lock_tmp(w, w->tmp_name);
	if (ret < 0) {
		errno = -ret;
		return say_errno(err, w->dir, w->tmp_name);
	}
	w->tmp_fd = ret;
	return 0;
}

static int create_file(struct mig_image_writer *w, const char *name, char **err)
{
	int fd = openat(w->tmp_fd, name,
			O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
			0600);

	return fd < 0 ? say_errno(err, w->dir, name) : fd;
}

static int create_memory(struct mig_image_writer *w, char **err)
{
	int fd = create_file(w, IMAGE_MEMORY, err);

	if (fd < 0)
		return fd;
	w->memory_fd = fd;
	if (ftruncate(fd, (off_t)w->ram_bytes) < 0)
		return say_errno(err, w->dir, IMAGE_MEMORY);
	return 0;
}

static int prepare(struct mig_image_writer *w, char **err)
{
	int ret = -ENOMEM;

	w->nr_blocks = (w->pages + IMAGE_BLOCK_SUMS - 1) / IMAGE_BLOCK_SUMS;
	w->sums = image_sums_new(w->pages);
	w->block_used = calloc(w->nr_blocks, 1);
	if (w->dir && w->sums && w->block_used)
		ret = open_parent(w, err);
	if (ret == 0)
		ret = refuse_existing(w, err);
	if (ret == 0)
		ret = make_tmp(w, err);
	if (ret == 0)
		ret = create_memory(w, err);
	return ret;
}

int mig_image_create(const char *dir, uint64_t ram_bytes,
		     struct mig_image_writer **ret_writer, char **err)
{
	struct mig_image_writer *w = calloc(1, sizeof(*w));
	int ret;

	if (!w)
		return -ENOMEM;
	w->parent_fd = w->tmp_fd = w->memory_fd = -1;
	w->ram_bytes = ram_bytes;
	w->pages = ram_bytes / VM_PAGE_BYTES;
	w->dir = strdup(dir);
	ret = prepare(w, err);
	if (ret < 0) {
		mig_image_writer_free(w);
		return ret;
	}
	*ret_writer = w;
	return 0;
}

int mig_image_memory_fd(const struct mig_image_writer *w)
{
	return w->memory_fd;
}

void mig_image_set_sum(struct mig_image_writer *w, uint64_t page, uint64_t sum)
{
	w->sums[page] = sum;
	if (sum != 0)
		__atomic_store_n(&w->block_used[page / IMAGE_BLOCK_SUMS], 1,
				 __ATOMIC_RELAXED);
}

int mig_image_create_disk(struct mig_image_writer *w, unsigned int index,
			  uint64_t bytes, int *ret_fd, char **err)
{
	char name[IMAGE_DISK_NAME_CHARS];
	int fd;

	if (w->nr_disks == MIG_DISKS_MAX)
		return -ENOSPC;
	image_disk_name(index, name);
	fd = create_file(w, name, err);
	if (fd < 0)
		return fd;
	w->disks[w->nr_disks] = (struct image_disk){ index, bytes };
	w->disk_fds[w->nr_disks++] = fd;
	if (ftruncate(fd, (off_t)bytes) < 0)
		return say_errno(err, w->dir, name);
	*ret_fd = fd;
	return 0;
}

static int write_all(int fd, const void *data, size_t bytes, off_t offset)
{
	const uint8_t *p = data;

	while (bytes > 0) {
		ssize_t n = pwrite(fd, p, bytes, offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		p += n;
		offset += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* Syncs and closes. */
static int finish_file(struct mig_image_writer *w, int fd, const char *name,
		       int ret, char **err)
{
	if (ret == 0 && fsync(fd) < 0)
		ret = -errno;
	close(fd);
	errno = -ret;
	return ret < 0 ? say_errno(err, w->dir, name) : 0;
}

static int write_file(struct mig_image_writer *w, const char *name,
		      const void *data, size_t bytes, char **err)
{
	int fd = create_file(w, name, err);

	if (fd < 0)
		return fd;
	w->bytes += bytes;
	return finish_file(w, fd, name, write_all(fd, data, bytes, 0), err);
}

static int write_block(struct mig_image_writer *w, int fd, uint64_t block)
{
	const uint64_t *sums = w->sums + block * IMAGE_BLOCK_SUMS;
	uint64_t at = block * IMAGE_BLOCK_BYTES;
	uint64_t bytes = w->pages * 8 - at;

	if (bytes > IMAGE_BLOCK_BYTES)
		bytes = IMAGE_BLOCK_BYTES;
	for (size_t i = 0; i < IMAGE_BLOCK_SUMS; i++)
		w->data_pages += sums[i] != 0;
	w->bytes += bytes;
	return write_all(fd, sums, bytes, (off_t)at);
}

static int write_sums(struct mig_image_writer *w,
		      char ret_hex[IMAGE_HASH_CHARS], char **err)
{
	int fd = create_file(w, IMAGE_SUMS, err);
	struct image_sums_hash *hash;
	int ret = 0;

	if (fd < 0)
		return fd;
	hash = image_sums_hash_new();
	if (!hash || ftruncate(fd, (off_t)(w->pages * 8)) < 0)
		ret = hash ? -errno : -ENOMEM;
	for (uint64_t b = 0; ret == 0 && b < w->nr_blocks; b++) {
		if (!w->block_used[b])
			continue;
		image_sums_hash_add(hash, b, w->sums + b * IMAGE_BLOCK_SUMS);
		ret = write_block(w, fd, b);
	}
	if (hash)
		image_sums_hash_end(hash, ret_hex);
	return finish_file(w, fd, IMAGE_SUMS, ret, err);
}

static int write_manifest(struct mig_image_writer *w,
			  const struct image_manifest *f,
			  const struct mig_machine *m, char **err)
{
	char *text;
	int ret;

	ret = image_manifest_write(f, m, &text);
	if (ret < 0)
		return ret;
	ret = write_file(w, IMAGE_MANIFEST, text, strlen(text), err);
	free(text);
	return ret;
}

static int sync_disks(struct mig_image_writer *w, struct image_manifest *f,
		      char **err)
{
	char name[IMAGE_DISK_NAME_CHARS];

	for (size_t i = 0; i < w->nr_disks; i++) {
		image_disk_name(w->disks[i].index, name);
		if (fsync(w->disk_fds[i]) < 0)
			return say_errno(err, w->dir, name);
		f->disks[i] = w->disks[i];
	}
	f->nr_disks = w->nr_disks;
	return 0;
}

static int write_files(struct mig_image_writer *w, const struct mig_machine *m,
		       const uint8_t *state, size_t state_bytes, char **err)
{
	struct image_manifest f = { .ram_bytes = w->ram_bytes };
	size_t bytes;
	uint8_t *buf;
	int ret;

	if (fsync(w->memory_fd) < 0)
		return say_errno(err, w->dir, IMAGE_MEMORY);
	ret = sync_disks(w, &f, err);
	if (ret < 0)
		return ret;
	ret = mig_saved_pack(m, state, state_bytes, &buf, &bytes);
	if (ret < 0)
		return ret;
	f.state_bytes = bytes;
	image_hash(buf, bytes, f.state_hash);
	ret = write_file(w, IMAGE_STATE, buf, bytes, err);
	free(buf);
	if (ret == 0)
		ret = write_sums(w, f.sums_hash, err);
	f.data_pages = w->data_pages;
	/* Last: a directory without a manifest is no snapshot. */
	if (ret == 0)
		ret = write_manifest(w, &f, m, err);
	return ret;
}

/* Where the file system cannot refuse to replace, we have looked before. */
static int publish(struct mig_image_writer *w, char **err)
{
	int ret;

	if (fsync(w->tmp_fd) < 0)
		return say_errno(err, w->dir, "fsync");
	ret = renameat2(w->parent_fd, w->tmp_name, w->parent_fd, w->name,
			RENAME_NOREPLACE);
	if (ret < 0 && (errno == EINVAL || errno == ENOSYS)) {
		ret = refuse_existing(w, err);
		if (ret < 0)
			return ret;
		ret = renameat(w->parent_fd, w->tmp_name, w->parent_fd,
			       w->name);
	}
	if (ret < 0)
		return say_errno(err, w->dir, "rename");
	close(w->tmp_fd);
	w->tmp_fd = -1;
	/*
	 * It is there and whole. That its name may not survive a power cut is no
	 * reason to take it away again.
	 */
	fsync(w->parent_fd);
	return 0;
}

int mig_image_commit(struct mig_image_writer *w, const struct mig_machine *m,
		     const uint8_t *state, size_t state_bytes,
		     uint64_t *ret_bytes, char **err)
{
	int ret = write_files(w, m, state, state_bytes, err);

	if (ret == 0)
		ret = publish(w, err);
	if (ret < 0)
		return mig_say(err, ret, "snapshot %s: %s", w->dir,
			       strerror(-ret));
	*ret_bytes = w->bytes;
	return 0;
}

void mig_image_writer_free(struct mig_image_writer *w)
{
	if (!w)
		return;
	if (w->memory_fd >= 0)
		close(w->memory_fd);
	while (w->nr_disks > 0)
		close(w->disk_fds[--w->nr_disks]);
	if (w->tmp_fd >= 0) {
		remove_tmp(w, w->tmp_name, w->tmp_fd);
		close(w->tmp_fd);
	}
	if (w->parent_fd >= 0)
		close(w->parent_fd);
	image_sums_free(w->sums, w->pages);
	free(w->block_used);
	free(w->tmp_name);
	free(w->name);
	free(w->dir);
	free(w);
}
