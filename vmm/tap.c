#include "vmm/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

#define TUN_DEVICE "/dev/net/tun"

/* More than any interface's queue holds (txqueuelen, 500 for a tap). */
#define DRAIN_FRAMES_MAX 10000

/* As the kernel has it (dev_valid_name), and '%' would be a pattern to it. */
static bool name_is_good(const char *name)
{
	size_t bytes = strlen(name);

	return bytes > 0 && bytes < IFNAMSIZ && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0 &&
	       strcspn(name, "/:% \t\n\v\f\r") == bytes;
}

static int open_error(int error, char **err)
{
	if (error == EACCES || error == EPERM)
		return vm_err(err, -error, "no permission to open %s",
			      TUN_DEVICE);
	if (error == ENOENT || error == ENODEV || error == ENXIO)
		return vm_err(err, -error,
			      "%s is missing: the kernel's tun driver is not "
			      "loaded (modprobe tun)",
			      TUN_DEVICE);
	return vm_err(err, -error, "cannot open %s: %s", TUN_DEVICE,
		      strerror(error));
}

static int attach_error(const char *name, int error, char **err)
{
	switch (error) {
	case EPERM:
		return vm_err(
			err, -error,
			"tap %s: not permitted: it takes CAP_NET_ADMIN, or "
			"a tap made for this user (ip tuntap add %s mode "
			"tap user NAME)",
			name, name);
	case EBUSY:
		return vm_err(err, -error, "tap %s: somebody else is using it",
			      name);
	case EINVAL:
		return vm_err(err, -error,
			      "tap %s: there is an interface of that name, but "
			      "it is not a tap with one queue",
			      name);
	default:
		return vm_err(err, -error, "tap %s: cannot attach: %s", name,
			      strerror(error));
	}
}

int tap_open(const char *name, int *ret_fd, char **err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int header_bytes = TAP_HEADER_BYTES;
	int fd, ret;

	if (!name_is_good(name))
		return vm_err(err, -EINVAL,
			      "tap %s: not a name that an interface can have "
			      "(at most %d characters)",
			      name, IFNAMSIZ - 1);
	fd = open(TUN_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return open_error(errno, err);
	memcpy(ifr.ifr_name, name, strlen(name));
	if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
		ret = attach_error(name, errno, err);
		goto close_fd;
	}
	if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0) {
		ret = attach_error(name, errno, err);
		goto close_fd;
	}
	/* Until a driver has said what it can take. */
	ret = tap_set_offload(fd, 0);
	if (ret < 0) {
		attach_error(name, -ret, err);
		goto close_fd;
	}
	*ret_fd = fd;
	return 0;
close_fd:
	close(fd);
	return ret;
}

int tap_set_offload(int fd, unsigned int flags)
{
	return ioctl(fd, TUNSETOFFLOAD, (unsigned long)flags) < 0 ? -errno : 0;
}

/* A buffer that is too short takes the frame all the same. */
void tap_drain(int fd)
{
	char header[TAP_HEADER_BYTES];

	for (int i = 0; i < DRAIN_FRAMES_MAX; i++) {
		if (read(fd, header, sizeof(header)) < 0)
			break;
	}
}
