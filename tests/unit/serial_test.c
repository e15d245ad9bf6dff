/*
 * The 16550 as a driver sees it, register by register, and the small devices
 * beside it: CMOS clock, reset, power-off. What they tell KVM and the machine
 * is caught by wrappers.
 */
#include "vmm/device.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/serial_reg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vmm/vm_internal.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct sink {
	uint8_t data[256];
	size_t bytes;
	size_t room; /* bytes that it will still take */
} sink;
static int irq_level;
static unsigned int nr_irq_edges;
static enum vm_event event;

int __wrap_vm_irq_set(struct vm *vm, unsigned int gsi, int level);
void __wrap_vm_event_post(struct vm *vm, enum vm_event ev, const char *reason);

int __wrap_vm_irq_set(struct vm *vm, unsigned int gsi, int level)
{
	(void)vm;
	assert_int_equal(gsi, 4);
	if (level && !irq_level)
		nr_irq_edges++;
	irq_level = level;
	return 0;
}

void __wrap_vm_event_post(struct vm *vm, enum vm_event ev, const char *reason)
{
	(void)vm;
	(void)reason;
	event = ev;
}

static size_t take_output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct sink *s = ctx;
	size_t n = bytes < s->room ? bytes : s->room;

	assert_true(n <= sizeof(s->data) - s->bytes);
	memcpy(s->data + s->bytes, data, n);
	s->bytes += n;
	s->room -= n;
	return n;
}

static const struct vm_ops ops = { .serial_output = take_output };

typedef int (*device_new)(struct vm *vm, struct vm_device **ret_device);

static void machine_init(struct vm *vm, device_new make, uint64_t ram_bytes)
{
	struct vm_device *d;

	memset(vm, 0, sizeof(*vm));
	vm->ops = &ops;
	vm->ctx = &sink;
	sink = (struct sink){ .room = SIZE_MAX };
	irq_level = 0;
	nr_irq_edges = 0;
	event = VM_EVENT_NONE;
	assert_int_equal(vm_mem_new(ram_bytes, VM_MEM_ANON, &vm->mem), 0);
	assert_int_equal(make(vm, &d), 0);
	assert_int_equal(vm_device_add(vm, d), 0);
	d->ops->reset(d);
	if (d->ops->start)
		d->ops->start(d);
	vm->serial = d;
}

static void machine_fini(struct vm *vm)
{
	vm_bus_fini(vm);
	vm_mem_free(vm->mem);
}

static void out(struct vm *vm, uint16_t port, uint8_t value)
{
	vm_bus_access(vm, VM_BUS_PIO, port, &value, 1, true);
}

static uint8_t in(struct vm *vm, uint16_t port)
{
	uint8_t value = 0;

	vm_bus_access(vm, VM_BUS_PIO, port, &value, 1, false);
	return value;
}

static void serial_out(struct vm *vm, unsigned int reg, uint8_t value)
{
	out(vm, (uint16_t)(0x3f8 + reg), value);
}

static uint8_t serial_in(struct vm *vm, unsigned int reg)
{
	return in(vm, (uint16_t)(0x3f8 + reg));
}

static void open_port(struct vm *vm, uint8_t ier)
{
	serial_out(vm, UART_FCR, UART_FCR_ENABLE_FIFO);
	serial_out(vm, UART_LCR, UART_LCR_WLEN8);
	serial_out(vm, UART_MCR, UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2);
	serial_out(vm, UART_IER, ier);
}

static size_t input(struct vm *vm, const char *text)
{
	return vm_serial_input(vm, (const uint8_t *)text, strlen(text));
}

/* Once it is at rest its state may have been saved: nothing goes in or out. */
static void test_at_rest_nothing_moves(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	open_port(&vm, 0);
	sink.room = 0;
	serial_out(&vm, UART_TX, 'x');
	vm.serial->ops->stop(vm.serial);
	sink.room = SIZE_MAX;
	vm_serial_output_ready(&vm);
	assert_int_equal(sink.bytes, 0);
	assert_int_equal(input(&vm, "a"), 0);
	vm.serial->ops->start(vm.serial); /* nobody says it again */
	assert_int_equal(sink.bytes, 1);
	assert_int_equal(input(&vm, "a"), 1);
	machine_fini(&vm);
}

/* The steps of Linux's autoconfig() and autoconfig_16550a(). */
static void test_linux_finds_a_16550a(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	serial_out(&vm, UART_IER, 0);
	assert_int_equal(serial_in(&vm, UART_IER) & 0x0f, 0);
	serial_out(&vm, UART_IER, 0x0f);
	assert_int_equal(serial_in(&vm, UART_IER) & 0x0f, 0x0f);
	serial_out(&vm, UART_IER, 0);
	serial_out(&vm, UART_MCR, UART_MCR_LOOP | 0x0a);
	assert_int_equal(serial_in(&vm, UART_MSR) & 0xf0, 0x90);
	serial_out(&vm, UART_MCR, 0);
	serial_out(&vm, UART_LCR, UART_LCR_CONF_MODE_B);
	serial_out(&vm, UART_FCR, 0); /* EFR of larger chips */
	serial_out(&vm, UART_LCR, 0);
	serial_out(&vm, UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc1);
	/* No 16750: its 64 byte FIFO bit does not stick. */
	serial_out(&vm, UART_LCR, UART_LCR_DLAB);
	serial_out(&vm, UART_FCR, UART_FCR_ENABLE_FIFO | 0x20);
	assert_int_equal(serial_in(&vm, UART_IIR) >> 5, 6);
	serial_out(&vm, UART_LCR, 0);
	serial_out(&vm, UART_SCR, 0xa5);
	assert_int_equal(serial_in(&vm, UART_SCR), 0xa5);
	/* No XScale: IER's bit 6 does not stick. */
	serial_out(&vm, UART_IER, 0x40);
	assert_int_equal(serial_in(&vm, UART_IER), 0);
	machine_fini(&vm);
}

static void test_divisor_latch_hides_data_and_ier(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	open_port(&vm, UART_IER_RDI);
	serial_out(&vm, UART_LCR, UART_LCR_DLAB | UART_LCR_WLEN8);
	serial_out(&vm, UART_DLL, 0x0c);
	serial_out(&vm, UART_DLM, 0x34);
	assert_int_equal(serial_in(&vm, UART_DLL), 0x0c);
	assert_int_equal(serial_in(&vm, UART_DLM), 0x34);
	serial_out(&vm, UART_LCR, UART_LCR_WLEN8);
	assert_int_equal(serial_in(&vm, UART_LCR), UART_LCR_WLEN8);
	assert_int_equal(serial_in(&vm, UART_IER), UART_IER_RDI);
	assert_int_equal(sink.bytes, 0);
	machine_fini(&vm);
}

static void test_output_reaches_the_sink_in_order(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	for (const char *p = "hello"; *p; p++) {
		assert_int_equal(serial_in(&vm, UART_LSR), 0x60);
		serial_out(&vm, UART_TX, (uint8_t)*p);
	}
	assert_int_equal(sink.bytes, 5);
	assert_memory_equal(sink.data, "hello", 5);
	assert_int_equal(nr_irq_edges, 0);
	machine_fini(&vm);
}

static void test_thre_interrupt(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	/* Enabling it over an empty transmitter raises it; reading IIR is the
	 * acknowledgement; enabling it again raises it again. */
	open_port(&vm, UART_IER_THRI);
	assert_int_equal(irq_level, 1);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc2);
	assert_int_equal(irq_level, 0);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc1);
	serial_out(&vm, UART_IER, 0);
	serial_out(&vm, UART_IER, UART_IER_THRI);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc2);
	/* Each burst gives one more. */
	serial_out(&vm, UART_TX, 'a');
	serial_out(&vm, UART_TX, 'b');
	assert_int_equal(nr_irq_edges, 3);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc2);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc1);
	machine_fini(&vm);
}

static void test_out2_and_loopback_gate_the_interrupt(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	serial_out(&vm, UART_IER, UART_IER_THRI);
	assert_int_equal(irq_level, 0);
	serial_out(&vm, UART_MCR, UART_MCR_OUT2);
	assert_int_equal(irq_level, 1);
	serial_out(&vm, UART_MCR, UART_MCR_OUT2 | UART_MCR_LOOP);
	assert_int_equal(irq_level, 0);
	machine_fini(&vm);
}

static void test_loopback(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	open_port(&vm, 0);
	serial_out(&vm, UART_MCR, UART_MCR_LOOP);
	serial_out(&vm, UART_TX, 'x');
	assert_int_equal(sink.bytes, 0);
	assert_int_equal(serial_in(&vm, UART_LSR) & UART_LSR_DR, UART_LSR_DR);
	assert_int_equal(serial_in(&vm, UART_RX), 'x');
	assert_int_equal(input(&vm, "cut off"), 0);
	for (int i = 0; i < 17; i++)
		serial_out(&vm, UART_TX, (uint8_t)i);
	assert_int_equal(serial_in(&vm, UART_LSR) & UART_LSR_OE, UART_LSR_OE);
	assert_int_equal(serial_in(&vm, UART_LSR) & UART_LSR_OE, 0);
	for (int i = 0; i < 16; i++)
		assert_int_equal(serial_in(&vm, UART_RX), i);
	assert_int_equal(serial_in(&vm, UART_LSR) & UART_LSR_DR, 0);
	machine_fini(&vm);
}

static void test_modem_lines_report_changes_once(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	assert_int_equal(serial_in(&vm, UART_MSR), 0xb0);
	open_port(&vm, UART_IER_MSI);
	serial_out(&vm, UART_MCR, UART_MCR_LOOP | UART_MCR_OUT1);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc0);
	assert_int_equal(serial_in(&vm, UART_MSR), 0x4b);
	serial_out(&vm, UART_MCR, UART_MCR_LOOP);
	assert_int_equal(serial_in(&vm, UART_MSR), UART_MSR_TERI);
	assert_int_equal(serial_in(&vm, UART_MSR), 0);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc1);
	machine_fini(&vm);
}

static void test_input_fills_the_fifo_and_no_more(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	/* Before the guest has turned the FIFO on there is one register. */
	assert_int_equal(input(&vm, "ab"), 1);
	assert_int_equal(serial_in(&vm, UART_RX), 'a');
	open_port(&vm, UART_IER_RDI);
	assert_int_equal(input(&vm, "0123456789abcdefXYZ"), 16);
	assert_int_equal(irq_level, 1);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc4);
	assert_int_equal(serial_in(&vm, UART_RX), '0');
	assert_int_equal(input(&vm, "gh"), 1);
	for (const char *p = "123456789abcdefg"; *p; p++) {
		assert_int_equal(irq_level, 1);
		assert_int_equal(serial_in(&vm, UART_RX), *p);
	}
	assert_int_equal(irq_level, 0);
	assert_int_equal(serial_in(&vm, UART_LSR), 0x60); /* no overrun */
	assert_int_equal(input(&vm, "zz"), 2);
	serial_out(&vm, UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	assert_int_equal(irq_level, 0);
	machine_fini(&vm);
}

/* Errors come before data, data before the transmitter, that before lines. */
static void test_interrupt_priorities(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	serial_out(&vm, UART_MCR, UART_MCR_LOOP);
	serial_out(&vm, UART_TX, 'a');
	serial_out(&vm, UART_TX, 'b'); /* overruns: no FIFO */
	serial_out(&vm, UART_IER, 0x0f);
	assert_int_equal(serial_in(&vm, UART_IIR), UART_IIR_RLSI);
	serial_in(&vm, UART_LSR);
	assert_int_equal(serial_in(&vm, UART_IIR), UART_IIR_RDI);
	assert_int_equal(serial_in(&vm, UART_RX), 'b');
	assert_int_equal(serial_in(&vm, UART_IIR), UART_IIR_THRI);
	assert_int_equal(serial_in(&vm, UART_IIR), UART_IIR_MSI);
	serial_in(&vm, UART_MSR);
	assert_int_equal(serial_in(&vm, UART_IIR), UART_IIR_NO_INT);
	machine_fini(&vm);
}

static void test_full_sink_keeps_the_transmitter_busy(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	open_port(&vm, UART_IER_THRI);
	serial_in(&vm, UART_IIR);
	sink.room = 2;
	for (const char *p = "0123456"; *p; p++)
		serial_out(&vm, UART_TX, (uint8_t)*p);
	assert_int_equal(sink.bytes, 2);
	assert_int_equal(serial_in(&vm, UART_LSR), 0);
	assert_int_equal(irq_level, 0);
	sink.room = 3; /* not enough: still busy */
	vm_serial_output_ready(&vm);
	assert_int_equal(serial_in(&vm, UART_LSR), 0);
	sink.room = SIZE_MAX;
	vm_serial_output_ready(&vm);
	assert_int_equal(serial_in(&vm, UART_LSR), 0x60);
	assert_int_equal(irq_level, 1);
	assert_int_equal(serial_in(&vm, UART_IIR), 0xc2);
	assert_int_equal(sink.bytes, 7);
	assert_memory_equal(sink.data, "0123456", 7);
	/* With nothing held it does nothing. */
	vm_serial_output_ready(&vm);
	assert_int_equal(irq_level, 0);
	machine_fini(&vm);
}

static void *saved_state(struct vm_device *d)
{
	void *state = calloc(1, d->ops->state_bytes);

	assert_non_null(state);
	d->ops->save(d, state);
	return state;
}

/* Half-read input, held output and a raised interrupt all come along. */
static void test_save_and_load(void **state)
{
	struct vm a, b;
	void *saved;

	(void)state;
	machine_init(&a, vm_serial_new, 2 * MIB);
	open_port(&a, UART_IER_RDI);
	serial_out(&a, UART_SCR, 0x77);
	assert_int_equal(input(&a, "typed"), 5);
	assert_int_equal(serial_in(&a, UART_RX), 't');
	sink.room = 0;
	serial_out(&a, UART_TX, 'h');
	serial_out(&a, UART_TX, 'e');
	saved = saved_state(a.serial);
	machine_fini(&a);

	machine_init(&b, vm_serial_new, 2 * MIB);
	assert_int_equal(b.serial->ops->load(b.serial, saved), 0);
	assert_int_equal(irq_level, 1);
	assert_int_equal(serial_in(&b, UART_SCR), 0x77);
	assert_int_equal(serial_in(&b, UART_LSR), UART_LSR_DR);
	for (const char *p = "yped"; *p; p++)
		assert_int_equal(serial_in(&b, UART_RX), *p);
	vm_serial_output_ready(&b);
	assert_int_equal(sink.bytes, 2);
	assert_memory_equal(sink.data, "he", 2);
	machine_fini(&b);
	free(saved);
}

/* Any byte of a state set to 0xff: loaded or refused, never believed. */
static void test_hostile_state(void **state)
{
	struct vm vm;
	const struct vm_device_ops *dev;
	uint8_t *good, *bad;
	unsigned int nr_refused = 0;

	(void)state;
	machine_init(&vm, vm_serial_new, 2 * MIB);
	open_port(&vm, 0);
	dev = vm.serial->ops;
	good = saved_state(vm.serial);
	for (size_t i = 0; i < dev->state_bytes; i++) {
		bad = saved_state(vm.serial);
		memcpy(bad, good, dev->state_bytes);
		bad[i] = 0xff;
		if (dev->load(vm.serial, bad) < 0)
			nr_refused++;
		for (unsigned int reg = 0; reg < 8; reg++)
			serial_in(&vm, reg);
		input(&vm, "0123456789abcdef0");
		vm_serial_output_ready(&vm);
		free(bad);
		assert_int_equal(dev->load(vm.serial, good), 0);
	}
	/* ier, fcr, mcr, errors, delta, thre_told, rx_bytes, tx_bytes */
	assert_int_equal(nr_refused, 8);
	machine_fini(&vm);
	free(good);
}

static void test_fields_cover_the_state(void **state)
{
	static const device_new all[] = { vm_serial_new, vm_cmos_new,
					  vm_platform_new };
	const struct vm_device_ops *dev;
	struct vm vm;
	size_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		machine_init(&vm, all[i], 2 * MIB);
		dev = vm.serial->ops;
		bytes = 0;
		for (size_t f = 0; f < dev->nr_fields; f++) {
			assert_int_equal(dev->fields[f].offset, bytes);
			assert_int_equal(dev->fields[f].id, f + 1);
			bytes += dev->fields[f].bytes;
		}
		assert_int_equal(bytes, dev->state_bytes);
		machine_fini(&vm);
	}
}

static uint8_t cmos(struct vm *vm, uint8_t index)
{
	out(vm, 0x70, index);
	return in(vm, 0x71);
}

static int from_bcd(uint8_t value)
{
	return (value >> 4) * 10 + (value & 0x0f);
}

static time_t cmos_time(struct vm *vm)
{
	struct tm tm = {
		.tm_sec = from_bcd(cmos(vm, 0x00)),
		.tm_min = from_bcd(cmos(vm, 0x02)),
		.tm_hour = from_bcd(cmos(vm, 0x04)),
		.tm_mday = from_bcd(cmos(vm, 0x07)),
		.tm_mon = from_bcd(cmos(vm, 0x08)) - 1,
		.tm_year = from_bcd(cmos(vm, 0x32)) * 100 +
			   from_bcd(cmos(vm, 0x09)) - 1900,
	};

	return timegm(&tm);
}

static time_t now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec;
}

static void test_cmos_tells_the_time(void **state)
{
	struct vm vm;
	time_t before, got;

	(void)state;
	machine_init(&vm, vm_cmos_new, 2 * MIB);
	assert_int_equal(cmos(&vm, 0x0a) & 0x7f, 0x26);
	assert_int_equal(cmos(&vm, 0x0b), 0x02);
	assert_int_equal(cmos(&vm, 0x0d), 0x80);
	do { /* a second that turned over meanwhile may tear it */
		before = now_s();
		got = cmos_time(&vm);
	} while (now_s() != before);
	assert_int_equal(got, before);
	machine_fini(&vm);
}

/* Within the last 2228 us of a second, and only there. */
static void test_cmos_warns_of_updates(void **state)
{
	struct timespec before, after;
	bool updating;
	struct vm vm;
	unsigned int nr_updates = 0;
	time_t begin;

	(void)state;
	machine_init(&vm, vm_cmos_new, 2 * MIB);
	clock_gettime(CLOCK_REALTIME, &after);
	begin = after.tv_sec;
	/* A busy host may let it sleep through one, but not through all. */
	while (after.tv_sec < begin + 2 ||
	       (nr_updates == 0 && after.tv_sec < begin + 60)) {
		clock_gettime(CLOCK_REALTIME, &before);
		updating = cmos(&vm, 0x0a) & 0x80;
		clock_gettime(CLOCK_REALTIME, &after);
		nr_updates += updating;
		if (before.tv_sec != after.tv_sec)
			continue; /* it may have been either */
		if (updating)
			assert_true(after.tv_nsec >= 1000000000 - 2228000);
		else
			assert_true(before.tv_nsec < 1000000000 - 2228000);
	}
	assert_true(nr_updates > 0);
	machine_fini(&vm);
}

static void test_cmos_tells_the_memory(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_cmos_new, 32 * MIB);
	assert_int_equal(cmos(&vm, 0x15) | cmos(&vm, 0x16) << 8, 640);
	assert_int_equal(cmos(&vm, 0x17) | cmos(&vm, 0x18) << 8, 31 * 1024);
	assert_int_equal(cmos(&vm, 0x34) | cmos(&vm, 0x35) << 8, 16 * 16);
	assert_int_equal(cmos(&vm, 0x5b), 0);
	machine_fini(&vm);
	machine_init(&vm, vm_cmos_new, 5 * GIB);
	assert_int_equal(cmos(&vm, 0x30) | cmos(&vm, 0x31) << 8, 63 * 1024);
	assert_int_equal(cmos(&vm, 0x34) | cmos(&vm, 0x35) << 8,
			 (3 * 1024 - 16) * 16);
	assert_int_equal(cmos(&vm, 0x5b) | cmos(&vm, 0x5c) << 8 |
				 cmos(&vm, 0x5d) << 16,
			 2 * 1024 * 16);
	machine_fini(&vm);
}

static void test_reset_ports(void **state)
{
	struct vm vm;

	(void)state;
	machine_init(&vm, vm_platform_new, 2 * MIB);
	assert_int_equal(in(&vm, 0x64), 0);
	out(&vm, 0x64, 0xaa);
	assert_int_equal(event, VM_EVENT_NONE);
	out(&vm, 0x64, 0xfe);
	assert_int_equal(event, VM_EVENT_RESET);
	event = VM_EVENT_NONE;
	vm_platform_cf9_write(&vm, 0x02);
	assert_int_equal(event, VM_EVENT_NONE);
	vm_platform_cf9_write(&vm, 0x06);
	assert_int_equal(event, VM_EVENT_RESET);
	event = VM_EVENT_NONE;
	vm_platform_cf9_write(&vm, 0x06); /* no rising edge */
	assert_int_equal(event, VM_EVENT_NONE);
	machine_fini(&vm);
}

static void power_off_with(uint16_t value, enum vm_event want)
{
	struct vm vm;
	uint8_t data[2] = { (uint8_t)value, (uint8_t)(value >> 8) };

	machine_init(&vm, vm_platform_new, 2 * MIB);
	vm_bus_access(&vm, VM_BUS_PIO, 0x604, data, 2, true);
	assert_int_equal(event, want);
	vm_bus_access(&vm, VM_BUS_PIO, 0x604, data, 2, false);
	assert_int_equal(data[1] & 0x20, 0); /* SLP_EN reads as 0 */
	machine_fini(&vm);
}

static void test_power_off(void **state)
{
	(void)state;
	power_off_with(1 << 13 | 5 << 10, VM_EVENT_POWEROFF);
	power_off_with(1 << 13, VM_EVENT_POWEROFF);
	power_off_with(5 << 10, VM_EVENT_NONE);
	power_off_with(1 << 13 | 1 << 10, VM_EVENT_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linux_finds_a_16550a),
		cmocka_unit_test(test_divisor_latch_hides_data_and_ier),
		cmocka_unit_test(test_output_reaches_the_sink_in_order),
		cmocka_unit_test(test_thre_interrupt),
		cmocka_unit_test(test_out2_and_loopback_gate_the_interrupt),
		cmocka_unit_test(test_loopback),
		cmocka_unit_test(test_modem_lines_report_changes_once),
		cmocka_unit_test(test_input_fills_the_fifo_and_no_more),
		cmocka_unit_test(test_at_rest_nothing_moves),
		cmocka_unit_test(test_interrupt_priorities),
		cmocka_unit_test(test_full_sink_keeps_the_transmitter_busy),
		cmocka_unit_test(test_save_and_load),
		cmocka_unit_test(test_hostile_state),
		cmocka_unit_test(test_fields_cover_the_state),
		cmocka_unit_test(test_cmos_tells_the_time),
		cmocka_unit_test(test_cmos_warns_of_updates),
		cmocka_unit_test(test_cmos_tells_the_memory),
		cmocka_unit_test(test_reset_ports),
		cmocka_unit_test(test_power_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
