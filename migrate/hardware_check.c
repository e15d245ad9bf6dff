/* migrate/hardware_check.c: whether this host has what the guest knows. */
#include "migrate/hardware.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "migrate/hardware_internal.h"

#define SECTOR_BYTES 512u /* what a disk's capacity is counted in */

/* ---- before the machine is made ---- */

/* O_NONBLOCK: a FIFO under that name must not hold us up. */
static int open_disk(const struct vm_disk_config *c)
{
	int fd = open(c->path, (c->read_only ? O_RDONLY : O_RDWR) |
				       (c->direct ? O_DIRECT : 0) | O_NONBLOCK |
				       O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int measure(int fd, uint64_t *ret_bytes)
{
	struct stat st;
	off_t end;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return -EINVAL;
	end = lseek(fd, 0, SEEK_END);
	if (end < 0)
		return -errno;
	*ret_bytes = (uint64_t)end;
	return 0;
}

static void probe_disk(size_t i, uint64_t guest_bytes,
		       const struct vm_disk_config *c,
		       const struct mig_objector *o)
{
	uint64_t bytes = 0;
	int fd = open_disk(c), ret;

	if (fd < 0) {
		mig_objectf(o, "disk %zu: %s cannot be opened%s here: %s", i,
			    c->path, c->direct ? " (direct)" : "",
			    strerror(-fd));
		return;
	}
	ret = measure(fd, &bytes);
	close(fd);
	if (ret == -EINVAL)
		mig_objectf(o, "disk %zu: %s is no file and no block device", i,
			    c->path);
	else if (ret < 0)
		mig_objectf(o, "disk %zu: %s: %s", i, c->path, strerror(-ret));
	else if (bytes / SECTOR_BYTES != guest_bytes / SECTOR_BYTES)
		mig_objectf(o,
			    "disk %zu: %s has %llu bytes here, the guest's has "
			    "%llu",
			    i, c->path, (unsigned long long)bytes,
			    (unsigned long long)guest_bytes);
}

/* The flags that a tap was made with, which who attaches has to match. */
static int tap_flags(const char *tap, unsigned int *ret_flags)
{
	char path[64];
	FILE *file;
	int n;

	snprintf(path, sizeof(path), "/sys/class/net/%.15s/tun_flags", tap);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	n = fscanf(file, "%x", ret_flags);
	fclose(file);
	return n == 1 ? 0 : -EIO;
}

/* Attaches for a moment, to a tap that is there: asking is all one can do. */
static int try_tap(const char *tap, unsigned int flags)
{
	struct ifreq request = { .ifr_flags = 0 };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	request.ifr_flags = (short)(flags & (IFF_TAP | IFF_TUN | IFF_NO_PI |
					     IFF_VNET_HDR | IFF_MULTI_QUEUE));
	strncpy(request.ifr_name, tap, sizeof(request.ifr_name) - 1);
	ret = ioctl(fd, TUNSETIFF, &request) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static void probe_net(size_t i, const struct vm_net_config *c,
		      const struct mig_objector *o)
{
	unsigned int flags;
	int ret = tap_flags(c->tap, &flags);

	if (ret < 0 || !(flags & IFF_TAP)) {
		mig_objectf(o, "net %zu: there is no tap '%s' here", i, c->tap);
		return;
	}
	ret = try_tap(c->tap, flags);
	if (ret == -EBUSY)
		mig_objectf(o, "net %zu: tap '%s' is in use by another process",
			    i, c->tap);
	else if (ret < 0)
		mig_objectf(o, "net %zu: tap '%s': %s", i, c->tap,
			    strerror(-ret));
}

void mig_hardware_probe(const struct mig_hardware *h,
			const struct vm_config *cfg,
			const struct mig_objector *o)
{
	size_t i;

	for (i = 0; i < cfg->nr_disks; i++)
		probe_disk(i, h->disks[i].bytes, &cfg->disks[i], o);
	for (i = 0; i < cfg->nr_nets; i++)
		probe_net(i, &cfg->nets[i], o);
}

/* ---- once it is made ---- */

static void bits_text(uint64_t bits, char *text, size_t bytes)
{
	size_t used = 0;
	int n;

	text[0] = '\0';
	for (int bit = 0; bit < 64; bit++) {
		if (!(bits >> bit & 1) || used >= bytes)
			continue;
		n = snprintf(text + used, bytes - used, "%s%d", used ? " " : "",
			     bit);
		used += n > 0 ? (size_t)n : 0;
	}
}

/* The guest was promised `had` for as long as it lives, and no more. */
static void compare_features(const char *what, size_t i, uint64_t had,
			     uint64_t have, const struct mig_objector *o)
{
	char missing[192], added[192];

	if (had == have)
		return;
	bits_text(had & ~have, missing, sizeof(missing));
	bits_text(have & ~had, added, sizeof(added));
	mig_objectf(o,
		    "%s %zu: features differ: bits the guest was offered and "
		    "this host has not: %s; the other way round: %s",
		    what, i, missing[0] ? missing : "none",
		    added[0] ? added : "none");
}

static void compare_queues(const char *what, size_t i, uint32_t had,
			   uint32_t have, const struct mig_objector *o)
{
	if (had != have)
		mig_objectf(o, "%s %zu: %u queues here, the guest's has %u",
			    what, i, have, had);
}

static void compare_disk(size_t i, const struct vm_disk_info *had,
			 const struct vm_disk_info *have,
			 const struct mig_objector *o)
{
	if (had->bytes != have->bytes)
		mig_objectf(o,
			    "disk %zu: %s has %llu bytes here, the guest's has "
			    "%llu",
			    i, have->path, (unsigned long long)have->bytes,
			    (unsigned long long)had->bytes);
	if (had->read_only != have->read_only)
		mig_objectf(o, "disk %zu: %s is %s here, unlike the guest's", i,
			    have->path,
			    have->read_only ? "read-only" : "writable");
	compare_features("disk", i, had->features, have->features, o);
	compare_queues("disk", i, had->nr_queues, have->nr_queues, o);
}

void mig_hardware_compare(const struct mig_hardware *h, struct vm *vm,
			  const struct mig_objector *o)
{
	struct vm_disk_info disk;
	struct vm_net_info net;
	size_t i;

	for (i = 0; i < h->nr_disks; i++) {
		vm_disk_info(vm, i, &disk);
		compare_disk(i, &h->disks[i], &disk, o);
	}
	for (i = 0; i < h->nr_nets; i++) {
		vm_net_info(vm, i, &net);
		compare_features("net", i, h->nets[i].features, net.features,
				 o);
		compare_queues("net", i, h->nets[i].nr_queues, net.nr_queues,
			       o);
	}
}
