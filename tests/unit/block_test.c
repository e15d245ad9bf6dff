/*
 * What comes block by block is the guest's in huge pages, and nobody waits for a page
 * that lies in an unfinished one.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate/block.h"
#include "tests/unit/huge_bytes.h"
#include "tests/unit/quiet_vm.h"
#include "vmm/bitmap.h"
#include "vmm/huge.h"

#define RAM_BYTES   (UINT64_C(32) << 20)
#define PAGES       (RAM_BYTES / VM_PAGE_BYTES)
#define BLOCK_PAGES (VM_HUGE_PAGE_BYTES / VM_PAGE_BYTES)
#define BATCH_PAGES 32u
#define READERS     3u
#define CLAIMED_US  300
#define PATIENCE_MS 120000

static struct uffd_caps caps;

struct fixture {
	struct mig_guest *guest;
	struct mig_fill *_Atomic fill; /* set when faults may come */
	struct mig_block block;
	uint8_t *base;
	uint64_t
		*unsent; /* the source's: whoever clears a bit sends the page */
	_Atomic uint64_t at; /* the batch that comes next */
	atomic_bool claimed; /* it is on its way: nobody else sends its pages */
	atomic_uint drained;
	atomic_uint writes; /* to protected pages */
	atomic_uint wrong;
};

/* Of the page's first word; no page is zero. */
static uint64_t value_of(uint64_t page)
{
	return (page + 1) * 0x9e3779b97f4a7c15u;
}

static void make_page(uint64_t page, uint8_t *to)
{
	uint64_t value = value_of(page);

	memset(to, 0x5a, VM_PAGE_BYTES);
	memcpy(to, &value, sizeof(value));
}

/* Out of the block, or by way of the fault channel; else it is on its way. */
static void on_want(void *ctx, uint64_t page)
{
	struct fixture *f = ctx;
	uint8_t data[VM_PAGE_BYTES];

	if (mig_block_give(&f->block, page) ||
	    !bitmap_atomic_clear(f->unsent, page))
		return;
	make_page(page, data);
	if (mig_fill_place(f->fill, page, 1, data) < 0)
		atomic_fetch_add(&f->wrong, 1);
}

static void on_drained(void *ctx)
{
	struct fixture *f = ctx;

	atomic_fetch_add(&f->drained, 1);
}

static const struct mig_fill_ops fill_ops = {
	.want = on_want,
	.drained = on_drained,
};

static uint64_t *all_set(void)
{
	uint64_t *map = bitmap_new(PAGES);

	assert_non_null(map);
	for (uint64_t i = 0; i < PAGES; i++)
		bitmap_set(map, i);
	return map;
}

static struct fixture *fixture_new(enum vm_mem_backend backend)
{
	const struct vm_config cfg = {
		.ram_bytes = RAM_BYTES,
		.nr_cpus = READERS,
		.mem_backend = backend,
	};
	struct fixture *f = calloc(1, sizeof(*f));
	uint64_t *pending = all_set();
	struct mig_fill *fill;
	char *err = NULL;
	struct vm *vm;

	assert_non_null(f);
	f->unsent = all_set();
	mig_block_init(&f->block);
	if (vm_new(&cfg, &quiet_vm_ops, f, &vm, &err) < 0 ||
	    mig_guest_new(vm, &f->guest) < 0)
		fail_msg("%s", err);
	f->base = vm_mem_base(vm_mem(vm));
	if (mig_fill_new(f->guest, pending, &fill_ops, f, &fill, &err) < 0)
		fail_msg("%s", err);
	f->fill = fill;
	return f;
}

static void fixture_free(struct fixture *f)
{
	assert_int_equal(f->wrong, 0);
	mig_guest_free(f->guest);
	mig_block_fini(&f->block);
	bitmap_free(f->unsent, PAGES);
	free(f);
}

static uint64_t load(struct fixture *f, uint64_t page)
{
	return *(volatile uint64_t *)(f->base + page * VM_PAGE_BYTES);
}

static void expect_all(struct fixture *f)
{
	assert_int_equal(mig_fill_pending(f->fill), 0);
	assert_int_equal(f->drained, 1);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_true(load(f, i) == value_of(i));
}

/* As the receiver does with a batch of one run. */
static void bring(struct fixture *f, uint64_t page, uint64_t nr)
{
	const struct proto_run run = { page, nr };
	uint8_t *room, *own = malloc(nr * VM_PAGE_BYTES);
	uint8_t *to;
	int ret;

	assert_non_null(own);
	ret = mig_block_room(&f->block, f->fill, &run, &room);
	to = room ? room : own;
	for (uint64_t i = 0; i < nr; i++)
		make_page(page + i, to + i * VM_PAGE_BYTES);
	if (ret == 0)
		ret = room ? mig_block_add(&f->block, nr)
			   : mig_fill_place(f->fill, page, nr, own);
	assert_int_equal(ret, 0);
	free(own);
}

static void bring_all(struct fixture *f)
{
	for (uint64_t page = 0; page < PAGES; page += BATCH_PAGES)
		bring(f, page, BATCH_PAGES);
}

static void test_blocks_become_huge_pages(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	const struct proto_run run = { 0, BLOCK_PAGES };
	uint8_t *room;

	(void)state;
	/* Does the kernel have huge pages for us? */
	assert_int_equal(mig_block_room(&f->block, f->fill, &run, &room), 0);
	assert_non_null(room);
	memset(room, 1, VM_HUGE_PAGE_BYTES);
	if (huge_bytes() < VM_HUGE_PAGE_BYTES) {
		fixture_free(f);
		skip();
	}
	bring_all(f);
	expect_all(f);
	if (caps.move)
		assert_true(huge_bytes() >= RAM_BYTES);
	fixture_free(f);
}

static void bring_block(struct fixture *f, uint64_t block)
{
	for (uint64_t i = 0; i < BLOCK_PAGES; i += BATCH_PAGES)
		bring(f, block * BLOCK_PAGES + i, BATCH_PAGES);
}

/* As a fault does that nobody has heard of yet: a page table, and no page in it. */
static void leave_page_table(struct fixture *f, uint64_t page)
{
	void *hva = f->base + page * VM_PAGE_BYTES;

	assert_int_equal(uffd_zero(f->guest->uffd, page, 1), 0);
	assert_int_equal(madvise(hva, VM_PAGE_BYTES, MADV_DONTNEED), 0);
}

static bool block_is_huge(struct fixture *f, uint64_t block)
{
	return huge_is(f->base + block * VM_HUGE_PAGE_BYTES);
}

/*
 * Where a page table is the kernel moves small pages, and our memory has one too then.
 * False where it does not, or has no huge pages.
 */
static bool break_up(struct fixture *f, uint64_t block)
{
	uint64_t page = block * BLOCK_PAGES + 5;

	bring_block(f, block - 1);
	leave_page_table(f, page);
	bring_block(f, block);
	assert_true(load(f, page) == value_of(page));
	return block_is_huge(f, block - 1) && !block_is_huge(f, block);
}

static bool has_room(struct fixture *f, uint64_t block)
{
	const struct proto_run run = { block * BLOCK_PAGES, BATCH_PAGES };
	uint8_t *room;

	assert_int_equal(mig_block_room(&f->block, f->fill, &run, &room), 0);
	return room;
}

static void test_huge_again_after_one_that_was_broken_up(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	bool may = break_up(f, 1);

	(void)state;
	if (may) {
		bring_block(f, 2);
		bring_block(f, 3);
		assert_true(block_is_huge(f, 3));
	}
	fixture_free(f);
	if (!may)
		skip();
}

static void forbid_huge(bool forbid)
{
	assert_int_equal(prctl(PR_SET_THP_DISABLE, forbid, 0, 0, 0), 0);
}

static void test_no_more_blocks_without_huge_pages(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);

	(void)state;
	forbid_huge(true);
	bring_block(f, 0);
	assert_false(has_room(f, 1));
	forbid_huge(false);
	assert_false(has_room(f, 1));
	fixture_free(f);
}

/* From the first block in new memory that is small. */
static void test_no_more_blocks_when_huge_pages_are_gone(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	bool may = break_up(f, 1);

	(void)state;
	if (may) {
		bring_block(f, 2);
		forbid_huge(true);
		bring_block(f, 3);
		assert_false(has_room(f, 4));
		forbid_huge(false);
	}
	fixture_free(f);
	if (!may)
		skip();
}

/* The same where nothing can be moved. */
static void test_a_file_is_copied_to(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_MEMFD);

	(void)state;
	bring_all(f);
	expect_all(f);
	fixture_free(f);
}

static void test_what_does_not_go_on_is_placed_first(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	uint8_t *room;

	(void)state;
	bring(f, 0, BATCH_PAGES);
	assert_true(mig_fill_is_pending(f->fill, 0));
	/* A gap. */
	bring(f, BATCH_PAGES + 1, BATCH_PAGES);
	assert_false(mig_fill_is_pending(f->fill, 0));
	assert_false(mig_fill_is_pending(f->fill, BATCH_PAGES + 1));
	assert_true(mig_fill_is_pending(f->fill, BATCH_PAGES));
	/* Another block. */
	bring(f, 2 * BLOCK_PAGES, BATCH_PAGES);
	bring(f, 3 * BLOCK_PAGES, BATCH_PAGES);
	assert_false(mig_fill_is_pending(f->fill, 2 * BLOCK_PAGES));
	assert_true(mig_fill_is_pending(f->fill, 3 * BLOCK_PAGES));
	/* Something else altogether. */
	assert_int_equal(mig_block_room(&f->block, f->fill, NULL, &room), 0);
	assert_null(room);
	assert_true(mig_block_is_empty(&f->block));
	assert_false(mig_fill_is_pending(f->fill, 3 * BLOCK_PAGES));
	assert_true(load(f, 3 * BLOCK_PAGES) == value_of(3 * BLOCK_PAGES));
	fixture_free(f);
}

/* A lying source: pages again, and more than belong in a block. */
static void test_no_more_than_a_block(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	const struct proto_run run = { BLOCK_PAGES - 32, 64 };
	uint8_t *room;

	(void)state;
	for (uint64_t page = 0; page < BLOCK_PAGES - 32; page += 32)
		bring(f, page, 32);
	assert_true(mig_fill_is_pending(f->fill, 0));
	assert_int_equal(mig_block_room(&f->block, f->fill, &run, &room), 0);
	assert_null(room);
	bring(f, 0, BATCH_PAGES);
	assert_true(mig_block_is_empty(&f->block));
	/* The last block is there, but for what would lie behind RAM. */
	assert_false(mig_fill_takes_huge(f->fill, PAGES));
	assert_false(mig_fill_takes_huge(f->fill, PAGES - BLOCK_PAGES + 1));
	fixture_free(f);
}

static void test_one_that_is_here_spoils_nothing(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	uint8_t *mine = f->base + 100 * VM_PAGE_BYTES;

	(void)state;
	bring(f, 0, 64);
	assert_true(load(f, 100) == value_of(100)); /* asked for */
	memset(mine, 0xee, VM_PAGE_BYTES);          /* the guest's by now */
	for (uint64_t page = 64; page < PAGES; page += 64)
		bring(f, page, 64);
	assert_true(load(f, 100) == UINT64_C(0xeeeeeeeeeeeeeeee));
	make_page(100, mine);
	expect_all(f);
	fixture_free(f);
}

/* A page more than there is room for, in one that would begin with it. */
static void test_no_longer_run_than_a_block(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);
	const struct proto_run run = { 0, BLOCK_PAGES + 1 };
	uint8_t *room;

	(void)state;
	assert_int_equal(mig_block_room(&f->block, f->fill, &run, &room), 0);
	assert_null(room);
	fixture_free(f);
}

static void on_write(void *ctx, uint64_t page, pid_t tid)
{
	struct fixture *f = ctx;

	(void)tid;
	atomic_fetch_add(&f->writes, 1);
	uffd_unprotect(f->guest->uffd, page, 1);
}

/* A snapshot begins when half of it is here. */
static void test_none_slips_past_a_snapshot(void **state)
{
	struct fixture *f = fixture_new(VM_MEM_ANON);

	(void)state;
	for (uint64_t page = 0; page < BLOCK_PAGES / 2; page += BATCH_PAGES)
		bring(f, page, BATCH_PAGES);
	assert_int_equal(uffd_start(f->guest->uffd, UFFD_WP, on_write, f), 0);
	mig_fill_set_protect(f->fill, true);
	for (uint64_t page = BLOCK_PAGES / 2; page < BLOCK_PAGES;
	     page += BATCH_PAGES)
		bring(f, page, BATCH_PAGES);
	assert_true(mig_block_is_empty(&f->block));
	for (uint64_t i = 0; i < BLOCK_PAGES; i++) {
		assert_true(load(f, i) == value_of(i));
		f->base[i * VM_PAGE_BYTES + 100] = 1;
	}
	assert_int_equal(f->writes, BLOCK_PAGES);
	mig_fill_set_protect(f->fill, false);
	assert_int_equal(uffd_stop(f->guest->uffd, UFFD_WP), 0);
	fixture_free(f);
}

struct reader {
	struct fixture *f;
	uint64_t seed;
	_Atomic uint64_t reads;
	atomic_bool done;
	pthread_t thread;
};

static uint64_t next_random(struct reader *r)
{
	r->seed = r->seed * 6364136223846793005u + 1442695040888963407u;
	return r->seed >> 33;
}

/*
 * Now and then a page that is on its way, one that lies in the block or, seldom, one
 * that then comes by itself and leaves a gap; else one that has long been here.
 */
static uint64_t choose(struct reader *r)
{
	bool claimed = atomic_load(&r->f->claimed);
	uint64_t at = atomic_load(&r->f->at);
	uint64_t block = at / BLOCK_PAGES * BLOCK_PAGES;
	uint64_t dice = next_random(r) % 1000;

	if (dice < 20 && claimed)
		return at + next_random(r) % BATCH_PAGES;
	if (dice < 120 && at > block)
		return block + next_random(r) % (at - block);
	if (dice < 122)
		return block + next_random(r) % BLOCK_PAGES;
	return block ? next_random(r) % block : 0;
}

static void *reader_main(void *arg)
{
	struct reader *r = arg;

	while (mig_fill_pending(r->f->fill) > 0) {
		uint64_t page = choose(r);

		if (load(r->f, page) != value_of(page))
			atomic_fetch_add(&r->f->wrong, 1);
		atomic_fetch_add(&r->reads, 1);
		usleep(50);
	}
	atomic_store(&r->done, true);
	return NULL;
}

/* Every reader comes on by two reads while nothing comes: none waits for us. */
static void check_nobody_waits(struct reader *r)
{
	uint64_t before[READERS];
	unsigned int i, ms = 0;

	for (i = 0; i < READERS; i++)
		before[i] = atomic_load(&r[i].reads);
	for (i = 0; i < READERS && ms < PATIENCE_MS;) {
		if (atomic_load(&r[i].done) ||
		    atomic_load(&r[i].reads) >= before[i] + 2) {
			i++;
			continue;
		}
		usleep(1000);
		ms++;
	}
	assert_int_equal(i, READERS); /* else this is the one that waits */
}

/* Those pages of a batch that nobody else has sent, when readers had time to ask. */
static void bring_unsent(struct fixture *f, uint64_t page)
{
	uint64_t end = page + BATCH_PAGES, first = page;
	bool mine[BATCH_PAGES + 1] = { false };

	atomic_store(&f->at, page);
	for (uint64_t i = 0; i < BATCH_PAGES; i++)
		mine[i] = bitmap_atomic_clear(f->unsent, page + i);
	atomic_store(&f->claimed, true);
	usleep(CLAIMED_US);
	atomic_store(&f->claimed, false);
	for (; page <= end; page++) {
		if (mine[page - (end - BATCH_PAGES)])
			continue;
		if (page > first)
			bring(f, first, page - first);
		first = page + 1;
	}
}

static void check_crowd(enum vm_mem_backend backend)
{
	struct fixture *f = fixture_new(backend);
	struct reader r[READERS] = { 0 };

	for (unsigned int i = 0; i < READERS; i++) {
		r[i].f = f;
		r[i].seed = i;
		assert_int_equal(
			pthread_create(&r[i].thread, NULL, reader_main, &r[i]),
			0);
	}
	for (uint64_t page = 0; page < PAGES; page += BATCH_PAGES) {
		bring_unsent(f, page);
		check_nobody_waits(r);
	}
	assert_int_equal(mig_block_flush(&f->block), 0);
	for (unsigned int i = 0; i < READERS; i++)
		pthread_join(r[i].thread, NULL);
	expect_all(f);
	assert_int_equal(mig_fill_duplicates(f->fill), 0);
	fixture_free(f);
}

static void test_nobody_waits_for_a_block(void **state)
{
	(void)state;
	check_crowd(VM_MEM_ANON);
	check_crowd(VM_MEM_MEMFD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocks_become_huge_pages),
		cmocka_unit_test(test_huge_again_after_one_that_was_broken_up),
		cmocka_unit_test(test_no_more_blocks_without_huge_pages),
		cmocka_unit_test(test_no_more_blocks_when_huge_pages_are_gone),
		cmocka_unit_test(test_a_file_is_copied_to),
		cmocka_unit_test(test_what_does_not_go_on_is_placed_first),
		cmocka_unit_test(test_no_more_than_a_block),
		cmocka_unit_test(test_one_that_is_here_spoils_nothing),
		cmocka_unit_test(test_no_longer_run_than_a_block),
		cmocka_unit_test(test_none_slips_past_a_snapshot),
		cmocka_unit_test(test_nobody_waits_for_a_block),
	};

	uffd_probe(&caps);
	if (!caps.usable || access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: %s\n",
		       caps.usable ? "no access to /dev/kvm" : caps.why);
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
