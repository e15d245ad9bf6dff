/* The PCI bus as a guest sees it: configuration, BARs, MSI-X. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "pci_fixture.h"

#define MIB     (UINT64_C(1) << 20)
#define SLOT    1
#define BAR0    PCI_BASE_ADDRESS_0
#define BAR1    PCI_BASE_ADDRESS_1
#define ENABLE  (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
#define VECTORS 2

/* A machine with an rng: two BARs, two vectors. */
static struct vm *new_machine(struct virtio_device **ret_device)
{
	struct vm *vm = pci_machine(16 * MIB);

	assert_int_equal(virtio_rng_new(vm, ret_device, NULL), 0);
	assert_int_equal(vm_pci_add(vm, &(*ret_device)->pci), 0);
	assert_int_equal((*ret_device)->pci.slot, SLOT);
	assert_int_equal(fake_kvm.nr_irqfds, VECTORS);
	vm_bus_reset(vm);
	return vm;
}

static uint64_t enable_bar(struct vm *vm, unsigned int bar)
{
	pci_cfg_write(vm, SLOT, PCI_COMMAND, 2, ENABLE);
	return pci_cfg_read(vm, SLOT, bar, 4);
}

static void test_mechanism_1(void **state)
{
	struct virtio_device *v;
	struct vm *vm = new_machine(&v);

	(void)state;
	/* How Linux finds out whether there is any (pci_check_type1). */
	pci_out(vm, 0xcf8, 4, 0x80000004);
	pci_out(vm, 0xcfb, 1, 0x01);
	assert_int_equal(pci_in(vm, 0xcf8, 4), 0x80000004);
	pci_out(vm, 0xcf8, 2, 0xffff);
	pci_out(vm, 0xcfa, 2, 0xffff);
	assert_int_equal(pci_in(vm, 0xcf8, 4), 0x80000004);
	assert_int_equal(pci_in(vm, 0xcf8, 2), 0xffff);
	/* Reserved bits read as 0. */
	pci_out(vm, 0xcf8, 4, 0xffffffff);
	assert_int_equal(pci_in(vm, 0xcf8, 4), 0x80fffffc);
	/* Every size and place within a register. */
	assert_int_equal(pci_cfg_read(vm, SLOT, 0, 4), 0x10441af4);
	assert_int_equal(pci_cfg_read(vm, SLOT, 2, 2), 0x1044);
	assert_int_equal(pci_cfg_read(vm, SLOT, 1, 2), 0x441a);
	assert_int_equal(pci_cfg_read(vm, SLOT, 3, 1), 0x10);
	/* Not enabled, another bus, another function, an empty slot. */
	pci_out(vm, 0xcf8, 4, SLOT << 11);
	assert_int_equal(pci_in(vm, 0xcfc, 4), 0xffffffff);
	pci_out(vm, 0xcf8, 4, 0x80010000 | SLOT << 11);
	assert_int_equal(pci_in(vm, 0xcfc, 4), 0xffffffff);
	pci_out(vm, 0xcf8, 4, 0x80000100 | SLOT << 11);
	assert_int_equal(pci_in(vm, 0xcfc, 4), 0xffffffff);
	assert_int_equal(pci_cfg_read(vm, SLOT + 1, 0, 4), 0xffffffff);
	vdrv_machine_free(vm);
}

static void test_host_bridge_only_reads(void **state)
{
	struct virtio_device *v;
	struct vm *vm = new_machine(&v);

	(void)state;
	assert_int_equal(pci_cfg_read(vm, 0, PCI_CLASS_DEVICE, 2), 0x0600);
	for (unsigned int reg = 0; reg < VM_PCI_CONFIG_BYTES; reg += 4) {
		uint32_t before = pci_cfg_read(vm, 0, reg, 4);

		pci_cfg_write(vm, 0, reg, 4, ~before);
		assert_int_equal(pci_cfg_read(vm, 0, reg, 4), before);
	}
	vdrv_machine_free(vm);
}

static void test_bar_sizing(void **state)
{
	struct virtio_device *v;
	struct vm *vm = new_machine(&v);
	uint32_t bar0 = pci_cfg_read(vm, SLOT, BAR0, 4);

	(void)state;
	assert_int_equal(bar0, VM_PCI_MMIO_GPA);
	assert_int_equal(pci_cfg_read(vm, SLOT, BAR1, 4), bar0 + 0x4000);
	pci_cfg_write(vm, SLOT, BAR0, 4, 0xffffffff);
	assert_int_equal(pci_cfg_read(vm, SLOT, BAR0, 4), 0xffffc000);
	pci_cfg_write(vm, SLOT, BAR1, 4, 0xffffffff);
	assert_int_equal(pci_cfg_read(vm, SLOT, BAR1, 4), 0xfffff000);
	pci_cfg_write(vm, SLOT, PCI_BASE_ADDRESS_2, 4, 0xffffffff);
	assert_int_equal(pci_cfg_read(vm, SLOT, PCI_BASE_ADDRESS_2, 4), 0);
	pci_cfg_write(vm, SLOT, PCI_ROM_ADDRESS, 4, 0xffffffff);
	assert_int_equal(pci_cfg_read(vm, SLOT, PCI_ROM_ADDRESS, 4), 0);
	vm_bus_reset(vm);
	assert_int_equal(pci_cfg_read(vm, SLOT, BAR0, 4), bar0);
	vdrv_machine_free(vm);
}

static void test_bars_answer_where_they_are(void **state)
{
	const uint64_t notify = 0x3000, num_queues = 0x12;
	const uint64_t other = VM_PCI_MMIO_GPA + 0x1000000;
	struct virtio_device *v;
	struct vm *vm = new_machine(&v);
	uint64_t gpa = pci_cfg_read(vm, SLOT, BAR0, 4);

	(void)state;
	assert_int_equal(pci_mmio_read(vm, gpa + num_queues, 2), 0xffff);
	assert_int_equal(fake_kvm.nr_doorbells, 0);
	enable_bar(vm, BAR0);
	assert_int_equal(pci_mmio_read(vm, gpa + num_queues, 2), 1);
	assert_true(pci_has_doorbell(gpa + notify));
	/* Moved while it is enabled. */
	pci_cfg_write(vm, SLOT, BAR0, 4, (uint32_t)other);
	assert_int_equal(pci_mmio_read(vm, gpa + num_queues, 2), 0xffff);
	assert_int_equal(pci_mmio_read(vm, other + num_queues, 2), 1);
	assert_int_equal(fake_kvm.nr_doorbells, 1);
	assert_true(pci_has_doorbell(other + notify));
	/* Over RAM, and half out of the window: nowhere. */
	pci_cfg_write(vm, SLOT, BAR0, 4, 0x100000);
	assert_int_equal(fake_kvm.nr_doorbells, 0);
	pci_cfg_write(vm, SLOT, BAR0, 4, 0xfee00000);
	assert_int_equal(fake_kvm.nr_doorbells, 0);
	/* The last place in the window; the access that sticks out is nobody's. */
	pci_cfg_write(vm, SLOT, BAR0, 4,
		      VM_PCI_MMIO_GPA + VM_PCI_MMIO_BYTES - 0x4000);
	assert_int_equal(fake_kvm.nr_doorbells, 1);
	pci_cfg_write(vm, SLOT, PCI_COMMAND, 2, 0);
	assert_int_equal(fake_kvm.nr_doorbells, 0);
	assert_int_equal(fake_kvm.nr_errors, 0);
	vdrv_machine_free(vm);
}

/* Message control of the function; the rest of the register only reads. */
static void set_control(struct vm *vm, struct virtio_device *v, uint16_t value)
{
	pci_cfg_write(vm, SLOT, v->pci.msix.cap + PCI_MSIX_FLAGS, 2, value);
}

static void set_vector(struct vm *vm, uint64_t msix, unsigned int vector,
		       uint32_t data, uint32_t control)
{
	uint64_t at = msix + (uint64_t)PCI_MSIX_ENTRY_SIZE * vector;

	pci_mmio_write(vm, at + PCI_MSIX_ENTRY_LOWER_ADDR, 4, 0xfee00000);
	pci_mmio_write(vm, at + PCI_MSIX_ENTRY_UPPER_ADDR, 4, 0);
	pci_mmio_write(vm, at + PCI_MSIX_ENTRY_DATA, 4, data);
	pci_mmio_write(vm, at + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, control);
}

static uint64_t raised(struct virtio_device *v, unsigned int vector)
{
	struct vdrv d = { .dev = v };

	return vdrv_interrupts(&d, vector);
}

static void test_msix_masks_and_keeps(void **state)
{
	struct virtio_device *v;
	struct vm *vm = new_machine(&v);
	unsigned int gsi = v->pci.msix.first_gsi;
	uint64_t msix, pba;

	(void)state;
	enable_bar(vm, BAR0);
	msix = pci_cfg_read(vm, SLOT, BAR1, 4);
	pba = msix + 2048;
	assert_true(gsi >= 24);
	/* Disabled, then masked as a whole, then by itself: pending. */
	vm_pci_msix_raise(&v->pci, 1);
	assert_int_equal(pci_mmio_read(vm, pba, 8), 2);
	set_vector(vm, msix, 1, 0x4041, 0);
	assert_int_equal(fake_kvm.nr_tables, 0);
	set_control(vm, v, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	assert_int_equal(raised(v, 1), 0);
	set_vector(vm, msix, 1, 0x4041, 1);
	set_control(vm, v, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(raised(v, 1), 0);
	assert_int_equal(pci_mmio_read(vm, pba, 4), 2);
	/* Unmasked: KVM hears of the message, and it is sent. */
	set_vector(vm, msix, 1, 0x4042, 0);
	assert_int_equal(raised(v, 1), 1);
	assert_int_equal(pci_mmio_read(vm, pba, 4), 0);
	assert_int_equal(pci_route(gsi + 1)->data, 0x4042);
	assert_int_equal(pci_route(gsi + 1)->address_lo, 0xfee00000);
	assert_int_equal(fake_kvm.routes[0].type, KVM_IRQ_ROUTING_IRQCHIP);
	assert_int_equal(fake_kvm.nr_routes, 40 + VECTORS);
	vm_pci_msix_raise(&v->pci, 1);
	assert_int_equal(raised(v, 1), 1);
	/* Vectors that are not there. */
	vm_pci_msix_raise(&v->pci, VECTORS);
	vm_pci_msix_raise(&v->pci, VIRTIO_NO_VECTOR);
	vdrv_machine_free(vm);
}

static void test_msix_table_access(void **state)
{
	struct virtio_device *v;
	struct vm *vm = new_machine(&v);
	uint64_t msix;

	(void)state;
	enable_bar(vm, BAR0);
	msix = pci_cfg_read(vm, SLOT, BAR1, 4);
	assert_int_equal(pci_mmio_read(vm, msix + 12, 4), 1); /* masked */
	pci_mmio_write(vm, msix, 8, UINT64_C(0x12345678fee00003));
	assert_int_equal(pci_mmio_read(vm, msix, 8),
			 UINT64_C(0x12345678fee00000));
	pci_mmio_write(vm, msix + 8, 8, UINT64_C(0xffffffff00004041));
	assert_int_equal(pci_mmio_read(vm, msix + 8, 8),
			 UINT64_C(0x0000000100004041));
	/* Improper ones find zeros and change nothing. */
	pci_mmio_write(vm, msix, 2, 0xffff);
	pci_mmio_write(vm, msix + 2, 4, 0xffffffff);
	assert_int_equal(pci_mmio_read(vm, msix + 1, 1), 0);
	assert_int_equal(pci_mmio_read(vm, msix + 4, 8), 0);
	assert_int_equal(pci_mmio_read(vm, msix, 4), 0xfee00000);
	/* Beyond the vectors, pending bits, the end of the BAR. */
	pci_mmio_write(vm, msix + (uint64_t)16 * VECTORS, 4, 0xffffffff);
	pci_mmio_write(vm, msix + 2048, 4, 0xffffffff);
	assert_int_equal(pci_mmio_read(vm, msix + (uint64_t)16 * VECTORS, 4),
			 0);
	assert_int_equal(pci_mmio_read(vm, msix + 2048, 4), 0);
	assert_int_equal(pci_mmio_read(vm, msix + 4092, 4), 0);
	assert_int_equal(pci_mmio_read(vm, msix + 4094, 4), 0xffffffff);
	vdrv_machine_free(vm);
}

/* What the guest set goes along; what it could not have set is refused. */
static void test_state(void **state)
{
	struct virtio_device *a, *b;
	struct vm *from = new_machine(&a), *to;
	struct vm_pci_state s = { 0 }, bad;
	unsigned int i;

	(void)state;
	enable_bar(from, BAR0);
	pci_cfg_write(from, SLOT, BAR0, 4, 0xd0100000);
	set_vector(from, pci_cfg_read(from, SLOT, BAR1, 4), 0, 0x4051, 0);
	vm_pci_msix_raise(&a->pci, 0);
	set_control(from, a, PCI_MSIX_FLAGS_ENABLE);
	vm_pci_msix_raise(&a->pci, 1);
	vm_pci_save(&a->pci, &s);
	vdrv_machine_free(from);

	to = new_machine(&b);
	for (i = 0; i < VM_PCI_CONFIG_BYTES; i++) {
		bad = s;
		bad.config[i] ^= (uint8_t)~b->pci.write_mask[i];
		if (b->pci.write_mask[i] != 0xff)
			assert_int_equal(vm_pci_check(&b->pci, &bad), -EINVAL);
	}
	bad = s;
	bad.msix_control[1] = 2;
	assert_int_equal(vm_pci_check(&b->pci, &bad), -EINVAL);
	bad = s;
	bad.msix_pending[0] = 2;
	assert_int_equal(vm_pci_check(&b->pci, &bad), -EINVAL);
	bad = s;
	bad.msix_address[0] |= 1;
	assert_int_equal(vm_pci_check(&b->pci, &bad), -EINVAL);
	assert_int_equal(vm_pci_check(&b->pci, &s), 0);
	vm_pci_load(&b->pci, &s);
	assert_true(pci_has_doorbell(0xd0103000));
	assert_int_equal(pci_route(b->pci.msix.first_gsi)->data, 0x4051);
	assert_int_equal(raised(b, 0), 0);
	/* Masked and pending over there as here. */
	set_vector(to, pci_cfg_read(to, SLOT, BAR1, 4), 1, 0x4052, 0);
	assert_int_equal(raised(b, 1), 1);
	vdrv_machine_free(to);
}

static void idle_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	(void)v;
	(void)q;
}

static void idle_free(struct virtio_device *v)
{
	free(v);
}

static const struct virtio_ops idle_ops = {
	.name = "virtio-idle",
	.type = 42,
	.kicked = idle_kicked,
	.free = idle_free,
};

static struct virtio_device *new_idle(struct vm *vm, unsigned int index)
{
	struct virtio_device *v = calloc(1, sizeof(*v));

	assert_non_null(v);
	assert_int_equal(
		virtio_device_init(v, &idle_ops, vm, index, 1, 8, 0, 0), 0);
	return v;
}

static void test_slots_run_out(void **state)
{
	struct vm *vm = pci_machine(16 * MIB);
	struct virtio_device *v;

	(void)state;
	for (unsigned int i = 1; i < VM_PCI_SLOTS; i++)
		assert_int_equal(vm_pci_add(vm, &new_idle(vm, i)->pci), 0);
	v = new_idle(vm, VM_PCI_SLOTS);
	assert_int_equal(vm_pci_add(vm, &v->pci), -ENOSPC);
	v->device_ops.free(&v->pci.device);
	vdrv_machine_free(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mechanism_1),
		cmocka_unit_test(test_host_bridge_only_reads),
		cmocka_unit_test(test_bar_sizing),
		cmocka_unit_test(test_bars_answer_where_they_are),
		cmocka_unit_test(test_msix_masks_and_keeps),
		cmocka_unit_test(test_msix_table_access),
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_slots_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
