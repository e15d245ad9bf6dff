/* Guest RAM: addresses, the user-side dirty bitmap, populated pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/unit/huge_bytes.h"
#include "vmm/mem.h"
#include "vmm/mem_internal.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static struct vm_mem *new_mem(uint64_t bytes, enum vm_mem_backend backend)
{
	struct vm_mem *m = NULL;

	assert_int_equal(vm_mem_new(bytes, backend, &m), 0);
	return m;
}

static uint64_t *new_bitmap(const struct vm_mem *m)
{
	uint64_t *b = calloc((vm_mem_pages(m) + 63) / 64, 8);

	assert_non_null(b);
	return b;
}

static uint64_t count(const uint64_t *bitmap, const struct vm_mem *m)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < (vm_mem_pages(m) + 63) / 64; i++)
		n += (uint64_t)__builtin_popcountll(bitmap[i]);
	return n;
}

static int has(const uint64_t *bitmap, uint64_t page)
{
	return bitmap[page / 64] >> page % 64 & 1;
}

static void test_bad_sizes_are_refused(void **state)
{
	struct vm_mem *m = NULL;

	(void)state;
	assert_int_equal(vm_mem_new(0, VM_MEM_ANON, &m), -EINVAL);
	assert_int_equal(vm_mem_new(MIB, VM_MEM_ANON, &m), -EINVAL);
	assert_int_equal(vm_mem_new(2 * MIB + 1, VM_MEM_ANON, &m), -EINVAL);
	assert_int_equal(vm_mem_new(512 * GIB + 4096, VM_MEM_ANON, &m),
			 -EINVAL);
	assert_int_equal(vm_mem_new(3 * MIB, VM_MEM_HUGETLB, &m), -EINVAL);
	assert_int_equal(vm_mem_new(4 * MIB, VM_MEM_NR_BACKENDS, &m), -EINVAL);
	assert_null(m);
}

static void test_ram_steps_over_the_hole(void **state)
{
	struct vm_mem *m = new_mem(5 * GIB, VM_MEM_ANON);
	uint64_t offset = 1;

	(void)state;
	assert_int_equal(vm_mem_gpa_to_offset(m, 3 * GIB - 1, 1, &offset), 0);
	assert_int_equal(offset, 3 * GIB - 1);
	assert_int_equal(vm_mem_gpa_to_offset(m, 4 * GIB, 2 * GIB, &offset), 0);
	assert_int_equal(offset, 3 * GIB);
	assert_int_equal(vm_mem_gpa_to_offset(m, 3 * GIB, 0, &offset), 0);
	assert_int_equal(vm_mem_gpa_to_offset(m, 3 * GIB - 1, 2, &offset),
			 -EFAULT);
	assert_int_equal(vm_mem_gpa_to_offset(m, 3 * GIB, 1, &offset), -EFAULT);
	assert_int_equal(vm_mem_gpa_to_offset(m, 4 * GIB - 1, 1, &offset),
			 -EFAULT);
	assert_int_equal(vm_mem_gpa_to_offset(m, 6 * GIB, 1, &offset), -EFAULT);
	assert_int_equal(vm_mem_gpa_to_offset(m, 4 * GIB, UINT64_MAX, &offset),
			 -EFAULT);
	assert_int_equal(vm_mem_gpa_to_offset(m, UINT64_MAX, 1, &offset),
			 -EFAULT);
	assert_int_equal(vm_mem_offset_to_gpa(m, 3 * GIB - 1), 3 * GIB - 1);
	assert_int_equal(vm_mem_offset_to_gpa(m, 3 * GIB), 4 * GIB);
	assert_int_equal(vm_mem_offset_to_gpa(m, 5 * GIB - 1), 6 * GIB - 1);
	vm_mem_free(m);
}

static void test_small_ram_is_one_slot(void **state)
{
	struct vm_mem *m = new_mem(3 * GIB, VM_MEM_ANON);
	const struct vm_slot *slots;
	uint64_t offset;

	(void)state;
	assert_int_equal(vm_mem_slots(m, &slots), 1);
	assert_int_equal(slots[0].bytes, 3 * GIB);
	assert_int_equal(vm_mem_gpa_to_offset(m, 4 * GIB, 1, &offset), -EFAULT);
	vm_mem_free(m);
}

static void test_write_outside_ram_writes_nothing(void **state)
{
	struct vm_mem *m = new_mem(2 * MIB, VM_MEM_ANON);
	uint8_t buf[16];

	(void)state;
	memset(buf, 0x5a, sizeof(buf));
	assert_int_equal(vm_mem_write(m, 2 * MIB - 8, buf, 16), -EFAULT);
	assert_int_equal(vm_mem_resident_bytes(m), 0);
	assert_int_equal(vm_mem_write(m, 2 * MIB - 16, buf, 16), 0);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(vm_mem_read(m, 2 * MIB - 16, buf, 16), 0);
	assert_int_equal(buf[15], 0x5a);
	vm_mem_free(m);
}

static void test_user_dirty_tells_each_mark_once(void **state)
{
	struct vm_mem *m = new_mem(16 * MIB, VM_MEM_ANON);
	uint64_t *b = new_bitmap(m);

	(void)state;
	assert_int_equal(vm_mem_write(m, 0, "x", 1), 0);
	assert_int_equal(vm_mem_user_dirty_start(m), 0);
	assert_int_equal(vm_mem_user_dirty_start(m), -EALREADY);
	vm_mem_user_dirty_fetch(m, b);
	assert_int_equal(count(b, m), 0); /* before start: unmarked */

	assert_int_equal(vm_mem_write(m, 4095, "xy", 2), 0); /* pages 0, 1 */
	vm_mem_mark_dirty(m, 60 * 4096, 70 * 4096);          /* 60..129 */
	vm_mem_mark_dirty(m, 200 * 4096, 0);
	vm_mem_user_dirty_fetch(m, b);
	assert_int_equal(count(b, m), 72);
	assert_true(has(b, 0) && has(b, 1) && has(b, 60) && has(b, 129));

	memset(b, 0, vm_mem_pages(m) / 8);
	vm_mem_user_dirty_fetch(m, b);
	assert_int_equal(count(b, m), 0);

	vm_mem_mark_dirty(m, 0, 1);
	vm_mem_user_dirty_stop(m);
	vm_mem_mark_dirty(m, 4096, 1);
	assert_int_equal(vm_mem_user_dirty_start(m), 0);
	vm_mem_user_dirty_fetch(m, b);
	assert_int_equal(count(b, m), 0);
	free(b);
	vm_mem_free(m);
}

typedef int (*scan_fn)(const struct vm_mem *m, uint64_t offset, uint64_t bytes,
		       uint64_t *bitmap);

/* Pages around every edge that a scan could stumble over. */
static const uint64_t touched[] = {
	0,      1,      63,      64,      511,      512,
	786431, 786432, 1000000, 8388608, 16777214, 16777215,
};
#define NR_TOUCHED (sizeof(touched) / sizeof(touched[0]))

static void scan_finds_touched(enum vm_mem_backend backend, scan_fn scan)
{
	struct vm_mem *m = new_mem(64 * GIB, backend);
	uint64_t *b = new_bitmap(m);
	uint64_t resident;
	int ret;

	assert_int_equal(scan(m, 0, vm_mem_bytes(m), b), 0);
	assert_int_equal(count(b, m), 0);
	assert_int_equal(vm_mem_resident_bytes(m), 0);

	/* No huge pages: this test counts single ones. */
	if (backend == VM_MEM_ANON)
		madvise(vm_mem_base(m), vm_mem_bytes(m), MADV_NOHUGEPAGE);
	for (size_t i = 0; i < NR_TOUCHED; i++)
		vm_mem_base(m)[touched[i] * 4096 + 7] = 1;
	resident = vm_mem_resident_bytes(m);
	assert_int_equal(resident, NR_TOUCHED * 4096);

	ret = scan(m, 0, vm_mem_bytes(m), b);
	assert_int_equal(ret, 0);
	for (size_t i = 0; i < NR_TOUCHED; i++)
		assert_true(has(b, touched[i]));
	assert_int_equal(count(b, m), NR_TOUCHED);
	assert_int_equal(vm_mem_resident_bytes(m), resident);

	/* A part of it: the rest stays as it was, set or not. */
	memset(b, 0, vm_mem_pages(m) / 8);
	b[0] = UINT64_C(1) << 5;
	assert_int_equal(scan(m, 4096, 63 * 4096, b), 0);
	assert_int_equal(b[0], UINT64_C(1) << 63 | 1 << 5 | 1 << 1);
	assert_int_equal(count(b, m), 3);
	free(b);
	vm_mem_free(m);
}

static void test_scan_anon_by_pagemap_scan(void **state)
{
	struct vm_mem *m = new_mem(2 * MIB, VM_MEM_ANON);
	uint64_t bitmap[8] = { 0 };
	int ret = vm_mem_scan_ioctl(m, 0, 2 * MIB, bitmap);

	(void)state;
	vm_mem_free(m);
	if (ret == -ENOTTY) {
		print_message("PAGEMAP_SCAN needs Linux 6.7\n");
		skip();
	}
	scan_finds_touched(VM_MEM_ANON, vm_mem_scan_ioctl);
}

static void test_scan_anon_by_pagemap_file(void **state)
{
	(void)state;
	scan_finds_touched(VM_MEM_ANON, vm_mem_scan_pagemap);
}

static void test_scan_memfd(void **state)
{
	(void)state;
	scan_finds_touched(VM_MEM_MEMFD, vm_mem_scan_populated);
}

/* More extents than one call returns. */
static void test_scan_every_other_page(void **state)
{
	struct vm_mem *m = new_mem(64 * MIB, VM_MEM_ANON);
	uint64_t *b = new_bitmap(m);

	(void)state;
	madvise(vm_mem_base(m), vm_mem_bytes(m), MADV_NOHUGEPAGE);
	for (uint64_t page = 0; page < vm_mem_pages(m); page += 2)
		vm_mem_base(m)[page * 4096] = 1;
	assert_int_equal(vm_mem_scan_populated(m, 0, vm_mem_bytes(m), b), 0);
	for (uint64_t i = 0; i < vm_mem_pages(m) / 64; i++)
		assert_true(b[i] == UINT64_C(0x5555555555555555));
	free(b);
	vm_mem_free(m);
}

/* Needs CAP_SYS_ADMIN on the pagemap path; both must agree where it is. */
static void test_pages_only_read_do_not_count(void **state)
{
	struct vm_mem *m = new_mem(4 * MIB, VM_MEM_ANON);
	volatile uint8_t *base = vm_mem_base(m);
	uint64_t bitmap[16] = { 0 };

	(void)state;
	madvise(vm_mem_base(m), vm_mem_bytes(m), MADV_NOHUGEPAGE);
	for (uint64_t page = 0; page < 512; page++)
		(void)base[page * 4096];
	base[3 * 4096] = 1;
	assert_int_equal(vm_mem_scan_populated(m, 0, 4 * MIB, bitmap), 0);
	assert_int_equal(count(bitmap, m), 1);
	assert_int_equal(vm_mem_resident_bytes(m), 4096);
	vm_mem_free(m);
}

static void discard_gives_back_zeros(enum vm_mem_backend backend)
{
	struct vm_mem *m = new_mem(8 * MIB, backend);
	uint64_t *b = new_bitmap(m);

	memset(vm_mem_base(m), 0xaa, 8 * MIB);
	assert_int_equal(vm_mem_user_dirty_start(m), 0);
	assert_int_equal(vm_mem_discard(m, 2 * MIB, 4 * MIB), 0);
	assert_int_equal(vm_mem_scan_populated(m, 0, 8 * MIB, b), 0);
	assert_int_equal(count(b, m), 4 * MIB / 4096);
	assert_int_equal(vm_mem_base(m)[2 * MIB], 0);
	assert_int_equal(vm_mem_base(m)[2 * MIB - 1], 0xaa);
	assert_int_equal(vm_mem_base(m)[6 * MIB], 0xaa);
	memset(b, 0, vm_mem_pages(m) / 8);
	vm_mem_user_dirty_fetch(m, b);
	assert_int_equal(count(b, m), 4 * MIB / 4096);
	assert_int_equal(vm_mem_discard(m, 1, 4096), -EINVAL);
	assert_int_equal(vm_mem_discard(m, 4 * MIB, 8 * MIB), -EINVAL);
	free(b);
	vm_mem_free(m);
}

/* All of what is asked for, nothing beside it, and nothing is overwritten. */
static void check_populate(enum vm_mem_backend backend)
{
	struct vm_mem *m = new_mem(16 * MIB, backend);
	uint8_t *base = vm_mem_base(m);

	/* Where the host has huge pages for all, one byte would be 2 MiB. */
	if (backend == VM_MEM_ANON)
		madvise(base, vm_mem_bytes(m), MADV_NOHUGEPAGE);
	base[3 * MIB] = 7;
	vm_mem_populate(m, 4 * MIB, 4 * MIB);
	assert_int_equal(vm_mem_resident_bytes(m), 4 * MIB + 4096);
	vm_mem_populate(m, 3 * MIB - 4096, 6 * MIB);
	assert_int_equal(vm_mem_resident_bytes(m), 6 * MIB);
	assert_int_equal(base[3 * MIB], 7);
	for (uint64_t i = 0; i < 16 * MIB; i++)
		assert_int_equal(base[i], i == 3 * MIB ? 7 : 0);
	vm_mem_free(m);
}

static void test_populate(void **state)
{
	(void)state;
	check_populate(VM_MEM_ANON);
	check_populate(VM_MEM_MEMFD);
}

/* What is whole becomes huge, with all that is in it; what is not costs no more. */
static void test_collapse(void **state)
{
	struct vm_mem *m = new_mem(7 * MIB, VM_MEM_ANON);
	uint8_t *base = vm_mem_base(m);
	uint64_t before = huge_bytes();
	int ret;

	(void)state;
	if (m->huge != HUGE_ON_REQUEST) {
		print_message("this host gives huge pages to all, or none\n");
		vm_mem_free(m);
		skip();
	}
	for (uint64_t i = 0; i < 7 * MIB; i += 4096)
		base[i] = (uint8_t)(i >> 12);
	assert_int_equal(vm_mem_discard(m, 2 * MIB, 4096), 0);
	assert_int_equal(huge_bytes(), before);
	ret = vm_mem_collapse(m, 0);
	if (ret == -EINVAL || ret == -ENOMEM) {
		print_message("no MADV_COLLAPSE here, or no huge page\n");
		vm_mem_free(m);
		skip();
	}
	assert_int_equal(ret, 1);
	assert_int_equal(vm_mem_collapse(m, 2 * MIB), 0);
	assert_int_equal(vm_mem_collapse(m, 4 * MIB), 1);
	assert_int_equal(vm_mem_collapse(m, 6 * MIB), 0);
	assert_int_equal(vm_mem_collapse(m, 64 * MIB), 0);
	/* Before Linux 6.7 nobody can tell that it is one. */
	if (vm_mem_stays_small(m))
		assert_int_equal(vm_mem_collapse(m, 0), 0);
	assert_int_equal(huge_bytes(), before + 4 * MIB);
	assert_int_equal(vm_mem_resident_bytes(m), 7 * MIB - 4096);
	for (uint64_t i = 0; i < 7 * MIB; i += 4096)
		assert_int_equal(base[i],
				 i == 2 * MIB ? 0 : (uint8_t)(i >> 12));
	vm_mem_free(m);
}

static void test_discard(void **state)
{
	(void)state;
	discard_gives_back_zeros(VM_MEM_ANON);
	discard_gives_back_zeros(VM_MEM_MEMFD);
}

static void test_hugetlb_counts_whole_huge_pages(void **state)
{
	struct vm_mem *m = NULL;
	uint64_t bitmap[16] = { 0 };
	int ret = vm_mem_new(4 * MIB, VM_MEM_HUGETLB, &m);

	(void)state;
	if (ret < 0) {
		print_message("no two free huge pages: echo 2 > "
			      "/proc/sys/vm/nr_hugepages\n");
		skip();
	}
	assert_int_equal(vm_mem_host_page_bytes(m), 2 * MIB);
	assert_int_equal(vm_mem_scan_populated(m, 0, 4 * MIB, bitmap), 0);
	assert_int_equal(count(bitmap, m), 0);
	vm_mem_base(m)[3 * MIB] = 1;
	assert_int_equal(vm_mem_scan_populated(m, 0, 4 * MIB, bitmap), 0);
	assert_int_equal(count(bitmap, m), 512);
	assert_true(has(bitmap, 512) && !has(bitmap, 511));
	assert_int_equal(vm_mem_resident_bytes(m), 2 * MIB);
	assert_int_equal(vm_mem_discard(m, 2 * MIB, 2 * MIB), 0);
	assert_int_equal(vm_mem_resident_bytes(m), 0);
	vm_mem_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_sizes_are_refused),
		cmocka_unit_test(test_ram_steps_over_the_hole),
		cmocka_unit_test(test_small_ram_is_one_slot),
		cmocka_unit_test(test_write_outside_ram_writes_nothing),
		cmocka_unit_test(test_user_dirty_tells_each_mark_once),
		cmocka_unit_test(test_scan_anon_by_pagemap_scan),
		cmocka_unit_test(test_scan_anon_by_pagemap_file),
		cmocka_unit_test(test_scan_memfd),
		cmocka_unit_test(test_scan_every_other_page),
		cmocka_unit_test(test_pages_only_read_do_not_count),
		cmocka_unit_test(test_populate),
		cmocka_unit_test(test_collapse),
		cmocka_unit_test(test_discard),
		cmocka_unit_test(test_hugetlb_counts_whole_huge_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
