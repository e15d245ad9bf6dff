/*
 * What a round of dirty logging costs: one tracker, one guest, times on stdout.
 *
 *	write_protect TRACKER MIB VCPUS REPEATS
 *
 * TRACKER is log, manual, ring or wp-all. The guest is a loop that stores to every
 * page of its vCPU's share of MIB. It talks to /dev/kvm itself rather than through
 * the library, in order to time each ioctl.
 *
 * Prints one JSON object per line: what of memory the guest wrote ("all", "tenth",
 * "none"), the time that took it, and that of the sync that followed, fetching and
 * protecting apart. The first line ("start") is turning the tracker on, with all
 * memory written before, the second what the guest needs without any tracker, the
 * third ("first") as "all", when KVM may still have huge pages to split.
 *
 * On a kernel with lock statistics there are also the times for which mmu_lock and
 * the series' wp_all_lock were held, while the guest wrote and during the sync.
 * What is taken with it is then slower: do not compare it with other kernels'.
 *
 * Exit status 77 when this KVM does not have the tracker.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#include "compat/linux.h"
#include "lock_stat.h"

#define SKIPPED      77
#define PAGE_BYTES   4096ull
#define MIB          (UINT64_C(1) << 20)
#define GIB          (UINT64_C(1) << 30)
#define CPUS_MAX     16
#define RING_ENTRIES 65536u
#define CHUNK_PAGES  16384u /* of one KVM_CLEAR_DIRTY_LOG, as vmmd does it */

/* Guest memory: slot 0, not logged, with code and tables; slot 1 under test. */
#define TEST_SLOT 1
#define LOW_BYTES MIB
#define CODE_GPA  0x1000
#define ORDER_GPA 0x2000 /* struct order of each vCPU */
#define PML4_GPA  0x3000
#define PDPT_GPA  0x4000
#define PD_GPA    0x10000 /* one page per GiB */
#define TEST_GPA  (4 * GIB)

enum tracker { TRACKER_LOG, TRACKER_MANUAL, TRACKER_RING, TRACKER_WP_ALL };
static const char *const names[] = { "log", "manual", "ring", "wp-all" };

/* What a vCPU is told to write. The guest reads it at rsi. */
struct order {
	uint64_t gpa;
	uint64_t nr_pages;
};

static const uint8_t code[] = {
	0x48, 0x8b, 0x3e,                         /* 1: mov rdi, [rsi] */
	0x48, 0x8b, 0x4e, 0x08,                   /* mov rcx, [rsi + 8] */
	0x88, 0x0f,                               /* 2: mov [rdi], cl */
	0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add rdi, 4096 */
	0x48, 0xff, 0xc9,                         /* dec rcx */
	0x75, 0xf2,                               /* jnz 2b */
	0xe6, 0x80,                               /* out 0x80, al */
	0xeb, 0xe7,                               /* jmp 1b */
};

struct cpu {
	struct bench *bench;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	struct kvm_dirty_gfn *ring; /* NULL without rings */
	uint32_t ring_next;
	pthread_t thread;
};

struct bench {
	enum tracker tracker;
	uint64_t bytes;
	unsigned int nr_cpus, repeats;
	int kvm_fd, fd;
	uint8_t *low, *test;
	uint64_t *bitmap;
	struct cpu cpus[CPUS_MAX];
	pthread_barrier_t barrier; /* vCPU threads and main */
	bool done;                 /* written before a barrier */

	pthread_mutex_t ring_lock; /* the fields below, all rings */
	double harvest_us, reset_us;
};

/* One sync. */
struct cost {
	double fetch_us;
	double protect_us;
};

/* By all holders together. */
struct locked {
	double mmu_us;
	double wp_all_us;
};

/* One line. */
struct sample {
	double write_us;
	struct locked writing; /* valid with lock statistics, as is syncing */
	struct cost cost;
	struct locked syncing;
};

static void die(const char *what)
{
	fprintf(stderr, "write_protect: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void skip(const char *why)
{
	printf("SKIPPED: %s\n", why);
	exit(SKIPPED);
}

static int need(int ret, const char *what)
{
	if (ret < 0)
		die(what);
	return ret;
}

static void *map(int fd, size_t bytes, int flags, off_t offset)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, offset);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void enable(struct bench *b, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap c = { .cap = cap, .args = { arg } };

	need(ioctl(b->fd, KVM_ENABLE_CAP, &c), "KVM_ENABLE_CAP");
}

static int has(struct bench *b, long cap)
{
	return ioctl(b->fd, KVM_CHECK_EXTENSION, cap);
}

/* ---- the guest ---- */

static void set_slot(struct bench *b, uint32_t slot, uint32_t flags)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = slot == TEST_SLOT ? TEST_GPA : 0,
		.memory_size = slot == TEST_SLOT ? b->bytes : LOW_BYTES,
		.userspace_addr = (uintptr_t)(slot == TEST_SLOT ? b->test
								: b->low),
	};

	need(ioctl(b->fd, KVM_SET_USER_MEMORY_REGION, &r), "memory slot");
}

/* Identity, in 2 MiB pages, for both slots. */
static void make_page_tables(struct bench *b)
{
	const uint64_t bits = 7, huge = 0x80; /* present, writable, user */
	uint64_t nr_gib = (TEST_GPA + b->bytes + GIB - 1) / GIB, i, j;
	uint64_t *pdpt = (uint64_t *)(b->low + PDPT_GPA);

	*(uint64_t *)(b->low + PML4_GPA) = PDPT_GPA | bits;
	for (i = 0; i < nr_gib; i++) {
		uint64_t *pd = (uint64_t *)(b->low + PD_GPA + i * PAGE_BYTES);

		pdpt[i] = (PD_GPA + i * PAGE_BYTES) | bits;
		for (j = 0; j < 512; j++)
			pd[j] = (i * GIB + j * 2 * MIB) | bits | huge;
	}
}

static void make_memory(struct bench *b)
{
	b->low = map(-1, LOW_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	b->test = map(-1, b->bytes, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	/* All of it written, and as cheaply as can be: by huge pages. */
	madvise(b->test, b->bytes, MADV_HUGEPAGE);
	memset(b->test, 1, b->bytes);
	memcpy(b->low + CODE_GPA, code, sizeof(code));
	make_page_tables(b);
	set_slot(b, 0, 0);
	set_slot(b, TEST_SLOT, 0);
}

static void set_cpuid(struct cpu *c)
{
	struct kvm_cpuid2 *cpuid;
	const unsigned int nr = 256;

	cpuid = calloc(1, sizeof(*cpuid) + nr * sizeof(cpuid->entries[0]));
	if (!cpuid)
		die("memory");
	cpuid->nent = nr;
	need(ioctl(c->bench->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid), "CPUID");
	need(ioctl(c->fd, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
	free(cpuid);
}

/* Into 64-bit mode, at the code. */
static void set_registers(struct cpu *c)
{
	struct kvm_regs regs = {
		.rip = CODE_GPA,
		.rsi = ORDER_GPA + c->index * sizeof(struct order),
		.rflags = 2,
	};
	struct kvm_sregs s;

	need(ioctl(c->fd, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cr0 = 0x80000031; /* PG, NE, ET, PE */
	s.cr4 = 0x20;       /* PAE */
	s.cr3 = PML4_GPA;
	s.efer = 0x500; /* LME, LMA */
	s.cs = (struct kvm_segment){ .limit = ~0u,
				     .selector = 8,
				     .type = 11,
				     .present = 1,
				     .s = 1,
				     .l = 1,
				     .g = 1 };
	s.ds = (struct kvm_segment){ .limit = ~0u,
				     .selector = 16,
				     .type = 3,
				     .present = 1,
				     .s = 1,
				     .db = 1,
				     .g = 1 };
	s.es = s.fs = s.gs = s.ss = s.ds;
	need(ioctl(c->fd, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	need(ioctl(c->fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static size_t ring_bytes(void)
{
	return RING_ENTRIES * sizeof(struct kvm_dirty_gfn);
}

/* ---- rings ---- */

/* Under ring_lock. */
static void harvest(struct cpu *c)
{
	for (;;) {
		struct kvm_dirty_gfn *e =
			&c->ring[c->ring_next & (RING_ENTRIES - 1)];

		if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) &
		      KVM_DIRTY_GFN_F_DIRTY))
			return;
		c->bench->bitmap[e->offset / 64] |= UINT64_C(1)
						    << e->offset % 64;
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET,
				 __ATOMIC_RELEASE);
		c->ring_next++;
	}
}

/* A ring has to be emptied whenever it is full: that is part of the sync's cost. */
static void empty_rings(struct bench *b, unsigned int first, unsigned int end)
{
	double begin, harvested;
	unsigned int i;

	pthread_mutex_lock(&b->ring_lock);
	begin = now_us();
	for (i = first; i < end; i++)
		harvest(&b->cpus[i]);
	harvested = now_us();
	need(ioctl(b->fd, KVM_RESET_DIRTY_RINGS, 0), "KVM_RESET_DIRTY_RINGS");
	b->harvest_us += harvested - begin;
	b->reset_us += now_us() - harvested;
	pthread_mutex_unlock(&b->ring_lock);
}

/* ---- vCPUs ---- */

static void run_order(struct cpu *c)
{
	for (;;) {
		if (ioctl(c->fd, KVM_RUN, 0) < 0 && errno != EINTR)
			die("KVM_RUN");
		switch (c->run->exit_reason) {
		case KVM_EXIT_IO:
			return;
		case KVM_EXIT_DIRTY_RING_FULL:
			empty_rings(c->bench, c->index, c->index + 1);
			break;
		default:
			fprintf(stderr, "exit reason %u\n",
				c->run->exit_reason);
			exit(1);
		}
	}
}

static void *cpu_thread(void *arg)
{
	struct cpu *c = arg;

	for (;;) {
		pthread_barrier_wait(&c->bench->barrier);
		if (c->bench->done)
			return NULL;
		run_order(c);
		pthread_barrier_wait(&c->bench->barrier);
	}
}

static void make_cpu(struct bench *b, unsigned int index)
{
	struct cpu *c = &b->cpus[index];
	int run_bytes;

	c->bench = b;
	c->index = index;
	c->fd = need(ioctl(b->fd, KVM_CREATE_VCPU, index), "KVM_CREATE_VCPU");
	run_bytes = need(ioctl(b->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), "run");
	c->run = map(c->fd, (size_t)run_bytes, MAP_SHARED, 0);
	if (b->tracker == TRACKER_RING)
		c->ring = map(c->fd, ring_bytes(), MAP_SHARED,
			      (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_BYTES));
	set_cpuid(c);
	set_registers(c);
	if (pthread_create(&c->thread, NULL, cpu_thread, c) != 0)
		die("thread");
}

/* Has the vCPUs write to so many pages, a share each. Returns the time. */
static double write_pages(struct bench *b, uint64_t nr_pages)
{
	struct order *orders = (struct order *)(b->low + ORDER_GPA);
	uint64_t share = b->nr_cpus ? nr_pages / b->nr_cpus : 0;
	double begin;
	unsigned int i;

	for (i = 0; i < b->nr_cpus; i++)
		orders[i] = (struct order){
			.gpa = TEST_GPA + i * share * PAGE_BYTES,
			.nr_pages = share,
		};
	begin = now_us();
	pthread_barrier_wait(&b->barrier);
	pthread_barrier_wait(&b->barrier);
	return now_us() - begin;
}

/* ---- trackers ---- */

static void need_tracker(struct bench *b)
{
	const int manual = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			   KVM_DIRTY_LOG_INITIALLY_SET;

	switch (b->tracker) {
	case TRACKER_LOG:
		break;
	case TRACKER_MANUAL:
		if ((has(b, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) & manual) !=
		    manual)
			skip("no KVM_DIRTY_LOG_INITIALLY_SET");
		break;
	case TRACKER_RING:
		if (has(b, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) < (int)ring_bytes())
			skip("no KVM_CAP_DIRTY_LOG_RING_ACQ_REL");
		enable(b, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, ring_bytes());
		break;
	case TRACKER_WP_ALL:
		if (has(b, KVM_CAP_X86_WRITE_PROTECT_ALL) != 1 ||
		    !(has(b, KVM_CAP_DIRTY_LOG_FLAGS) &
		      KVM_DIRTY_LOG_NO_PROTECT))
			skip("no KVM_CAP_X86_WRITE_PROTECT_ALL");
		enable(b, KVM_CAP_DIRTY_LOG_FLAGS, KVM_DIRTY_LOG_NO_PROTECT);
		break;
	}
	if (b->tracker == TRACKER_MANUAL || b->tracker == TRACKER_WP_ALL)
		enable(b, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual);
}

static void get_log(struct bench *b, uint32_t flags)
{
	struct kvm_dirty_log log = { .slot = TEST_SLOT,
				     .padding1 = flags,
				     .dirty_bitmap = b->bitmap };

	need(ioctl(b->fd, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
}

/* Only the dirty pages cost, and all chunks are asked for: as before sending. */
static void clear_log(struct bench *b)
{
	uint64_t nr_pages = b->bytes / PAGE_BYTES, first;

	for (first = 0; first < nr_pages; first += CHUNK_PAGES) {
		uint64_t left = nr_pages - first;
		struct kvm_clear_dirty_log clear = {
			.slot = TEST_SLOT,
			.first_page = first,
			.num_pages = left < CHUNK_PAGES ? (uint32_t)left
							: CHUNK_PAGES,
			.dirty_bitmap = b->bitmap + first / 64,
		};

		need(ioctl(b->fd, KVM_CLEAR_DIRTY_LOG, &clear),
		     "KVM_CLEAR_DIRTY_LOG");
	}
}

static void protect_all(struct bench *b)
{
	struct kvm_x86_write_protect_all all = { .flags = 0 };

	need(ioctl(b->fd, KVM_X86_WRITE_PROTECT_ALL, &all),
	     "KVM_X86_WRITE_PROTECT_ALL");
}

static struct cost sync_log(struct bench *b)
{
	struct cost cost = { 0 };
	double begin = now_us(), fetched;

	switch (b->tracker) {
	case TRACKER_LOG: /* both in one */
		get_log(b, 0);
		cost.protect_us = now_us() - begin;
		break;
	case TRACKER_MANUAL:
		get_log(b, 0);
		fetched = now_us();
		clear_log(b);
		cost.fetch_us = fetched - begin;
		cost.protect_us = now_us() - fetched;
		break;
	case TRACKER_WP_ALL:
		get_log(b, KVM_DIRTY_LOG_NO_PROTECT);
		fetched = now_us();
		protect_all(b);
		cost.fetch_us = fetched - begin;
		cost.protect_us = now_us() - fetched;
		break;
	case TRACKER_RING:
		empty_rings(b, 0, b->nr_cpus);
		cost.fetch_us = b->harvest_us;
		cost.protect_us = b->reset_us;
		b->harvest_us = 0;
		b->reset_us = 0;
		break;
	}
	return cost;
}

static struct cost start_tracker(struct bench *b)
{
	struct cost cost = { 0 };
	double begin = now_us(), logging;

	set_slot(b, TEST_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	logging = now_us() - begin;
	if (b->tracker == TRACKER_MANUAL || b->tracker == TRACKER_WP_ALL)
		cost = sync_log(b); /* of the bits that are set initially */
	cost.protect_us += logging;
	return cost;
}

/* ---- the measurement ---- */

static uint64_t count_dirty(struct bench *b)
{
	uint64_t nr = 0, i, words = b->bytes / PAGE_BYTES / 64;

	for (i = 0; i < words; i++)
		nr += (uint64_t)__builtin_popcountll(b->bitmap[i]);
	memset(b->bitmap, 0, words * 8);
	return nr;
}

static void print(struct bench *b, const char *what, const struct sample *s)
{
	printf("{\"tracker\": \"%s\", \"mib\": %llu, \"vcpus\": %u, "
	       "\"what\": \"%s\", \"write_us\": %.1f, \"fetch_us\": %.1f, "
	       "\"protect_us\": %.1f, \"pages\": %llu",
	       names[b->tracker], (unsigned long long)(b->bytes / MIB),
	       b->nr_cpus, what, s->write_us, s->cost.fetch_us,
	       s->cost.protect_us, (unsigned long long)count_dirty(b));
	if (lock_stat_available())
		printf(", \"write_mmu_lock_us\": %.1f, "
		       "\"write_wp_all_lock_us\": %.1f, "
		       "\"sync_mmu_lock_us\": %.1f, "
		       "\"sync_wp_all_lock_us\": %.1f",
		       s->writing.mmu_us, s->writing.wp_all_us,
		       s->syncing.mmu_us, s->syncing.wp_all_us);
	printf("}\n");
	fflush(stdout);
}

/* Locks are watched from here on. */
static void watch_locks(void)
{
	if (lock_stat_available() && !lock_stat_clear())
		die("/proc/lock_stat");
}

static struct locked locked_since(void)
{
	struct locked l = { 0 };

	if (lock_stat_available()) {
		l.mmu_us = lock_stat_held_us("->mmu_lock");
		l.wp_all_us = lock_stat_held_us("arch.wp_all_lock");
	}
	if (l.mmu_us < 0 || l.wp_all_us < 0)
		die("/proc/lock_stat");
	return l;
}

static void measure_writing(struct bench *b, uint64_t nr_pages,
			    struct sample *s)
{
	watch_locks();
	s->write_us = write_pages(b, nr_pages);
	s->writing = locked_since();
}

static void measure_sync(struct bench *b, struct cost (*sync)(struct bench *b),
			 struct sample *s)
{
	watch_locks();
	s->cost = sync(b);
	s->syncing = locked_since();
}

static void measure(struct bench *b, const char *what, uint64_t nr_pages)
{
	struct sample s = { 0 };

	measure_writing(b, nr_pages, &s);
	measure_sync(b, sync_log, &s);
	print(b, what, &s);
}

static void measure_all(struct bench *b)
{
	uint64_t nr_pages = b->bytes / PAGE_BYTES;
	struct sample untracked = { 0 }, start = { 0 }, none = { 0 };
	unsigned int i;

	/* The first time KVM maps it all; nobody wants to know. */
	write_pages(b, nr_pages);
	measure_writing(b, nr_pages, &untracked);
	measure_sync(b, start_tracker, &start);
	print(b, "start", &start);
	print(b, "untracked", &untracked);
	for (i = 0; i < b->repeats; i++)
		measure(b, i == 0 ? "first" : "all", nr_pages);
	measure(b, "tenth", nr_pages / 10);
	measure_sync(b, sync_log, &none);
	print(b, "none", &none);
}

static void parse(struct bench *b, char **argv)
{
	unsigned long mib = strtoul(argv[2], NULL, 10);
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(argv[1], names[i]) == 0)
			break;
	}
	b->tracker = (enum tracker)i;
	b->bytes = mib * MIB;
	b->nr_cpus = (unsigned int)strtoul(argv[3], NULL, 10);
	b->repeats = (unsigned int)strtoul(argv[4], NULL, 10);
	if (i == sizeof(names) / sizeof(names[0]) || mib == 0 || mib % 2 ||
	    mib > 64 * 1024 || b->nr_cpus == 0 || b->nr_cpus > CPUS_MAX ||
	    b->repeats == 0) {
		fprintf(stderr, "write_protect: bad argument\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	static struct bench b = { .ring_lock = PTHREAD_MUTEX_INITIALIZER };
	unsigned int i;

	if (argc != 5) {
		fprintf(stderr,
			"usage: %s log|manual|ring|wp-all MIB VCPUS "
			"REPEATS\n",
			argv[0]);
		return 2;
	}
	parse(&b, argv);
	b.kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (b.kvm_fd < 0)
		skip("no /dev/kvm");
	b.fd = need(ioctl(b.kvm_fd, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	b.bitmap = map(-1, b.bytes / PAGE_BYTES / 8,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, 0);
	need_tracker(&b);
	make_memory(&b);
	pthread_barrier_init(&b.barrier, NULL, b.nr_cpus + 1);
	for (i = 0; i < b.nr_cpus; i++)
		make_cpu(&b, i);
	measure_all(&b);
	b.done = true;
	pthread_barrier_wait(&b.barrier);
	for (i = 0; i < b.nr_cpus; i++)
		pthread_join(b.cpus[i].thread, NULL);
	return 0;
}
