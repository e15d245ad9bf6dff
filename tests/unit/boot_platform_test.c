/*
 * The ACPI registers as Linux uses them: the power button and its interrupt, and
 * that neither is lost on the way to another machine.
 */
#include "vmm/device.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/vm_internal.h"

#define PM1_STATUS  ACPI_PM1_PORT
#define PM1_ENABLE  (ACPI_PM1_PORT + 2)
#define PM1_CONTROL (ACPI_PM1_PORT + 4)

static int sci;
static unsigned int nr_resets;

int __wrap_vm_irq_set(struct vm *vm, unsigned int gsi, int level);
void __wrap_vm_event_post(struct vm *vm, enum vm_event ev, const char *reason);

int __wrap_vm_irq_set(struct vm *vm, unsigned int gsi, int level)
{
	(void)vm;
	assert_int_equal(gsi, ACPI_SCI_GSI);
	sci = level;
	return 0;
}

void __wrap_vm_event_post(struct vm *vm, enum vm_event ev, const char *reason)
{
	(void)vm;
	(void)reason;
	assert_int_equal(ev, VM_EVENT_RESET);
	nr_resets++;
}

static struct vm_device *machine_init(struct vm *vm)
{
	struct vm_device *d;

	memset(vm, 0, sizeof(*vm));
	sci = 0;
	nr_resets = 0;
	assert_int_equal(vm_cmos_new(vm, &d), 0);
	assert_int_equal(vm_device_add(vm, d), 0);
	assert_int_equal(vm_platform_new(vm, &d), 0);
	assert_int_equal(vm_device_add(vm, d), 0);
	vm_bus_reset(vm);
	return d;
}

static void out16(struct vm *vm, uint16_t port, uint16_t value)
{
	uint8_t data[2] = { (uint8_t)value, (uint8_t)(value >> 8) };

	vm_bus_access(vm, VM_BUS_PIO, port, data, 2, true);
}

static uint16_t in16(struct vm *vm, uint16_t port)
{
	uint8_t data[2];

	vm_bus_access(vm, VM_BUS_PIO, port, data, 2, false);
	return (uint16_t)(data[0] | data[1] << 8);
}

static void test_button_interrupts_a_guest_that_listens(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm);
	out16(&vm, PM1_ENABLE, ACPI_PM1_PWRBTN);
	assert_int_equal(in16(&vm, PM1_ENABLE), ACPI_PM1_PWRBTN);
	assert_int_equal(sci, 0);
	assert_true(vm_power_button(&vm));
	assert_int_equal(sci, 1);
	assert_int_equal(in16(&vm, PM1_STATUS), ACPI_PM1_PWRBTN);
	out16(&vm, PM1_STATUS, (uint16_t)~ACPI_PM1_PWRBTN);
	assert_int_equal(sci, 1); /* only a one clears */
	out16(&vm, PM1_STATUS, ACPI_PM1_PWRBTN);
	assert_int_equal(in16(&vm, PM1_STATUS), 0);
	assert_int_equal(sci, 0);
	assert_true(vm_power_button(&vm));
	assert_int_equal(sci, 1);
	vm_bus_fini(&vm);
}

static void test_button_waits_for_a_guest_that_does_not(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm);
	assert_false(vm_power_button(&vm));
	assert_int_equal(sci, 0);
	out16(&vm, PM1_ENABLE, 0x0020); /* the global lock's */
	assert_int_equal(sci, 0);
	out16(&vm, PM1_ENABLE, ACPI_PM1_PWRBTN);
	assert_int_equal(sci, 1);
	out16(&vm, PM1_ENABLE, 0);
	assert_int_equal(sci, 0);
	out16(&vm, PM1_ENABLE, ACPI_PM1_PWRBTN);
	vm_bus_reset(&vm);
	assert_int_equal(sci, 0);
	assert_int_equal(in16(&vm, PM1_STATUS), 0);
	vm_bus_fini(&vm);
}

/* Pressed, moved before the guest has seen it, and seen there. */
static void test_button_moves_along(void **state)
{
	struct vm a, b;
	struct vm_device *from = machine_init(&a), *to;
	void *saved = calloc(1, from->ops->state_bytes);

	(void)state;
	assert_non_null(saved);
	out16(&a, PM1_ENABLE, ACPI_PM1_PWRBTN);
	vm_power_button(&a);
	from->ops->save(from, saved);
	vm_bus_fini(&a);

	to = machine_init(&b);
	assert_int_equal(to->ops->load(to, saved), 0);
	assert_int_equal(sci, 1);
	out16(&b, PM1_STATUS, ACPI_PM1_PWRBTN);
	assert_int_equal(sci, 0);
	to->ops->save(to, saved);
	sci = 1; /* whatever KVM had */
	assert_int_equal(to->ops->load(to, saved), 0);
	assert_int_equal(sci, 0);
	vm_bus_fini(&b);
	free(saved);
}

/* Any byte of a state set to 0xff: loaded or refused, never believed. */
static void test_hostile_state(void **state)
{
	struct vm vm;
	struct vm_device *d = machine_init(&vm);
	uint8_t *bad = calloc(1, d->ops->state_bytes);
	unsigned int nr_refused = 0;

	(void)state;
	assert_non_null(bad);
	for (size_t i = 0; i < d->ops->state_bytes; i++) {
		memset(bad, 0, d->ops->state_bytes);
		bad[i] = 0xff;
		if (d->ops->load(d, bad) < 0)
			nr_refused++;
		assert_int_equal(sci, 0);
		assert_int_equal(in16(&vm, PM1_STATUS), 0);
		assert_int_equal(in16(&vm, PM1_CONTROL) & 0x2000, 0);
	}
	assert_int_equal(nr_refused, 4); /* cf9, both of status, SLP_EN */
	vm_bus_fini(&vm);
	free(bad);
}

/* No firmware would ever set it: ACPICA looks before it goes on. */
static void test_sci_en_is_always_set(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm);
	assert_int_equal(in16(&vm, PM1_CONTROL), 0x0001);
	out16(&vm, PM1_CONTROL, 5 << 10);
	assert_int_equal(in16(&vm, PM1_CONTROL), 5 << 10 | 1);
	vm_bus_fini(&vm);
}

static void test_reset_control_without_its_port(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm);
	vm_platform_cf9_write(&vm, 0x02);
	assert_int_equal(vm_platform_cf9_read(&vm), 0x02);
	assert_int_equal(nr_resets, 0);
	vm_platform_cf9_write(&vm, ACPI_RESET_VALUE);
	assert_int_equal(nr_resets, 1);
	assert_int_equal(vm_platform_cf9_read(&vm), ACPI_RESET_VALUE);
	vm_bus_fini(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_button_interrupts_a_guest_that_listens),
		cmocka_unit_test(test_button_waits_for_a_guest_that_does_not),
		cmocka_unit_test(test_button_moves_along),
		cmocka_unit_test(test_hostile_state),
		cmocka_unit_test(test_sci_en_is_always_set),
		cmocka_unit_test(test_reset_control_without_its_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
