#include "migrate/snapshot_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "migrate/disk_copy.h"
#include "migrate/say.h"

/*
 * Another file may have got the path since the guest opened its disk. Ours is the
 * one that we hold a lock on, and that shows on any other open file of it.
 */
static bool is_ours(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static int open_disk(const struct vm_disk_info *disk, int *ret_fd, char **err)
{
	int fd = open(disk->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), ret;

	if (fd < 0) {
		ret = -errno;
		return mig_say(err, ret, "disk %s: %s", disk->path,
			       strerror(-ret));
	}
	if (!is_ours(fd)) {
		close(fd);
		return mig_say(err, -ESTALE,
			       "disk %s: what has this path now is not the "
			       "guest's disk",
			       disk->path);
	}
	*ret_fd = fd;
	return 0;
}

static int copy_one(const struct vm_disk_info *disk, unsigned int index,
		    struct mig_image_writer *image, struct mig_disk_copy *c,
		    struct snap_disks_stats *stats, char **err)
{
	bool cloned;
	int ret;

	ret = open_disk(disk, &c->from_fd, err);
	if (ret < 0)
		return ret;
	c->bytes = disk->bytes;
	ret = mig_image_create_disk(image, index, disk->bytes, &c->to_fd, err);
	if (ret == 0)
		ret = mig_disk_copy(c, &cloned);
	close(c->from_fd);
	if (ret < 0)
		return mig_say(err, ret, "copy of disk %s: %s", disk->path,
			       strerror(-ret));
	stats->disks++;
	stats->cloned += cloned;
	stats->bytes += disk->bytes;
	return 0;
}

int snap_disks_copy(struct vm *vm, struct mig_image_writer *image,
		    bool (*keep_going)(void *ctx), void *ctx,
		    struct snap_disks_stats *ret_stats, char **err)
{
	struct mig_disk_copy c = { .keep_going = keep_going, .ctx = ctx };
	struct snap_disks_stats stats = { 0 };
	struct vm_disk_info disk;
	unsigned int i, nr = (unsigned int)vm_nr_disks(vm);
	int ret;

	/* A guest that is paused without its disks has no say in what is there. */
	ret = vm_disks_lock(vm, err);
	for (i = 0; ret == 0 && i < nr; i++) {
		vm_disk_info(vm, i, &disk);
		if (!disk.read_only)
			ret = copy_one(&disk, i, image, &c, &stats, err);
	}
	if (ret == 0)
		*ret_stats = stats;
	return ret;
}
