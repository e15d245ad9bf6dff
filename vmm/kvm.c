/* vmm/kvm.c: /dev/kvm itself: opening it, what it can do, and its errors. */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* The one API version there has ever been since Linux 2.6.22. */
#define KVM_API_WANTED 12

struct needed_cap {
	int cap;
	const char *name;
};

static const struct needed_cap needed_caps[] = {
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR" },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR" },
	{ KVM_CAP_PIT2, "KVM_CAP_PIT2" },
	{ KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
	{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
	{ KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ" },
	{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
};

int vm_ioctl(int fd, unsigned long request, void *arg)
{
	int ret = ioctl(fd, request, arg);

	return ret < 0 ? -errno : ret;
}

int vm_ioctl_num(int fd, unsigned long request, unsigned long arg)
{
	int ret = ioctl(fd, request, arg);

	return ret < 0 ? -errno : ret;
}

int vm_kvm_cap(int fd, int cap)
{
	int ret = ioctl(fd, KVM_CHECK_EXTENSION, cap);

	return ret < 0 ? 0 : ret;
}

int vm_err(char **err, int ret, const char *fmt, ...)
{
	va_list ap;

	if (!err || *err)
		return ret;
	va_start(ap, fmt);
	if (vasprintf(err, fmt, ap) < 0)
		*err = NULL;
	va_end(ap);
	return ret;
}

static int open_error(int ret, char **err)
{
	switch (ret) {
	case -ENOENT:
	case -ENODEV:
	case -ENXIO:
		return vm_err(err, ret,
			      "/dev/kvm: %s; load the KVM module (modprobe "
			      "kvm_intel or kvm_amd) and see that "
			      "virtualisation is enabled in the firmware",
			      strerror(-ret));
	case -EACCES:
	case -EPERM:
		return vm_err(err, ret,
			      "/dev/kvm: %s; add this user to the group kvm "
			      "(usermod -aG kvm USER, then log in again) or "
			      "run as root",
			      strerror(-ret));
	default:
		return vm_err(err, ret, "/dev/kvm: %s", strerror(-ret));
	}
}

static int check_caps(int fd, char **err)
{
	int version = vm_ioctl_num(fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_WANTED)
		return vm_err(err, -ENOTSUP,
			      "/dev/kvm: API version %d where %d is wanted",
			      version, KVM_API_WANTED);
	for (size_t i = 0; i < sizeof(needed_caps) / sizeof(needed_caps[0]);
	     i++) {
		if (!vm_kvm_cap(fd, needed_caps[i].cap))
			return vm_err(err, -ENOTSUP,
				      "/dev/kvm: this kernel lacks %s; a "
				      "kernel of 4.12 or later has it",
				      needed_caps[i].name);
	}
	return 0;
}

int vm_kvm_open(int *ret_fd, char **err)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return open_error(-errno, err);
	ret = check_caps(fd, err);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	*ret_fd = fd;
	return 0;
}
