/*
 * A virtio device behind PCI, driven as virtio 1.2 section 3.1.1 says: by its
 * registers alone, with saves and resets at every stage.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "pci_fixture.h"

#define MIB     (UINT64_C(1) << 20)
#define SLOT    1
#define ENTRIES 8
#define DESC    MIB
#define AVAIL   (MIB + 4096)
#define USED    (MIB + 8192)
#define BUF     (2 * MIB)
#define ISR     0x1000
#define NOTIFY  0x3000

#define AT(member) offsetof(struct virtio_pci_common_cfg, member)

struct guest {
	struct vm *vm;
	struct virtio_device *dev;
	uint64_t regs, msix; /* gpa of the BARs */
	uint16_t nr_added;
};

static void boot(struct guest *g)
{
	*g = (struct guest){ .vm = pci_machine(16 * MIB) };
	assert_int_equal(virtio_rng_new(g->vm, &g->dev, NULL), 0);
	assert_int_equal(vm_pci_add(g->vm, &g->dev->pci), 0);
	vm_bus_reset(g->vm);
	g->regs = pci_cfg_read(g->vm, SLOT, PCI_BASE_ADDRESS_0, 4);
	g->msix = pci_cfg_read(g->vm, SLOT, PCI_BASE_ADDRESS_1, 4);
}

static uint64_t get(struct guest *g, uint64_t at, unsigned int bytes)
{
	return pci_mmio_read(g->vm, g->regs + at, bytes);
}

static void set(struct guest *g, uint64_t at, unsigned int bytes,
		uint64_t value)
{
	pci_mmio_write(g->vm, g->regs + at, bytes, value);
}

static uint8_t status(struct guest *g)
{
	return (uint8_t)get(g, AT(device_status), 1);
}

/* The stages of a driver's start. */

static void stage_enable(struct guest *g)
{
	pci_cfg_write(g->vm, SLOT, PCI_COMMAND, 2,
		      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_cfg_write(g->vm, SLOT, g->dev->pci.msix.cap + PCI_MSIX_FLAGS, 2,
		      PCI_MSIX_FLAGS_ENABLE);
	for (unsigned int i = 0; i < 2; i++) {
		pci_mmio_write(g->vm, g->msix + 16 * i, 8, 0xfee00000);
		pci_mmio_write(g->vm, g->msix + 16 * i + 8, 8, 0x4051 + i);
	}
}

static void stage_reset(struct guest *g)
{
	set(g, AT(device_status), 1, 0);
	while (status(g) != 0)
		sched_yield();
}

static void stage_acknowledge(struct guest *g)
{
	set(g, AT(device_status), 1, VIRTIO_STATUS_ACKNOWLEDGE);
	set(g, AT(device_status), 1,
	    VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
}

static void stage_features(struct guest *g)
{
	set(g, AT(guest_feature_select), 4, 0);
	set(g, AT(guest_feature), 4, 0);
	set(g, AT(guest_feature_select), 4, 1);
	set(g, AT(guest_feature), 4, VIRTIO_F_VERSION_1 >> 32);
}

static void stage_features_ok(struct guest *g)
{
	set(g, AT(device_status), 1, status(g) | VIRTIO_STATUS_FEATURES_OK);
}

static void stage_queue(struct guest *g)
{
	set(g, AT(queue_select), 2, 0);
	set(g, AT(queue_size), 2, ENTRIES);
	set(g, AT(queue_msix_vector), 2, 1);
	set(g, AT(msix_config), 2, 0);
	set(g, AT(queue_desc_lo), 4, DESC);
	set(g, AT(queue_desc_hi), 4, 0);
	set(g, AT(queue_avail_lo), 8, AVAIL);
	set(g, AT(queue_used_lo), 4, USED);
}

static void stage_queue_enable(struct guest *g)
{
	set(g, AT(queue_enable), 2, 1);
}

static void stage_driver_ok(struct guest *g)
{
	set(g, AT(device_status), 1, status(g) | VIRTIO_STATUS_DRIVER_OK);
}

static void (*const stages[])(struct guest *g) = {
	stage_enable,      stage_reset, stage_acknowledge,  stage_features,
	stage_features_ok, stage_queue, stage_queue_enable, stage_driver_ok,
};

#define NR_STAGES (sizeof(stages) / sizeof(stages[0]))

static void do_stages(struct guest *g, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		stages[i](g);
}

static uint16_t *ring16(struct guest *g, uint64_t gpa)
{
	return (uint16_t *)(void *)(vm_mem_base(g->vm->mem) + gpa);
}

static uint16_t used_idx(struct guest *g)
{
	return __atomic_load_n(ring16(g, USED + 2), __ATOMIC_ACQUIRE);
}

/* One request by the doorbell's slow path (here there is no other). */
static void submit(struct guest *g)
{
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} desc = { BUF, 32, 2, 0 };
	uint16_t slot = g->nr_added % ENTRIES;

	memcpy(vm_mem_base(g->vm->mem) + DESC + (size_t)16 * slot, &desc, 16);
	*ring16(g, AVAIL + 4 + UINT64_C(2) * slot) = slot;
	g->nr_added++;
	__atomic_store_n(ring16(g, AVAIL + 2), g->nr_added, __ATOMIC_RELEASE);
	set(g, NOTIFY, 2, 0);
}

static void expect_works(struct guest *g)
{
	struct vdrv d = { .dev = g->dev };

	submit(g);
	while (used_idx(g) != g->nr_added)
		sched_yield();
	vdrv_wait_interrupt(&d, 1);
	/* That may be an older one, and after a move it is told twice: at rest all is said. */
	vm_devices_stop(g->vm);
	assert_int_equal(get(g, ISR, 1) & 1, 1);
	assert_int_equal(get(g, ISR, 1), 0); /* reading clears it */
	vm_devices_start(g->vm);
}

static void forget_rings(struct guest *g)
{
	memset(vm_mem_base(g->vm->mem) + DESC, 0, 3 * 4096);
	g->nr_added = 0;
}

static void test_whole_start(void **state)
{
	struct guest g;

	(void)state;
	boot(&g);
	vm_devices_start(g.vm);
	do_stages(&g, 0, NR_STAGES);
	assert_int_equal(status(&g), 0x0f);
	assert_int_equal(get(&g, AT(queue_size), 2), ENTRIES);
	assert_int_equal(get(&g, AT(queue_avail_lo), 8), AVAIL);
	expect_works(&g);
	vdrv_machine_free(g.vm);
}

static void test_reset_while_it_runs(void **state)
{
	struct guest g;

	(void)state;
	boot(&g);
	vm_devices_start(g.vm);
	do_stages(&g, 0, NR_STAGES);
	for (int i = 0; i < 100; i++) {
		submit(&g); /* somewhere on its way */
		stage_reset(&g);
		assert_int_equal(status(&g), 0);
		assert_int_equal(get(&g, AT(queue_enable), 2), 0);
		assert_int_equal(get(&g, AT(queue_msix_vector), 2), 0xffff);
		forget_rings(&g);
		do_stages(&g, 2, NR_STAGES);
		expect_works(&g);
	}
	vdrv_machine_free(g.vm);
}

/* A machine reset puts BARs and registers back, from whatever stage. */
static void test_machine_reset_at_every_stage(void **state)
{
	struct guest g;

	(void)state;
	boot(&g);
	for (size_t n = 0; n <= NR_STAGES; n++) {
		vm_devices_start(g.vm);
		do_stages(&g, 0, n);
		vm_devices_stop(g.vm);
		vm_bus_reset(g.vm);
		assert_int_equal(fake_kvm.nr_doorbells, 0);
		assert_int_equal(pci_mmio_read(g.vm, g.regs, 4), 0xffffffff);
		forget_rings(&g);
	}
	vm_devices_start(g.vm);
	do_stages(&g, 0, NR_STAGES);
	expect_works(&g);
	vdrv_machine_free(g.vm);
}

/* The state of each device; RAM by copy. */
static void move(struct guest *from, struct guest *to)
{
	boot(to);
	vm_devices_stop(from->vm);
	for (size_t i = 0; i < from->vm->nr_devices; i++) {
		struct vm_device *a = from->vm->devices[i];
		struct vm_device *b = to->vm->devices[i];
		void *state = calloc(1, a->ops->state_bytes);

		assert_non_null(state);
		a->ops->save(a, state);
		assert_int_equal(b->ops->load(b, state), 0);
		free(state);
	}
	memcpy(vm_mem_base(to->vm->mem), vm_mem_base(from->vm->mem), 3 * MIB);
	to->nr_added = from->nr_added;
	vdrv_machine_free(from->vm);
	vm_devices_start(to->vm);
}

static void test_move_at_every_stage(void **state)
{
	struct guest from, to;

	(void)state;
	for (size_t n = 0; n <= NR_STAGES; n++) {
		boot(&from);
		vm_devices_start(from.vm);
		do_stages(&from, 0, n);
		if (n == NR_STAGES)
			expect_works(&from);
		move(&from, &to);
		do_stages(&to, n, NR_STAGES);
		assert_int_equal(status(&to), 0x0f);
		assert_true(pci_has_doorbell(to.regs + NOTIFY));
		expect_works(&to);
		vdrv_machine_free(to.vm);
	}
}

static void test_features_are_checked(void **state)
{
	struct guest g;

	(void)state;
	boot(&g);
	vm_devices_start(g.vm);
	do_stages(&g, 0, 3);
	/* Without VERSION_1. */
	stage_features_ok(&g);
	assert_int_equal(status(&g), 0x03);
	/* One that was not offered. */
	stage_features(&g);
	set(&g, AT(guest_feature_select), 4, 0);
	set(&g, AT(guest_feature), 4, 1);
	stage_features_ok(&g);
	assert_int_equal(status(&g), 0x03);
	/* Nor does DRIVER_OK come before FEATURES_OK. */
	stage_driver_ok(&g);
	assert_int_equal(status(&g), 0x03);
	set(&g, AT(guest_feature), 4, 0);
	stage_features_ok(&g);
	assert_int_equal(status(&g), 0x0b);
	/* Agreed is agreed. */
	set(&g, AT(guest_feature), 4, 0xffffffff);
	assert_int_equal(get(&g, AT(guest_feature), 4), 0);
	assert_int_equal(get(&g, AT(device_feature), 4),
			 (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX) &
				 UINT32_MAX);
	set(&g, AT(device_feature_select), 4, 2);
	assert_int_equal(get(&g, AT(device_feature), 4), 0);
	vdrv_machine_free(g.vm);
}

static void test_queue_registers_are_checked(void **state)
{
	struct guest g;

	(void)state;
	boot(&g);
	vm_devices_start(g.vm);
	do_stages(&g, 0, 5);
	for (uint32_t size = 0; size <= 0xffff; size += 3) {
		set(&g, AT(queue_size), 2, size);
		assert_true(get(&g, AT(queue_size), 2) <= 64);
		assert_true(get(&g, AT(queue_size), 2) > 0);
	}
	set(&g, AT(queue_msix_vector), 2, 2);
	assert_int_equal(get(&g, AT(queue_msix_vector), 2), 0xffff);
	set(&g, AT(queue_enable), 2, 2);
	assert_int_equal(get(&g, AT(queue_enable), 2), 0);
	/* One that is not there: size 0, and writes go nowhere. */
	set(&g, AT(queue_select), 2, 1);
	assert_int_equal(get(&g, AT(queue_size), 2), 0);
	stage_queue_enable(&g);
	assert_int_equal(get(&g, AT(queue_enable), 2), 0);
	/* Enabled: final until the reset. */
	stage_queue(&g);
	stage_queue_enable(&g);
	set(&g, AT(queue_size), 2, 16);
	set(&g, AT(queue_used_lo), 4, 0);
	set(&g, AT(queue_enable), 2, 0);
	assert_int_equal(get(&g, AT(queue_size), 2), ENTRIES);
	assert_int_equal(get(&g, AT(queue_used_lo), 4), USED);
	stage_driver_ok(&g);
	expect_works(&g);
	vdrv_machine_free(g.vm);
}

/* Accesses of every size everywhere in both BARs: nothing falls over. */
static void test_odd_accesses(void **state)
{
	struct guest g;

	(void)state;
	boot(&g);
	vm_devices_start(g.vm);
	do_stages(&g, 0, NR_STAGES);
	for (uint64_t at = 0; at < 0x5000; at++) {
		for (unsigned int bytes = 1; bytes <= 8; bytes *= 2) {
			get(&g, at, bytes);
			if (at != AT(device_status))
				set(&g, at, bytes, UINT64_MAX);
		}
	}
	stage_reset(&g);
	forget_rings(&g);
	do_stages(&g, 0, NR_STAGES);
	expect_works(&g);
	vdrv_machine_free(g.vm);
}

static void test_broken_is_seen_and_reset(void **state)
{
	struct guest g;
	struct vdrv d;

	(void)state;
	boot(&g);
	d = (struct vdrv){ .dev = g.dev };
	vm_devices_start(g.vm);
	do_stages(&g, 0, NR_STAGES);
	*ring16(&g, AVAIL + 4) = ENTRIES;
	__atomic_store_n(ring16(&g, AVAIL + 2), 1, __ATOMIC_RELEASE);
	set(&g, NOTIFY, 2, 0);
	vdrv_wait_interrupt(&d, 0);
	assert_int_equal(status(&g), 0x4f);
	stage_reset(&g);
	forget_rings(&g);
	do_stages(&g, 2, NR_STAGES);
	expect_works(&g);
	vdrv_machine_free(g.vm);
}

/* Section 4.1.4.9: BAR 0 by way of configuration space, even when it is off. */
static void test_window_in_config_space(void **state)
{
	struct guest g;
	unsigned int cap;

	(void)state;
	boot(&g);
	cap = pci_cfg_read(g.vm, SLOT, PCI_CAPABILITY_LIST, 1);
	while (pci_cfg_read(g.vm, SLOT, cap, 1) != PCI_CAP_ID_VNDR ||
	       pci_cfg_read(g.vm, SLOT, cap + 3, 1) != VIRTIO_PCI_CAP_PCI_CFG) {
		cap = pci_cfg_read(g.vm, SLOT, cap + 1, 1);
		assert_true(cap != 0);
	}
	pci_cfg_write(g.vm, SLOT, cap + 8, 4, AT(num_queues));
	pci_cfg_write(g.vm, SLOT, cap + 12, 4, 2);
	assert_int_equal(pci_cfg_read(g.vm, SLOT, cap + 16, 2), 1);
	pci_cfg_write(g.vm, SLOT, cap + 8, 4, AT(device_status));
	pci_cfg_write(g.vm, SLOT, cap + 12, 4, 1);
	pci_cfg_write(g.vm, SLOT, cap + 16, 1, VIRTIO_STATUS_ACKNOWLEDGE);
	assert_int_equal(atomic_load(&g.dev->status),
			 VIRTIO_STATUS_ACKNOWLEDGE);
	/* Lengths and places that are none. */
	pci_cfg_write(g.vm, SLOT, cap + 12, 4, 3);
	pci_cfg_write(g.vm, SLOT, cap + 16, 1, 0);
	pci_cfg_write(g.vm, SLOT, cap + 12, 4, 4);
	pci_cfg_write(g.vm, SLOT, cap + 8, 4, 0x4000);
	pci_cfg_write(g.vm, SLOT, cap + 16, 4, 0);
	pci_cfg_write(g.vm, SLOT, cap + 8, 4, 0xfffffffc);
	pci_cfg_read(g.vm, SLOT, cap + 16, 4);
	assert_int_equal(atomic_load(&g.dev->status),
			 VIRTIO_STATUS_ACKNOWLEDGE);
	vdrv_machine_free(g.vm);
}

/* A hostile state is refused field by field, or harmless: addresses and indices. */
static void test_spoilt_state(void **state)
{
	struct vm_device *a, *b;
	struct guest from, to;
	uint8_t *good, *bad;
	size_t bytes, nr_refused = 0;

	(void)state;
	boot(&from);
	vm_devices_start(from.vm);
	do_stages(&from, 0, NR_STAGES);
	vm_devices_stop(from.vm);
	a = &from.dev->pci.device;
	bytes = a->ops->state_bytes;
	good = calloc(1, bytes);
	bad = calloc(1, bytes);
	assert_true(good && bad);
	a->ops->save(a, good);
	vdrv_machine_free(from.vm);
	boot(&to);
	b = &to.dev->pci.device;
	for (size_t i = 0; i < bytes; i++) {
		memcpy(bad, good, bytes);
		bad[i] ^= 0xff;
		if (b->ops->load(b, bad) < 0) {
			nr_refused++;
			continue;
		}
		vm_devices_start(to.vm);
		vm_devices_stop(to.vm);
		vm_bus_reset(to.vm);
	}
	assert_true(nr_refused > 200);
	assert_int_equal(b->ops->load(b, good), 0);
	free(good);
	free(bad);
	vdrv_machine_free(to.vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole_start),
		cmocka_unit_test(test_reset_while_it_runs),
		cmocka_unit_test(test_machine_reset_at_every_stage),
		cmocka_unit_test(test_move_at_every_stage),
		cmocka_unit_test(test_features_are_checked),
		cmocka_unit_test(test_queue_registers_are_checked),
		cmocka_unit_test(test_odd_accesses),
		cmocka_unit_test(test_broken_is_seen_and_reset),
		cmocka_unit_test(test_window_in_config_space),
		cmocka_unit_test(test_spoilt_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
