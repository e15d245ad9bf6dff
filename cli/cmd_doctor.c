/* vmmd doctor: what this host can do, and how to enable the rest. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/log.h"
#include "cli/rundir.h"
#include "compat/linux.h"
#include "migrate/tracker.h"
#include "uffd/uffd.h"
#include "vmm/dirty.h"

/* What a finding means for the exit status. */
enum need { NEEDED, OPTIONAL };

struct doctor {
	json_t *findings;
	bool healthy;
};

/* The formatted text: what it is for, or how to get it. */
__attribute__((format(printf, 5, 6))) static void
finding(struct doctor *d, const char *name, enum need need, bool found,
	const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	json_array_append_new(d->findings,
			      json_pack("{s:s, s:b, s:b, s:s}", "name", name,
					"found", found, "needed",
					need == NEEDED, "detail", text));
	if (need == NEEDED && !found)
		d->healthy = false;
}

static bool cpu_has(const char *flag)
{
	FILE *f = fopen("/proc/cpuinfo", "r");
	char line[8192], word[32];
	bool has = false;

	if (!f)
		return false;
	snprintf(word, sizeof(word), " %s ", flag);
	while (!has && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = ' ';
		has = strncmp(line, "flags", 5) == 0 && strstr(line, word);
	}
	fclose(f);
	return has;
}

static void look_at_trackers(struct doctor *d, const struct vm_dirty_caps *caps)
{
	struct mig_tracker_info infos[MIG_NR_TRACKERS];
	char name[64];
	size_t i;

	mig_tracker_list(caps, infos);
	for (i = 0; i < MIG_NR_TRACKERS; i++) {
		snprintf(name, sizeof(name), "tracker %s", infos[i].name);
		finding(d, name, OPTIONAL, infos[i].available, "%s",
			infos[i].why);
	}
}

/* What the tracker wp-all stands on, one by one. */
static void look_at_wp_all(struct doctor *d, const struct vm_dirty_caps *caps)
{
	static const char how[] =
		"build a kernel with the series in vmmd's kernel-patch/ (its "
		"README.md says how); on Intel also kvm_intel.pml=0";

	finding(d, "KVM_CAP_X86_WRITE_PROTECT_ALL", OPTIONAL, caps->wp_all,
		"tracker wp-all; %s", caps->wp_all ? "offered" : how);
	finding(d, "KVM_CAP_DIRTY_LOG_FLAGS", OPTIONAL, caps->log_flags,
		"tracker wp-all; %s", caps->log_flags ? "offered" : how);
}

static void look_at_kvm_features(struct doctor *d, int kvm_fd)
{
	struct vm_dirty_caps caps;
	bool tsc = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0;

	vm_dirty_caps(kvm_fd, &caps);
	look_at_trackers(d, &caps);
	look_at_wp_all(d, &caps);
	finding(d, "TSC control", OPTIONAL, tsc, "%s",
		tsc ? "guests keep their TSC frequency on other CPUs"
		    : "guests move only between hosts of the same TSC "
		      "frequency; it takes a CPU with TSC scaling");
}

static void look_at_kvm(struct doctor *d)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version, err = errno;
	bool hardware = cpu_has("vmx") || cpu_has("svm");

	if (fd < 0) {
		finding(d, "/dev/kvm", NEEDED, false, "runs guests; %s: %s",
			strerror(err),
			err == EACCES ? "join its group (usermod -aG kvm USER) "
					"or run as root"
				      : "modprobe kvm_intel or kvm_amd, and "
					"enable virtualisation in the firmware "
					"or, in a guest, nesting");
		return;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	finding(d, "/dev/kvm", NEEDED, version == KVM_API_VERSION,
		"runs guests; API version %d, %d is needed", version,
		KVM_API_VERSION);
	finding(d, "hardware KVM", OPTIONAL, hardware, "%s",
		hardware ? "the CPU shows vmx or svm"
			 : "the CPU shows neither vmx nor svm: this KVM works "
			   "in software and is slow in kernel code");
	look_at_kvm_features(d, fd);
	close(fd);
}

static void look_at_uffd(struct doctor *d)
{
	struct uffd_caps caps;

	uffd_probe(&caps);
	finding(d, "userfaultfd", NEEDED, caps.usable,
		"postcopy and lazy restore; %s",
		caps.usable ? "usable" : caps.why);
	finding(d, "userfaultfd write protection", NEEDED, caps.wp,
		"live snapshots; %s",
		caps.wp ? "usable" : "needs Linux 5.19 or newer");
	finding(d, "userfaultfd on memfd", OPTIONAL, caps.shmem,
		"the same for --mem-backend memfd; %s",
		caps.shmem ? "usable" : "needs Linux 5.19 or newer");
	finding(d, "userfaultfd on hugetlbfs", OPTIONAL, caps.hugetlbfs,
		"write protection for --mem-backend hugetlb; %s",
		caps.hugetlbfs ? "usable" : "needs Linux 5.19 or newer");
	finding(d, "userfaultfd moves pages", OPTIONAL, caps.move,
		"anonymous memory arrives huge by postcopy; %s",
		caps.move ? "usable" : "needs Linux 6.8");
}

static void look_at_pagemap(struct doctor *d)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = 0,
		.end = 4096,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};
	bool found = fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;

	finding(d, "PAGEMAP_SCAN", OPTIONAL, found,
		"finds memory never populated; %s",
		found ? "usable"
		      : "needs Linux 6.7; /proc/self/pagemap is read instead, "
			"which is slower");
	if (fd >= 0)
		close(fd);
}

static void look_at_io_uring(struct doctor *d)
{
	struct io_uring_params params = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

	finding(d, "io_uring", NEEDED, fd >= 0, "writes snapshots; %s",
		fd >= 0 ? "usable"
			: "sysctl kernel.io_uring_disabled=0, and no seccomp "
			  "filter against it");
	if (fd >= 0)
		close(fd);
}

static void look_at_limits(struct doctor *d)
{
	static const char huge[] =
		"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
	struct rlimit limit = { 0 };
	unsigned long free_pages = 0;
	FILE *f = fopen(huge, "r");

	if (f && fscanf(f, "%lu", &free_pages) != 1)
		free_pages = 0;
	if (f)
		fclose(f);
	finding(d, "huge pages", OPTIONAL, free_pages > 0,
		"--mem-backend hugetlb; %lu of 2 MiB free%s", free_pages,
		free_pages ? "" : ": sysctl vm.nr_hugepages=N");
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (limit.rlim_cur == RLIM_INFINITY)
		finding(d, "memlock", OPTIONAL, true,
			"memory for io_uring; unlimited");
	else
		finding(d, "memlock", OPTIONAL, limit.rlim_cur >= 8u << 20,
			"memory for io_uring; %llu KiB, 8192 are plenty "
			"(ulimit -l)",
			(unsigned long long)limit.rlim_cur >> 10);
}

static void look_at_rundir(struct doctor *d)
{
	char path[PATH_MAX] = "";
	char *err = NULL;
	int fd, ret;

	rundir_path(path);
	ret = rundir_open(true, &fd, &err);
	finding(d, "run directory", NEEDED, ret == 0, "control sockets; %s",
		ret == 0 ? path
		: err    ? err
			 : strerror(-ret));
	free(err);
	if (ret == 0)
		close(fd);
}

static void print_findings(const struct doctor *d)
{
	const json_t *o;
	size_t i;

	json_array_foreach(d->findings, i, o)
	{
		printf("%-8s %-29s %s\n",
		       json_is_true(json_object_get(o, "found"))    ? "found"
		       : json_is_true(json_object_get(o, "needed")) ? "MISSING"
								    : "missing",
		       json_string_value(json_object_get(o, "name")),
		       json_string_value(json_object_get(o, "detail")));
	}
	printf("%s\n", d->healthy ? "Guests can run, migrate and be saved here."
				  : "Something that is needed is MISSING.");
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct doctor d = { .healthy = true };
	struct cli_call call;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	d.findings = json_array();
	look_at_kvm(&d);
	look_at_uffd(&d);
	look_at_pagemap(&d);
	look_at_io_uring(&d);
	look_at_limits(&d);
	look_at_rundir(&d);
	if (call.json)
		client_print_json(json_pack("{s:s, s:O}", "result",
					    d.healthy ? "healthy" : "missing",
					    "findings", d.findings));
	else
		print_findings(&d);
	json_decref(d.findings);
	return d.healthy ? CLI_DONE : CLI_FAILED;
}

const struct cli_cmd cli_cmd_doctor = {
	.name = "doctor",
	.summary = "Show what this host can do and how to enable the rest",
	.args = "",
	.details = "Exit status 0 when guests can run, migrate and be saved "
		   "here, else 1.\n",
	.run = run,
};
