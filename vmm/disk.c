/* vmm/disk.c: opening a disk, and saying plainly why it cannot be one. */
#include "vmm/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

static int open_failed(const struct vm_disk_config *cfg, int ret, char **err)
{
	switch (ret) {
	case -EISDIR:
		return vm_err(err, ret, "disk %s is a directory", cfg->path);
	case -EROFS:
		return vm_err(
			err, ret,
			"disk %s cannot be written (read-only file system "
			"or device): use it read-only",
			cfg->path);
	case -EACCES:
	case -EPERM:
		return vm_err(err, ret, "no permission to %s disk %s",
			      cfg->read_only ? "read" : "read and write",
			      cfg->path);
	case -EINVAL:
		if (cfg->direct)
			return vm_err(err, ret,
				      "the file system of disk %s has no "
				      "O_DIRECT: use it without direct",
				      cfg->path);
		break;
	default:
		break;
	}
	return vm_err(err, ret, "cannot open disk %s: %s", cfg->path,
		      strerror(-ret));
}

/* O_NONBLOCK only for the open itself, which a FIFO would otherwise block. */
static int open_file(const struct vm_disk_config *cfg, int *ret_fd, char **err)
{
	int flags = (cfg->read_only ? O_RDONLY : O_RDWR) |
		    (cfg->direct ? O_DIRECT : 0) | O_CLOEXEC;
	int ret, fd = open(cfg->path, flags | O_NONBLOCK);

	if (fd < 0)
		return open_failed(cfg, -errno, err);
	if (fcntl(fd, F_SETFL, flags) < 0) {
		ret = -errno;
		close(fd);
		return vm_err(err, ret, "cannot use disk %s: %s", cfg->path,
			      strerror(-ret));
	}
	*ret_fd = fd;
	return 0;
}

static int measure_block_device(struct vm_disk *d, char **err)
{
	int logical = 0;
	int ret;

	if (ioctl(d->fd, BLKGETSIZE64, &d->bytes) < 0 ||
	    ioctl(d->fd, BLKSSZGET, &logical) < 0) {
		ret = -errno;
		return vm_err(err, ret, "cannot tell the size of disk %s: %s",
			      d->path, strerror(-ret));
	}
	if (logical < (int)VM_DISK_SECTOR_BYTES ||
	    logical > (int)VM_DISK_ALIGN_MAX)
		return vm_err(
			err, -EINVAL,
			"disk %s has blocks of %d bytes: 512 to %u can be",
			d->path, logical, VM_DISK_ALIGN_MAX);
	d->logical_bytes = (uint32_t)logical;
	return 0;
}

static int measure(struct vm_disk *d, char **err)
{
	struct stat st;
	int ret;

	if (fstat(d->fd, &st) < 0) {
		ret = -errno;
		return vm_err(err, ret, "disk %s: %s", d->path, strerror(-ret));
	}
	if (S_ISDIR(st.st_mode))
		return vm_err(err, -EISDIR, "disk %s is a directory", d->path);
	d->is_block = S_ISBLK(st.st_mode);
	if (!d->is_block && !S_ISREG(st.st_mode))
		return vm_err(err, -EINVAL,
			      "disk %s is neither a file nor a block device",
			      d->path);
	d->logical_bytes = VM_DISK_SECTOR_BYTES;
	d->bytes = (uint64_t)st.st_size;
	if (d->is_block) {
		ret = measure_block_device(d, err);
		if (ret < 0)
			return ret;
	}
	if (d->bytes == 0)
		return vm_err(err, -EINVAL, "disk %s is empty", d->path);
	if (d->bytes % VM_DISK_SECTOR_BYTES != 0)
		return vm_err(err, -EINVAL,
			      "the size of disk %s, %llu bytes, is not a "
			      "multiple of %u",
			      d->path, (unsigned long long)d->bytes,
			      VM_DISK_SECTOR_BYTES);
	return 0;
}

/*
 * Which alignment O_DIRECT wants is tried out, memory and offset at once: statx
 * tells it only on some file systems of newer kernels.
 */
static int probe_align(struct vm_disk *d, uint8_t *buf, char **err)
{
	uint32_t align;
	int ret = -EINVAL;

	for (align = VM_DISK_SECTOR_BYTES; align <= VM_DISK_ALIGN_MAX;
	     align *= 2) {
		ret = pread(d->fd, buf + align, align, 0) < 0 ? -errno : 0;
		if (ret != -EINVAL)
			break;
	}
	if (ret < 0)
		return vm_err(err, ret, "cannot read disk %s with O_DIRECT: %s",
			      d->path, strerror(-ret));
	if (d->bytes % align != 0)
		return vm_err(err, -EINVAL,
			      "the size of disk %s, %llu bytes, is not a "
			      "multiple of %u, as O_DIRECT wants it there: use "
			      "it without direct",
			      d->path, (unsigned long long)d->bytes, align);
	d->align = align;
	return 0;
}

static int find_align(struct vm_disk *d, char **err)
{
	const size_t bytes = 2 * VM_DISK_ALIGN_MAX;
	uint8_t *buf;
	int ret;

	d->align = 1;
	if (!d->direct)
		return 0;
	buf = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED)
		return vm_err(err, -ENOMEM, "out of memory");
	ret = probe_align(d, buf, err);
	munmap(buf, bytes);
	return ret;
}

int vm_disk_open(const struct vm_disk_config *cfg, struct vm_disk *ret_disk,
		 char **err)
{
	struct vm_disk d = { .read_only = cfg->read_only,
			     .direct = cfg->direct };
	int ret = open_file(cfg, &d.fd, err);

	if (ret < 0)
		return ret;
	d.path = strdup(cfg->path);
	if (!d.path) {
		ret = vm_err(err, -ENOMEM, "out of memory");
		goto close_fd;
	}
	ret = measure(&d, err);
	if (ret < 0)
		goto free_path;
	ret = find_align(&d, err);
	if (ret < 0)
		goto free_path;
	*ret_disk = d;
	return 0;
free_path:
	free(d.path);
close_fd:
	close(d.fd);
	return ret;
}

void vm_disk_close(struct vm_disk *d)
{
	vm_disk_unlock(d);
	close(d->fd);
	free(d->path);
}

static int lock_busy(const struct vm_disk *d, char **err)
{
	struct flock l = { .l_type = d->read_only ? F_RDLCK : F_WRLCK,
			   .l_whence = SEEK_SET };

	/* An OFD lock belongs to no process; a POSIX one says whose it is. */
	if (fcntl(d->fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK &&
	    l.l_pid > 0)
		return vm_err(err, -EBUSY, "disk %s is in use by process %d",
			      d->path, (int)l.l_pid);
	return vm_err(err, -EBUSY, "disk %s is in use by another machine",
		      d->path);
}

int vm_disk_lock(struct vm_disk *d, char **err)
{
	struct flock l = { .l_type = d->read_only ? F_RDLCK : F_WRLCK,
			   .l_whence = SEEK_SET };
	int ret;

	if (d->locked)
		return 0;
	if (fcntl(d->fd, F_OFD_SETLK, &l) < 0) {
		ret = -errno;
		if (ret == -EAGAIN || ret == -EACCES)
			return lock_busy(d, err);
		return vm_err(err, ret, "cannot lock disk %s: %s", d->path,
			      strerror(-ret));
	}
	d->locked = true;
	/*
	 * A block device that several hosts reach has no file system that would
	 * keep their caches in step: what was read before we had the lock may
	 * be old. (Network file systems do this when a lock is taken.)
	 */
	if (d->is_block && !d->direct)
		posix_fadvise(d->fd, 0, 0, POSIX_FADV_DONTNEED);
	return 0;
}

void vm_disk_unlock(struct vm_disk *d)
{
	struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	if (!d->locked)
		return;
	/* The other half of what vm_disk_lock() does for block devices. */
	if (d->is_block && !d->direct && !d->read_only)
		fdatasync(d->fd);
	fcntl(d->fd, F_OFD_SETLK, &l);
	d->locked = false;
}
