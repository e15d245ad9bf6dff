/*
 * Every tracker against the guest's own record of what it wrote.
 *
 * The guest keeps a version per test page in its memory (tests/guest/README.md).
 * Between two stops, the pages whose record moved are exactly the test pages
 * that the tracker must report: one less is a lost write, one more is waste.
 * On top: a store by this process through vm_mem_write(), which KVM cannot see.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "migrate/tracker.h"
#include "vmm/bitmap.h"
#include "vmm/vm_internal.h"

struct check {
	const char *work; /* of the guest */
	unsigned int cpus;
	int rounds;
	uint32_t ring_entries; /* of trackers that have a ring */
	bool kicks; /* rings only: a storm of signals while the guest runs */
};

struct record {
	uint32_t version; /* bit 31: being written */
	uint32_t touches;
};

struct test {
	struct vm *vm;
	struct vm_mem *mem;
	struct console console;
	struct record *table; /* in guest memory */
	struct record *before;
	uint64_t nr_test_pages;
	struct {
		uint64_t first, gpa, pages;
	} extents[8];
	size_t nr_extents;
	uint64_t user_page; /* ours to write: not the guest's */
	bool kicks;
};

static unsigned long long number(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	if (!at)
		die("no %s in: %s", key, line);
	return strtoull(at + strlen(key), NULL, 0);
}

static void read_layout(struct test *t)
{
	const char *at = strstr(t->console.text, "table gpa=");
	uint64_t offset;

	if (!at)
		die("no table line");
	t->nr_test_pages = number(at, "pages=");
	if (vm_mem_gpa_to_offset(t->mem, number(at, "gpa="),
				 t->nr_test_pages * sizeof(*t->table),
				 &offset) < 0)
		die("table outside RAM");
	t->table = (struct record *)(vm_mem_base(t->mem) + offset);
	while ((at = strstr(at + 1, "extent ")) != NULL && t->nr_extents < 8) {
		t->extents[t->nr_extents].first = number(at, "first=");
		t->extents[t->nr_extents].gpa = number(at, "gpa=");
		t->extents[t->nr_extents++].pages = number(at, "pages=");
	}
}

static uint64_t ram_page(struct test *t, uint64_t index)
{
	uint64_t offset, i;

	for (i = 0; i < t->nr_extents; i++) {
		if (index - t->extents[i].first >= t->extents[i].pages)
			continue;
		if (vm_mem_gpa_to_offset(t->mem,
					 t->extents[i].gpa +
						 (index - t->extents[i].first) *
							 4096,
					 4096, &offset) < 0)
			die("test page outside RAM");
		return offset / 4096;
	}
	die("test page %llu in no extent", (unsigned long long)index);
}

static void remember(struct test *t)
{
	memcpy(t->before, t->table, t->nr_test_pages * sizeof(*t->table));
}

/*
 * A page that is half written at the stop shows its mark; whether its bytes have
 * changed yet is anybody's guess, so it may be reported or not.
 */
static uint64_t compare(struct test *t, const uint64_t *dirty, int round)
{
	uint64_t i, changed = 0;

	for (i = 0; i < t->nr_test_pages; i++) {
		struct record now = t->table[i], old = t->before[i];
		bool moved = memcmp(&now, &old, sizeof(now)) != 0;
		bool half = (now.version | old.version) >> 31;
		bool reported = bitmap_test(dirty, ram_page(t, i));

		changed += moved;
		if (half)
			continue;
		if (moved && !reported)
			die("round %d: LOST page %llu: version %u -> %u", round,
			    (unsigned long long)i, old.version, now.version);
		if (!moved && reported)
			die("round %d: page %llu reported, not written", round,
			    (unsigned long long)i);
	}
	return changed;
}

static void write_behind_kvms_back(struct test *t)
{
	uint64_t gpa = vm_mem_offset_to_gpa(t->mem,
					    t->user_page * VM_PAGE_BYTES);

	if (vm_mem_write(t->mem, gpa + 100, "x", 1) < 0)
		die("vm_mem_write");
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* A signal is harmless at any time: also while a vCPU empties its ring. */
static void kick_for_ms(struct test *t, long ms)
{
	static const struct timespec pause = { .tv_nsec = 200000 };
	uint64_t end_ns = now_ns() + (uint64_t)ms * 1000000;

	while (now_ns() < end_ns) {
		for (unsigned int i = 0; i < t->vm->nr_cpus; i++)
			pthread_kill(t->vm->cpus[i].thread, SIGUSR1);
		nanosleep(&pause, NULL);
	}
}

static void run_for_ms(struct test *t, long ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000 };

	if (vm_resume(t->vm) < 0)
		die("resume");
	if (t->kicks)
		kick_for_ms(t, ms);
	else
		nanosleep(&ts, NULL);
	if (vm_pause(t->vm) < 0)
		die("pause");
}

static void one_round(struct test *t, struct mig_tracker *tracker,
		      uint64_t *dirty, int round)
{
	uint64_t pages = vm_mem_pages(t->mem), changed;

	remember(t);
	if (round % 2)
		write_behind_kvms_back(t);
	run_for_ms(t, 5 + round * 7 % 40);
	if (mig_tracker_sync(tracker, dirty) < 0)
		die("sync");
	changed = compare(t, dirty, round);
	if (bitmap_test(dirty, t->user_page) != (round % 2))
		die("round %d: our own write was %s", round,
		    round % 2 ? "lost" : "made up");
	if (mig_tracker_rearm(tracker, dirty, 0, pages) < 0)
		die("rearm");
	printf("  round %d: %llu pages written, all reported\n", round,
	       (unsigned long long)changed);
}

static void check_tracker(const char *name, const struct check *c)
{
	bool has_ring = strcmp(name, "ring") == 0;
	struct vm_config cfg = {
		.ram_bytes = 128u << 20,
		.nr_cpus = c->cpus,
		.dirty_ring_entries = has_ring ? c->ring_entries : 0,
	};
	struct mig_tracker *tracker;
	struct test t = { .kicks = c->kicks };
	char *err = NULL;
	uint64_t *dirty;
	int round;

	printf("%s, %u vCPUs, %s%s\n", name, c->cpus, c->work,
	       c->kicks ? ", under signals" : "");
	console_init(&t.console);
	t.vm = boot_guest(&cfg, c->work, &t.console);
	t.mem = vm_mem(t.vm);
	console_wait(&t.console, 0, "GUEST-READY");
	if (vm_pause(t.vm) < 0)
		die("pause");
	read_layout(&t);
	t.before = calloc(t.nr_test_pages, sizeof(*t.before));
	t.user_page = vm_mem_pages(t.mem) - 2;
	dirty = bitmap_new(vm_mem_pages(t.mem));
	if (mig_tracker_new(t.vm, name, &tracker, &err) < 0)
		die("tracker: %s", err);
	if (mig_tracker_start(tracker) < 0)
		die("tracker start");
	/* What start itself reports (manual: everything) is round one's. */
	if (mig_tracker_sync(tracker, dirty) < 0 ||
	    mig_tracker_rearm(tracker, dirty, 0, vm_mem_pages(t.mem)) < 0)
		die("first sync");
	for (round = 0; round < c->rounds; round++)
		one_round(&t, tracker, dirty, round);
	mig_tracker_free(tracker);
	console_check(&t.console);
	bitmap_free(dirty, vm_mem_pages(t.mem));
	vm_free(t.vm);
	console_fini(&t.console);
	free(t.before);
}

/* Nobody has wp-all but a kernel with our patches: a host may lack it. */
static bool host_has(const char *name)
{
	struct mig_tracker_info infos[MIG_NR_TRACKERS];
	struct vm_dirty_caps caps;
	size_t i;
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/kvm: %s", strerror(errno));
	vm_dirty_caps(fd, &caps);
	close(fd);
	mig_tracker_list(&caps, infos);
	for (i = 0; i < MIG_NR_TRACKERS; i++) {
		if (strcmp(infos[i].name, name) != 0)
			continue;
		if (!infos[i].available)
			printf("%s: SKIPPED: %s\n", name, infos[i].why);
		return infos[i].available;
	}
	die("no tracker %s", name);
}

int main(void)
{
	static const char *const names[] = { "log", "manual", "ring",
					     "wp-all" };
	static const struct check checks[] = {
		{ "work=dirty mem=64M", 1, 12, 4096, false },
		{ "work=sparse mem=64M", 4, 12, 4096, false },
		{ "work=sparse mem=32M light=1 rate=3000", 3, 12, 4096, false },
		{ "work=sparse mem=64M", 4, 100, 256, true },
	};

	setlinebuf(stdout);
	need_kvm();
	/*
	 * A page that khugepaged has moved is mapped anew by the next read, and
	 * KVM then calls it dirty: not wrong, but waste that is not the tracker's.
	 */
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) < 0)
		die("PR_SET_THP_DISABLE: %s", strerror(errno));
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!host_has(names[i]))
			continue;
		for (size_t c = 0; c < sizeof(checks) / sizeof(checks[0]);
		     c++) {
			bool has_ring = strcmp(names[i], "ring") == 0;

			if (has_ring || !checks[c].kicks)
				check_tracker(names[i], &checks[c]);
		}
	}
	return 0;
}
