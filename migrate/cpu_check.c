#include "migrate/cpu_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cpuid.h"

static int host_cpuid(struct kvm_cpuid_entry2 **ret_host, size_t *ret_nr)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = vm_cpuid_supported(fd, ret_host, ret_nr);
	close(fd);
	return ret;
}

size_t mig_cpu_missing(const struct kvm_cpuid_entry2 *guest, size_t nr,
		       void (*report)(void *ctx, const char *line), void *ctx)
{
	struct kvm_cpuid_entry2 *host = NULL;
	size_t nr_host = 0, missing;
	char line[128];
	int ret = host_cpuid(&host, &nr_host);

	if (ret < 0) {
		snprintf(line, sizeof(line),
			 "/dev/kvm: %s (vmmd doctor tells more)",
			 strerror(-ret));
		report(ctx, line);
		return 1;
	}
	missing = vm_cpuid_missing(guest, nr, host, nr_host, report, ctx);
	free(host);
	return missing;
}
