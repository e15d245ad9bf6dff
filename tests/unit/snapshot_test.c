/*
 * What is restored is the guest as it was at one instant, though it went on
 * writing while the snapshot was taken.
 *
 * The guest writes one counter into every page of its memory, page after page,
 * then counts up. At any instant its pages are some number of c followed by
 * c - 1 to the end; a page saved too late or too early breaks that.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate/restore.h"
#include "migrate/snapshot.h"
#include "tests/unit/quiet_vm.h"
#include "vmm/vm_internal.h"

#define RAM_BYTES (UINT64_C(256) << 20)
#define CODE_GPA  UINT64_C(0x2000)
#define DATA_GPA  UINT64_C(0x400000)
#define NR_PAGES  UINT64_C(16384)

static char top[] = "/tmp/vmmd-snapshot-XXXXXX";
static char dir[64];

/* Flat 32-bit code. */
static const uint8_t code[] = {
	0x31, 0xdb,                         /*	xor ebx, ebx		*/
	0x43,                               /* 1: inc ebx		*/
	0xbf, 0x00, 0x00, 0x40, 0x00,       /*	mov edi, DATA_GPA	*/
	0xb9, 0x00, 0x40, 0x00, 0x00,       /*	mov ecx, NR_PAGES	*/
	0x89, 0x1f,                         /* 2: mov [edi], ebx	*/
	0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /*	add edi, 4096		*/
	0xe2, 0xf6,                         /*	loop 2b			*/
	0xeb, 0xe9,                         /*	jmp 1b			*/
};

static const struct mig_snapshot_ops snapshot_ops = { .changed = nothing };
static const struct mig_restore_ops restore_ops = { .changed = nothing };

static void set_entry(struct vm *vm)
{
	const struct kvm_segment flat = {
		.limit = 0xffffffff,
		.selector = 0x10,
		.type = 3,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	assert_int_equal(vm_vcpu_get_entry(vm, &regs, &sregs), 0);
	sregs.cr0 |= 1;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 0xb;
	sregs.cs.selector = 8;
	memset(&regs, 0, sizeof(regs));
	regs.rip = CODE_GPA;
	regs.rflags = 2;
	assert_int_equal(vm_vcpu_set_entry(vm, &regs, &sregs), 0);
}

static uint32_t peek(struct mig_guest *g, uint64_t page)
{
	uint64_t offset = DATA_GPA + page * VM_PAGE_BYTES;

	return __atomic_load_n(
		(uint32_t *)(vm_mem_base(vm_mem(g->vm)) + offset),
		__ATOMIC_RELAXED);
}

static struct mig_guest *start_guest(enum vm_mem_backend backend)
{
	const struct vm_config cfg = {
		.ram_bytes = RAM_BYTES,
		.nr_cpus = 4, /* faults come in several lanes */
		.mem_backend = backend,
	};
	struct mig_guest *g;
	char *err = NULL;
	struct vm *vm;

	if (vm_new(&cfg, &quiet_vm_ops, NULL, &vm, &err) < 0)
		fail_msg("%s", err);
	assert_int_equal(mig_guest_new(vm, &g), 0);
	assert_int_equal(vm_mem_write(vm_mem(vm), CODE_GPA, code, sizeof(code)),
			 0);
	set_entry(vm);
	assert_int_equal(vm_start(vm), 0);
	assert_int_equal(vm_resume(vm), 0);
	while (peek(g, NR_PAGES - 1) < 2)
		usleep(1000);
	return g;
}

/* The guest is stopped. Returns the counter of page 0. */
static uint32_t check_instant(struct mig_guest *g)
{
	uint32_t first, value;
	unsigned int steps = 0;

	vm_pause(g->vm);
	first = value = peek(g, 0);
	for (uint64_t i = 1; i < NR_PAGES; i++) {
		uint32_t next = peek(g, i);

		if (next == value)
			continue;
		if (next != value - 1 || ++steps > 1)
			fail_msg("page %llu: %u after %u",
				 (unsigned long long)i, next, value);
		value = next;
	}
	return first;
}

static void expect_goes_on(struct mig_guest *g)
{
	uint32_t last = peek(g, NR_PAGES - 1);

	vm_resume(g->vm);
	for (int i = 0; i < 20000 && peek(g, NR_PAGES - 1) == last; i++)
		usleep(1000);
	assert_int_not_equal(peek(g, NR_PAGES - 1), last);
	check_instant(g);
}

static enum mig_phase wait_end(struct mig_snapshot *s,
			       struct mig_status *status,
			       struct mig_snapshot_stats *stats)
{
	do {
		usleep(2000);
		mig_snapshot_status(s, status, stats);
	} while (!mig_phase_is_end(status->phase));
	return status->phase;
}

static struct mig_snapshot *begin(struct mig_guest *g, bool stop)
{
	const struct mig_snapshot_config cfg = { .dir = dir, .stop = stop };
	struct mig_snapshot *s;
	char *err = NULL;

	if (mig_snapshot_start(g, &cfg, &snapshot_ops, NULL, &s, &err) < 0)
		fail_msg("%s", err);
	return s;
}

/* Returns how often the guest wrote to what was not saved yet. */
static uint64_t take(struct mig_guest *g, bool stop)
{
	struct mig_snapshot *s = begin(g, stop);
	struct mig_snapshot_stats stats;
	struct mig_status status;

	if (wait_end(s, &status, &stats) != MIG_COMPLETE)
		fail_msg("%s", status.error);
	assert_true(stats.pages >= NR_PAGES);
	assert_true(stats.bytes_written >= NR_PAGES * VM_PAGE_BYTES);
	assert_int_equal(stats.left_pages, 0);
	if (stop)
		assert_int_equal(stats.wp_faults.count, 0);
	print_message("%s: pause %llu us, total %llu us, %llu pages, "
		      "faults %llu p50 %llu p99 %llu max %llu us\n",
		      stop ? "stop" : "live",
		      (unsigned long long)stats.pause_us,
		      (unsigned long long)stats.total_us,
		      (unsigned long long)stats.pages,
		      (unsigned long long)stats.wp_faults.count,
		      (unsigned long long)stats.wp_faults.p50_us,
		      (unsigned long long)stats.wp_faults.p99_us,
		      (unsigned long long)stats.wp_faults.max_us);
	mig_snapshot_free(s);
	assert_true(vm_is_running(g->vm));
	return stats.wp_faults.count;
}

static struct mig_restore *restore(bool lazy)
{
	const struct mig_restore_config cfg = {
		.dir = dir,
		.lazy = lazy,
		.vm_ops = &quiet_vm_ops,
	};
	struct mig_restore *r;

	assert_int_equal(mig_restore_start(&cfg, &restore_ops, NULL, &r), 0);
	return r;
}

static enum mig_phase wait_phase(struct mig_restore *r, bool running_will_do,
				 struct mig_status *status,
				 struct mig_restore_stats *stats)
{
	do {
		usleep(1000);
		mig_restore_status(r, status, stats);
	} while (!mig_phase_is_end(status->phase) &&
		 status->phase != MIG_PAUSED &&
		 !(running_will_do && status->phase == MIG_POSTCOPY));
	return status->phase;
}

static void drop_image(void)
{
	static const char *const names[] = { "manifest.json", "state.pb",
					     "memory", "memory.sums", "" };
	char path[96];

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		remove(path);
	}
}

static void assert_nothing_left(void)
{
	DIR *d = opendir(top);
	unsigned int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	assert_int_equal(n, 2);
}

/* Comes back, right and going on. */
static void check_restore(bool lazy)
{
	struct mig_restore *r = restore(lazy);
	struct mig_restore_stats stats;
	struct mig_status status;
	struct mig_guest *g;

	if (wait_phase(r, false, &status, &stats) != MIG_COMPLETE)
		fail_msg("%s", status.error);
	g = mig_restore_guest(r);
	assert_non_null(g);
	print_message("%s restore: start %llu us, total %llu us, faults %llu "
		      "p50 %llu p99 %llu max %llu us\n",
		      lazy ? "lazy" : "eager",
		      (unsigned long long)stats.start_us,
		      (unsigned long long)stats.total_us,
		      (unsigned long long)stats.faults.all.count,
		      (unsigned long long)stats.faults.all.p50_us,
		      (unsigned long long)stats.faults.all.p99_us,
		      (unsigned long long)stats.faults.all.max_us);
	mig_restore_free(r);
	assert_int_equal(mig_guest_missing_pages(g), 0);
	check_instant(g);
	expect_goes_on(g);
	/* Nobody touched the rest, so nobody pays for it. */
	assert_true(vm_mem_resident_bytes(vm_mem(g->vm)) <
		    NR_PAGES * VM_PAGE_BYTES + (4 << 20));
	mig_guest_free(g);
}

static void check_round(enum vm_mem_backend backend, bool stop)
{
	struct mig_guest *g = start_guest(backend);
	uint64_t resident = vm_mem_resident_bytes(vm_mem(g->vm));

	take(g, stop);
	assert_true(vm_mem_resident_bytes(vm_mem(g->vm)) <= resident);
	check_instant(g);
	expect_goes_on(g);
	check_restore(false);
	check_restore(true);
	drop_image();
	mig_guest_free(g);
	assert_nothing_left();
}

static void test_live_anon(void **state)
{
	(void)state;
	check_round(VM_MEM_ANON, false);
}

static void test_live_memfd(void **state)
{
	(void)state;
	check_round(VM_MEM_MEMFD, false);
}

static unsigned int free_huge_pages(void)
{
	FILE *f = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/"
			"free_hugepages",
			"r");
	unsigned int n = 0;

	if (f && fscanf(f, "%u", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

/* Protected and copied by whole huge pages; lazily it cannot come back. */
static void test_live_hugetlb(void **state)
{
	struct mig_restore_stats stats;
	struct mig_status status;
	struct mig_restore *r;
	struct mig_guest *g;

	(void)state;
	if (free_huge_pages() < 2 * NR_PAGES / 512 + 16)
		skip();
	g = start_guest(VM_MEM_HUGETLB);
	take(g, false);
	check_instant(g);
	expect_goes_on(g);
	mig_guest_free(g);
	check_restore(false);
	r = restore(true);
	assert_int_equal(wait_phase(r, false, &status, &stats), MIG_FAILED);
	assert_non_null(strstr(status.error, "leave out --lazy"));
	mig_restore_free(r);
	drop_image();
}

static void test_stopped(void **state)
{
	(void)state;
	check_round(VM_MEM_ANON, true);
}

/*
 * Again and again, of one guest that has no rest. A busy host may not let it run
 * while a snapshot is taken, but not never.
 */
static void test_many(void **state)
{
	struct mig_guest *g = start_guest(VM_MEM_ANON);
	uint64_t nr_faults = 0;

	(void)state;
	for (int i = 0; i < 8 || (nr_faults == 0 && i < 100); i++) {
		nr_faults += take(g, i % 4 == 3);
		check_restore(i % 2);
		drop_image();
	}
	assert_true(nr_faults > 0);
	check_instant(g);
	mig_guest_free(g);
}

static void check_of_lazy(enum vm_mem_backend backend, bool stop)
{
	struct mig_guest *g = start_guest(backend);
	struct mig_restore_stats stats;
	struct mig_status status;
	struct mig_restore *r;

	take(g, true);
	mig_guest_free(g);
	r = restore(true);
	wait_phase(r, true, &status, &stats);
	g = mig_restore_guest(r);
	assert_non_null(g);
	print_message("missing at the start: %llu pages\n",
		      (unsigned long long)mig_guest_missing_pages(g));
	snprintf(dir, sizeof(dir), "%s/second", top);
	take(g, stop);
	if (wait_phase(r, false, &status, &stats) != MIG_COMPLETE)
		fail_msg("%s", status.error);
	mig_restore_free(r);
	check_instant(g);
	mig_guest_free(g);
	check_restore(false);
	drop_image();
	snprintf(dir, sizeof(dir), "%s/snap", top);
	drop_image();
	assert_nothing_left();
}

/* Before its own pages are all in. */
static void test_of_a_lazily_restored_guest(void **state)
{
	(void)state;
	check_of_lazy(VM_MEM_ANON, false);
	check_of_lazy(VM_MEM_MEMFD, false);
	check_of_lazy(VM_MEM_ANON, true);
}

static void test_cancel(void **state)
{
	struct mig_guest *g = start_guest(VM_MEM_ANON);
	struct mig_snapshot_stats stats;
	struct mig_status status;
	struct mig_snapshot *s;

	(void)state;
	for (unsigned int us = 0; us < 40000; us += 8000) {
		s = begin(g, us % 16000 != 0);
		usleep(us);
		mig_snapshot_cancel(s);
		if (wait_end(s, &status, &stats) == MIG_COMPLETE)
			drop_image();
		else
			assert_int_equal(status.phase, MIG_CANCELLED);
		mig_snapshot_free(s);
		assert_nothing_left();
		check_instant(g);
		expect_goes_on(g);
		vm_resume(g->vm);
	}
	mig_guest_free(g);
}

static void test_existing_directory(void **state)
{
	struct mig_guest *g = start_guest(VM_MEM_ANON);
	struct mig_snapshot_stats stats;
	struct mig_status status;
	struct mig_snapshot *s;

	(void)state;
	take(g, false);
	s = begin(g, false);
	assert_int_equal(wait_end(s, &status, &stats), MIG_FAILED);
	assert_non_null(strstr(status.error, "exists already"));
	mig_snapshot_free(s);
	expect_goes_on(g);
	mig_guest_free(g);
	check_restore(false);
	drop_image();
}

/* A disk with room for some of it. */
static void test_full_disk(void **state)
{
	struct mig_snapshot_stats stats;
	struct mig_status status;
	struct mig_snapshot *s;
	struct mig_guest *g;

	(void)state;
	if (mount("none", top, "tmpfs", 0, "size=20m") < 0)
		skip();
	g = start_guest(VM_MEM_ANON);
	s = begin(g, false);
	assert_int_equal(wait_end(s, &status, &stats), MIG_FAILED);
	assert_non_null(strstr(status.error, "No space left"));
	print_message("%s\n", status.error);
	mig_snapshot_free(s);
	assert_nothing_left();
	check_instant(g);
	expect_goes_on(g);
	mig_guest_free(g);
	/* io_uring completes a write a little before it lets go of the file. */
	while (umount(top) < 0) {
		assert_int_equal(errno, EBUSY);
		usleep(1000);
	}
}

static void damage(uint64_t gpa)
{
	char path[96];
	uint8_t byte;
	int fd;

	snprintf(path, sizeof(path), "%s/memory", dir);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, (off_t)gpa), 1);
	byte ^= 1;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)gpa), 1);
	close(fd);
}

/* Eager: never starts. Lazy: never sees it. */
static void test_damaged_page(void **state)
{
	const uint64_t page = DATA_GPA + (NR_PAGES - 5) * VM_PAGE_BYTES;
	struct mig_guest *g = start_guest(VM_MEM_ANON);
	struct mig_restore_stats stats;
	struct mig_status status;
	struct mig_restore *r;

	(void)state;
	take(g, true);
	mig_guest_free(g);
	damage(page);
	r = restore(false);
	assert_int_equal(wait_phase(r, false, &status, &stats), MIG_FAILED);
	print_message("%s\n", status.error);
	assert_non_null(strstr(status.error, "offset 0x43fb000"));
	assert_null(mig_restore_guest(r));
	mig_restore_free(r);

	r = restore(true);
	assert_int_equal(wait_phase(r, false, &status, &stats), MIG_PAUSED);
	print_message("%s\n", status.error);
	assert_non_null(strstr(status.error, "offset 0x43fb000"));
	g = mig_restore_guest(r);
	assert_non_null(g);
	assert_true(mig_guest_missing_pages(g) > 0);
	mig_restore_free(r);
	assert_false(vm_is_running(g->vm));
	mig_guest_free(g);
	drop_image();
}

/* Ended in the middle of a lazy restore, guest and all. */
static void test_lazy_cut_short(void **state)
{
	struct mig_guest *g = start_guest(VM_MEM_ANON);
	struct mig_restore_stats stats;
	struct mig_status status;
	struct mig_restore *r;

	(void)state;
	take(g, true);
	mig_guest_free(g);
	for (unsigned int us = 0; us < 20000; us += 5000) {
		r = restore(true);
		if (us > 0)
			wait_phase(r, true, &status, &stats);
		usleep(us);
		g = us > 0 ? mig_restore_guest(r) : NULL;
		mig_restore_free(r);
		mig_guest_free(g);
	}
	drop_image();
}

static int setup_top(void)
{
	/* So that what a test mounts goes away with it. */
	if (unshare(CLONE_NEWNS) == 0)
		mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	if (!mkdtemp(top))
		return -1;
	snprintf(dir, sizeof(dir), "%s/snap", top);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_live_anon),
		cmocka_unit_test(test_live_memfd),
		cmocka_unit_test(test_live_hugetlb),
		cmocka_unit_test(test_stopped),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_of_a_lazily_restored_guest),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_existing_directory),
		cmocka_unit_test(test_full_disk),
		cmocka_unit_test(test_damaged_page),
		cmocka_unit_test(test_lazy_cut_short),
	};
	struct uffd_caps caps;
	int ret;

	uffd_probe(&caps);
	if (!caps.usable || access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: %s\n",
		       caps.usable ? "no access to /dev/kvm" : caps.why);
		return 77;
	}
	if (setup_top() < 0)
		return 1;
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	rmdir(top);
	return ret;
}
