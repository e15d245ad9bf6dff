#include "uffd/open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compat/linux.h"
#include "uffd/uffd.h"

/*
 * What we ask the kernel for. WP_UNPOPULATED is left out on purpose: whoever
 * protects memory knows which of it is populated, and a mark on every empty
 * page would cost page tables and faults for pages that nobody saves.
 */
#define UFFD_FEATURES                                                          \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |         \
	 UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |    \
	 UFFD_FEATURE_THREAD_ID)

/*
 * Never UFFD_USER_MODE_ONLY: KVM touches guest memory from inside the kernel,
 * and KVM_RUN would fail with EFAULT.
 */
static int open_userfaultfd(void)
{
	int flags = O_CLOEXEC | O_NONBLOCK;
	int dev, fd = -1;

	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
		close(dev);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, flags);
	return fd < 0 ? -errno : fd;
}

/* The handshake is done once per fd: asking with none tells what there is. */
static int handshake(int fd, uint64_t features, uint64_t *ret_features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	*ret_features = api.features;
	return 0;
}

static const char *cure(int ret)
{
	switch (ret) {
	case -EPERM:
	case -EACCES:
		return "give this user read and write access to "
		       "/dev/userfaultfd, or set "
		       "vm.unprivileged_userfaultfd=1, "
		       "or run with CAP_SYS_PTRACE";
	case -ENOSYS:
		return "the kernel is built without CONFIG_USERFAULTFD";
	case -EMFILE:
	case -ENFILE:
		return "raise the limit of open files";
	default:
		return "a seccomp filter or container may forbid it";
	}
}

static void say_cannot_open(struct uffd_caps *caps, int ret)
{
	snprintf(caps->why, sizeof(caps->why),
		 "userfaultfd cannot be opened (%s): %s", strerror(-ret),
		 cure(ret));
}

void uffd_probe(struct uffd_caps *ret_caps)
{
	struct uffd_caps *caps = ret_caps;
	uint64_t features = 0;
	int fd = open_userfaultfd();
	int ret;

	memset(caps, 0, sizeof(*caps));
	if (fd < 0) {
		say_cannot_open(caps, fd);
		return;
	}
	ret = handshake(fd, 0, &features);
	close(fd);
	caps->wp = features & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	caps->shmem = (features & UFFD_FEATURE_MISSING_SHMEM) &&
		      (features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	caps->hugetlbfs = (features & UFFD_FEATURE_MISSING_HUGETLBFS) &&
			  (features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	caps->move = features & UFFD_FEATURE_MOVE;
	caps->usable = ret == 0 && (features & UFFD_FEATURES) == UFFD_FEATURES;
	if (!caps->usable)
		snprintf(caps->why, sizeof(caps->why),
			 "the kernel's userfaultfd lacks features 0x%llx: "
			 "Linux 5.19 or newer with "
			 "CONFIG_HAVE_ARCH_USERFAULTFD_WP has them",
			 (unsigned long long)(UFFD_FEATURES & ~features));
}

int uffd_open(char **err)
{
	struct uffd_caps caps;
	uint64_t features;
	int fd = open_userfaultfd();
	int ret = fd < 0 ? fd : handshake(fd, UFFD_FEATURES, &features);

	if (ret == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	uffd_probe(&caps);
	if (caps.usable) /* not for want of features */
		say_cannot_open(&caps, ret);
	if (err)
		*err = strdup(caps.why);
	return ret;
}
