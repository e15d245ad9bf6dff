/*
 * What a guest gives back becomes holes in RAM, marked dirty, unless somebody
 * holds RAM; and the driver may say anything.
 */
#include "virtio_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#define RAM_BYTES  (UINT64_C(64) << 20)
#define HUGE_BYTES (UINT64_C(2) << 20)
#define ENTRIES    64

#define INFLATE 0
#define DEFLATE 1

#define F_DEFLATE_ON_OOM (UINT64_C(1) << 2)
#define F_REPORTING      (UINT64_C(1) << 5)

static void up_on(struct vdrv *d, struct vm *vm)
{
	struct virtio_device *v = NULL;
	char *err = NULL;

	assert_int_equal(virtio_balloon_new(vm, &v, &err), 0);
	vdrv_init(d, vm, v, F_DEFLATE_ON_OOM | F_REPORTING);
	for (unsigned int q = 0; q < 5; q++)
		vdrv_queue(d, q, ENTRIES);
}

static void up(struct vdrv *d)
{
	up_on(d, vdrv_machine(RAM_BYTES));
}

/* New memory that starts on a huge page and is full of something. */
static uint64_t filled(struct vdrv *d, uint64_t bytes)
{
	uint64_t gpa;

	d->next_gpa = (d->next_gpa + HUGE_BYTES - 1) & ~(HUGE_BYTES - 1);
	gpa = vdrv_alloc(d, bytes);
	memset(vdrv_hva(d, gpa), 0xa5, bytes);
	return gpa;
}

static uint64_t populated(struct vdrv *d, uint64_t gpa, uint64_t bytes)
{
	uint64_t bitmap[RAM_BYTES / VM_PAGE_BYTES / 64] = { 0 }, n = 0;

	assert_int_equal(vm_mem_scan_populated(d->vm->mem, gpa, bytes, bitmap),
			 0);
	for (size_t i = 0; i < sizeof(bitmap) / 8; i++)
		n += (uint64_t)__builtin_popcountll(bitmap[i]);
	return n;
}

static void tell(struct vdrv *d, unsigned int queue, const uint32_t *pfns,
		 size_t nr)
{
	struct vdrv_piece p = { vdrv_alloc(d, 4 * nr), (uint32_t)(4 * nr),
				false };
	uint16_t head;

	memcpy(vdrv_hva(d, p.gpa), pfns, 4 * nr);
	head = vdrv_add(d, queue, &p, 1);
	vdrv_kick(d, queue);
	assert_int_equal(vdrv_wait(d, queue, head), 0);
}

static void report(struct vdrv *d, unsigned int queue, uint64_t gpa,
		   uint32_t bytes)
{
	struct vdrv_piece p = { gpa, bytes, true };
	uint16_t head = vdrv_add(d, queue, &p, 1);

	vdrv_kick(d, queue);
	assert_int_equal(vdrv_wait(d, queue, head), 0);
}

static void test_inflated_pages_are_holes(void **state)
{
	uint64_t dirty[RAM_BYTES / VM_PAGE_BYTES / 64] = { 0 };
	uint32_t pfns[600], first;
	struct vdrv d;
	uint64_t gpa;

	(void)state;
	up(&d);
	vdrv_start(&d);
	gpa = filled(&d, 4 << 20);
	first = (uint32_t)(gpa / VM_PAGE_BYTES);
	/* Runs both ways, one beside the other, and one page twice. */
	for (uint32_t i = 0; i < 300; i++)
		pfns[i] = first + i;
	for (uint32_t i = 0; i < 299; i++)
		pfns[300 + i] = first + 899 - i;
	pfns[599] = first;
	assert_int_equal(vm_mem_user_dirty_start(d.vm->mem), 0);
	tell(&d, INFLATE, pfns, 600);
	assert_int_equal(populated(&d, gpa, 300 * VM_PAGE_BYTES), 0);
	assert_int_equal(populated(&d, gpa, 4 << 20), 1024 - 599);
	assert_int_equal(vdrv_hva(&d, gpa + 600 * VM_PAGE_BYTES)[0], 0xa5);
	vm_mem_user_dirty_fetch(d.vm->mem, dirty);
	for (uint32_t i = 0; i < 600; i++)
		assert_true(dirty[pfns[i] / 64] >> pfns[i] % 64 & 1);
	assert_false(dirty[(first + 300) / 64] >> (first + 300) % 64 & 1);

	tell(&d, DEFLATE, pfns, 600);
	assert_int_equal(vdrv_hva(&d, gpa)[0], 0);
	vdrv_fini(&d);
}

/* On the queue of the specification and on that of Linux. */
static void test_reported_pages_are_holes(void **state)
{
	const unsigned int queues[2] = { 2, 4 };
	struct vdrv d;
	uint64_t gpa;

	(void)state;
	up(&d);
	vdrv_start(&d);
	for (int i = 0; i < 2; i++) {
		gpa = filled(&d, 8 << 20);
		report(&d, queues[i], gpa + HUGE_BYTES, 4 << 20);
		assert_int_equal(populated(&d, gpa, 8 << 20), 1024);
		/* Of pages in part nothing goes. */
		report(&d, queues[i], gpa + 1, 2 * VM_PAGE_BYTES);
		assert_int_equal(populated(&d, gpa, 8 << 20), 1023);
		report(&d, queues[i], gpa + 10 * VM_PAGE_BYTES + 1, 4094);
		assert_int_equal(populated(&d, gpa, 8 << 20), 1023);
		assert_int_equal(vdrv_hva(&d, gpa)[VM_PAGE_BYTES - 1], 0xa5);
	}
	vdrv_fini(&d);
}

/* Pages still to come, or still to be saved, must not vanish. */
static void test_held_memory_stays(void **state)
{
	struct vdrv d;
	uint64_t gpa;
	uint32_t pfn;

	(void)state;
	up(&d);
	gpa = filled(&d, 2 << 20);
	pfn = (uint32_t)(gpa / VM_PAGE_BYTES);
	vm_mem_hold(d.vm->mem);
	vm_mem_hold(d.vm->mem);
	vdrv_start(&d);
	for (int i = 0; i < 2; i++) {
		report(&d, 4, gpa, 2 << 20);
		tell(&d, INFLATE, &pfn, 1);
		assert_int_equal(populated(&d, gpa, 2 << 20), 512);
		vm_mem_release(d.vm->mem);
	}
	report(&d, 4, gpa, 2 << 20);
	assert_int_equal(populated(&d, gpa, 2 << 20), 0);
	vdrv_fini(&d);
}

static void test_nonsense_gives_nothing(void **state)
{
	const uint32_t pfns[] = { UINT32_MAX, 0xfffff, RAM_BYTES >> 12, 0xd0000,
				  0x80000000 };
	struct vdrv_piece p = { 0 };
	struct vdrv d;
	uint64_t gpa;
	uint32_t pfn;
	uint16_t head;

	(void)state;
	up(&d);
	vdrv_start(&d);
	gpa = filled(&d, 2 << 20);
	tell(&d, INFLATE, pfns, sizeof(pfns) / 4);
	/* A number and a half: half a number is none. */
	pfn = (uint32_t)(gpa / VM_PAGE_BYTES);
	p = (struct vdrv_piece){ vdrv_alloc(&d, 64), 6, false };
	memcpy(vdrv_hva(&d, p.gpa), &pfn, 4);
	head = vdrv_add(&d, INFLATE, &p, 1);
	vdrv_kick(&d, INFLATE);
	vdrv_wait(&d, INFLATE, head);
	assert_int_equal(populated(&d, gpa, 2 << 20), 511);
	/* Nothing to write where numbers should be read. */
	report(&d, INFLATE, gpa, 2 << 20);
	assert_int_equal(populated(&d, gpa, 2 << 20), 511);
	/* The device's own rings. */
	report(&d, 4, d.queues[4].used_gpa & ~(VM_PAGE_BYTES - 1),
	       VM_PAGE_BYTES);
	vdrv_fini(&d);
}

static void test_endless_request_breaks(void **state)
{
	struct vdrv_piece p = { .bytes = 16 << 20 };
	struct vdrv d;

	(void)state;
	up(&d);
	vdrv_start(&d);
	p.gpa = vdrv_alloc(&d, p.bytes);
	vdrv_add(&d, INFLATE, &p, 1);
	vdrv_kick(&d, INFLATE);
	assert_string_equal(vdrv_wait_broken(&d),
			    "too many pages in one request");
	vdrv_fini(&d);
}

static uint32_t config(struct vdrv *d, unsigned int at)
{
	uint32_t value;

	memcpy(&value, d->dev->config + at, sizeof(value));
	return value;
}

/* As a vCPU writes it. */
static void write_config(struct vdrv *d, unsigned int at, uint32_t value)
{
	memcpy(d->dev->config + at, &value, sizeof(value));
	d->dev->ops->config_written(d->dev, at, sizeof(value));
}

static void test_what_is_wanted_and_what_is_there(void **state)
{
	struct vdrv a, b;

	(void)state;
	up(&a);
	vdrv_start(&a);
	virtio_balloon_set(a.dev, 16 << 20);
	vdrv_wait_interrupt(&a, 0);
	assert_int_equal(config(&a, 0), 4096);
	write_config(&a, 4, 1000);
	assert_int_equal(virtio_balloon_actual(a.dev), 1000 * VM_PAGE_BYTES);
	/* The driver neither changes what is wanted nor has more than all. */
	write_config(&a, 0, 7);
	assert_int_equal(config(&a, 0), 4096);
	write_config(&a, 4, UINT32_MAX);
	assert_int_equal(virtio_balloon_actual(a.dev), RAM_BYTES);
	virtio_balloon_set(a.dev, UINT64_MAX);
	assert_int_equal(config(&a, 0), RAM_BYTES / VM_PAGE_BYTES);

	write_config(&a, 4, 2000);
	up(&b);
	vdrv_move(&a, &b);
	assert_int_equal(config(&b, 0), RAM_BYTES / VM_PAGE_BYTES);
	assert_int_equal(virtio_balloon_actual(b.dev), 2000 * VM_PAGE_BYTES);
	vdrv_reset(&b);
	assert_int_equal(config(&b, 0), RAM_BYTES / VM_PAGE_BYTES);
	assert_int_equal(virtio_balloon_actual(b.dev), 0);
	vdrv_fini(&a);
	vdrv_fini(&b);
}

/* Of huge pages only whole ones can go. */
static void test_huge_pages_go_whole(void **state)
{
	struct vm *vm = vdrv_machine(RAM_BYTES);
	struct vm_mem *huge = NULL;
	uint64_t gpa, before;
	struct vdrv d;
	uint32_t pfn;

	(void)state;
	if (vm_mem_new(RAM_BYTES, VM_MEM_HUGETLB, &huge) < 0) {
		vdrv_machine_free(vm);
		print_message("SKIPPED: no huge pages\n");
		skip();
	}
	vm_mem_free(vm->mem);
	vm->mem = huge;
	up_on(&d, vm);
	vdrv_start(&d);
	gpa = filled(&d, 3 * HUGE_BYTES);
	pfn = (uint32_t)(gpa / VM_PAGE_BYTES);
	tell(&d, INFLATE, &pfn, 1);
	assert_int_equal(vdrv_hva(&d, gpa)[0], 0xa5);
	before = vm_mem_resident_bytes(huge);
	report(&d, 4, gpa + VM_PAGE_BYTES, 3 * HUGE_BYTES - VM_PAGE_BYTES);
	assert_int_equal(vm_mem_resident_bytes(huge), before - 2 * HUGE_BYTES);
	assert_int_equal(vdrv_hva(&d, gpa)[HUGE_BYTES - 1], 0xa5);
	vdrv_fini(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inflated_pages_are_holes),
		cmocka_unit_test(test_reported_pages_are_holes),
		cmocka_unit_test(test_held_memory_stays),
		cmocka_unit_test(test_nonsense_gives_nothing),
		cmocka_unit_test(test_endless_request_breaks),
		cmocka_unit_test(test_what_is_wanted_and_what_is_there),
		cmocka_unit_test(test_huge_pages_go_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
