/* The guest's CPUID: topology, and what a host cannot show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "vmm/cpuid.h"

#define MAX 32

struct table {
	struct kvm_cpuid_entry2 e[MAX];
	size_t nr;
};

static struct kvm_cpuid_entry2 *leaf(struct table *t, uint32_t function,
				     uint32_t index)
{
	for (size_t i = 0; i < t->nr; i++) {
		if (t->e[i].function == function && t->e[i].index == index)
			return &t->e[i];
	}
	return NULL;
}

/* An Intel host as KVM describes it: leaf 0xb empty, one subleaf. */
static struct table intel(void)
{
	const uint32_t indexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	struct table t = {
		.e = {
			{ .function = 0, .eax = 0x1f, .ebx = 0x756e6547 },
			{ .function = 1, .ebx = 0x12345678, .ecx = 1 | 1 << 5,
			  .edx = 0x1 },
			{ .function = 4, .index = 0, .flags = indexed,
			  .eax = 0xfc000121 | 7 << 14 },
			{ .function = 4, .index = 3, .flags = indexed,
			  .eax = 0x163 },
			{ .function = 4, .index = 4, .flags = indexed },
			{ .function = 7, .index = 0, .flags = indexed,
			  .ebx = 0x29, .edx = 1u << 31 },
			{ .function = 0xb, .index = 0, .flags = indexed },
			{ .function = 0x1f, .index = 0, .flags = indexed },
			{ .function = 0x80000001, .ecx = 0x101 },
			{ .function = 0x80000008, .eax = 0x3930, .ecx = 0x77 },
		},
		.nr = 10,
	};

	return t;
}

static struct table amd(void)
{
	struct table t = {
		.e = {
			{ .function = 0, .eax = 0x10, .ebx = 0x68747541 },
			{ .function = 1 },
			{ .function = 0xb,
			  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
			{ .function = 0x80000001, .ecx = 1 << 2 | 1 << 22 },
			{ .function = 0x80000008 },
			{ .function = 0x8000001e, .eax = 9, .ebx = 0x305,
			  .ecx = 0x201 },
		},
		.nr = 6,
	};

	return t;
}

static void test_topology_is_single_threaded_cores(void **state)
{
	struct table t = intel();

	(void)state;
	assert_int_equal(vm_cpuid_shape(t.e, &t.nr, MAX, 6), 0);
	vm_cpuid_for_cpu(t.e, t.nr, 5);
	assert_int_equal(leaf(&t, 1, 0)->ebx, 0x05065678);
	assert_true(leaf(&t, 1, 0)->edx & 1u << 28);
	assert_int_equal(leaf(&t, 4, 0)->eax, 0x121 | 7u << 26);
	assert_int_equal(leaf(&t, 4, 3)->eax, 0x163 | 5 << 14 | 7u << 26);
	assert_int_equal(leaf(&t, 4, 4)->eax, 0);
	for (uint32_t f = 0xb; f <= 0x1f; f += 0x14) {
		assert_int_equal(leaf(&t, f, 0)->eax, 0);
		assert_int_equal(leaf(&t, f, 0)->ebx, 1);
		assert_int_equal(leaf(&t, f, 0)->ecx, 0x100);
		assert_int_equal(leaf(&t, f, 1)->eax, 3);
		assert_int_equal(leaf(&t, f, 1)->ebx, 6);
		assert_int_equal(leaf(&t, f, 1)->ecx, 0x201);
		assert_int_equal(leaf(&t, f, 2)->ebx, 0);
		assert_int_equal(leaf(&t, f, 2)->ecx, 2);
		assert_int_equal(leaf(&t, f, 2)->edx, 5);
	}
	assert_int_equal(leaf(&t, 0x80000008, 0)->ecx, 0);
	assert_int_equal(leaf(&t, 0x80000008, 0)->eax, 0x3930);
}

static void test_topology_of_amd(void **state)
{
	struct table t = amd();

	(void)state;
	assert_int_equal(vm_cpuid_shape(t.e, &t.nr, MAX, 4), 0);
	vm_cpuid_for_cpu(t.e, t.nr, 3);
	assert_int_equal(leaf(&t, 0x80000001, 0)->ecx, 1 << 1 | 1 << 22);
	assert_int_equal(leaf(&t, 0x80000008, 0)->ecx, 2 << 12 | 3);
	assert_int_equal(leaf(&t, 0x8000001e, 0)->eax, 3);
	assert_int_equal(leaf(&t, 0x8000001e, 0)->ebx, 3);
	assert_int_equal(leaf(&t, 0x8000001e, 0)->ecx, 0);
}

static void test_one_cpu_has_no_siblings(void **state)
{
	struct table t = intel();

	(void)state;
	leaf(&t, 1, 0)->edx |= 1u << 28;
	assert_int_equal(vm_cpuid_shape(t.e, &t.nr, MAX, 1), 0);
	assert_false(leaf(&t, 1, 0)->edx & 1u << 28);
	assert_int_equal(leaf(&t, 0xb, 1)->eax, 0);
	assert_int_equal(leaf(&t, 0xb, 1)->ebx, 1);
}

static void test_guest_knows_it_is_one(void **state)
{
	struct table t = intel();

	(void)state;
	assert_int_equal(vm_cpuid_shape(t.e, &t.nr, MAX, 1), 0);
	assert_int_equal(leaf(&t, 1, 0)->ecx, 1u << 31 | 1); /* no VMX */
}

static void test_no_room_for_topology(void **state)
{
	struct table t = intel();

	(void)state;
	assert_int_equal(vm_cpuid_shape(t.e, &t.nr, 12, 2), -E2BIG);
}

struct report {
	size_t nr;
	char last[128];
};

static void keep(void *ctx, const char *line)
{
	struct report *r = ctx;

	r->nr++;
	strncpy(r->last, line, sizeof(r->last) - 1);
}

static size_t missing(struct table *guest, struct table *host, struct report *r)
{
	memset(r, 0, sizeof(*r));
	return vm_cpuid_missing(guest->e, guest->nr, host->e, host->nr, keep,
				r);
}

static void test_what_was_shaped_fits_its_own_host(void **state)
{
	struct table host = intel(), guest = intel();
	struct report r;

	(void)state;
	assert_int_equal(vm_cpuid_shape(guest.e, &guest.nr, MAX, 4), 0);
	assert_int_equal(missing(&guest, &host, &r), 0);
	host = guest = amd();
	assert_int_equal(vm_cpuid_shape(guest.e, &guest.nr, MAX, 4), 0);
	assert_int_equal(missing(&guest, &host, &r), 0);
}

static void test_missing_bits_are_named(void **state)
{
	struct table host = intel(), guest = intel();
	struct report r;

	(void)state;
	leaf(&guest, 7, 0)->ebx |= 1 << 16;
	assert_int_equal(missing(&guest, &host, &r), 1);
	assert_string_equal(r.last,
			    "CPUID leaf 0x7.0 ebx: bits 0x00010000 missing");
	leaf(&guest, 0x80000001, 0)->ecx |= 1 << 5;
	assert_int_equal(missing(&guest, &host, &r), 2);
	assert_int_equal(r.nr, 2);
	assert_int_equal(missing(&host, &guest, &r), 0); /* more is no harm */
}

static void test_a_missing_leaf_misses_all_its_bits(void **state)
{
	struct table host = intel(), guest = intel();
	struct report r;

	(void)state;
	leaf(&host, 7, 0)->function = 0x2;
	assert_int_equal(missing(&guest, &host, &r), 2);
	assert_string_equal(r.last,
			    "CPUID leaf 0x7.0 edx: bits 0x80000000 missing");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_topology_is_single_threaded_cores),
		cmocka_unit_test(test_topology_of_amd),
		cmocka_unit_test(test_one_cpu_has_no_siblings),
		cmocka_unit_test(test_guest_knows_it_is_one),
		cmocka_unit_test(test_no_room_for_topology),
		cmocka_unit_test(test_what_was_shaped_fits_its_own_host),
		cmocka_unit_test(test_missing_bits_are_named),
		cmocka_unit_test(test_a_missing_leaf_misses_all_its_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
