/*
 * vmm/cmos.c: the MC146818 clock and CMOS memory of a PC at ports 0x70 and
 * 0x71: this host's time in UTC, and how much memory there is.
 *
 * Only what a guest reads is there. The clock cannot be set, alarms and
 * interrupts do not happen; writes to anything but the index are ignored. The
 * ACPI tables do not list it, see boot_acpi.c.
 * Registers 0x00 to 0x0d are the MC146818 data sheet's, the sizes above are
 * where PC BIOSes put them (RBIL's cmos.lst).
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define CMOS_PORT  0x70
#define CMOS_PORTS 2
#define INDEX_MASK 0x7f /* bit 7 masks NMIs */

#define REG_A_32KHZ 0x26 /* oscillator on */
#define REG_A_UIP   0x80 /* update in progress */
#define REG_B_24H   0x02 /* BCD, 24 hours, no interrupts */
#define REG_D_VALID 0x80 /* the battery is good */

/*
 * UIP rises 244 us before an update, which takes 1984 us: who sees it clear has
 * at least that long to read all registers of one second.
 */
#define NS_PER_S  1000000000
#define UPDATE_NS ((244 + 1984) * 1000)

#define BASE_MEMORY_KIB 640
#define KIB             UINT64_C(1024)
#define MIB             (KIB * 1024)

struct cmos_state {
	uint8_t index;
};

struct cmos {
	struct vm_device device;
	struct cmos_state s;
};

static struct cmos *to_cmos(struct vm_device *d)
{
	return (struct cmos *)d;
}

static uint8_t bcd(int value)
{
	return (uint8_t)((value / 10 % 10) << 4 | value % 10);
}

static uint8_t read_status_a(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_nsec >= NS_PER_S - UPDATE_NS ? REG_A_32KHZ | REG_A_UIP
						   : REG_A_32KHZ;
}

static uint8_t read_clock(uint8_t index)
{
	struct timespec now;
	struct tm tm;

	/* time() may lag behind by a tick, and then UIP would lie. */
	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	switch (index) {
	case 0x00:
		return bcd(tm.tm_sec);
	case 0x02:
		return bcd(tm.tm_min);
	case 0x04:
		return bcd(tm.tm_hour);
	case 0x06:
		return bcd(tm.tm_wday + 1);
	case 0x07:
		return bcd(tm.tm_mday);
	case 0x08:
		return bcd(tm.tm_mon + 1);
	case 0x09:
		return bcd(tm.tm_year % 100);
	default:
		return bcd((tm.tm_year + 1900) / 100);
	}
}

/* RAM in [from, to) of guest physical space, in units, at most max of them. */
static uint64_t memory(struct vm *vm, uint64_t from, uint64_t to,
		       uint64_t unit_bytes, uint64_t max)
{
	const struct vm_slot *slots;
	size_t n = vm_mem_slots(vm_mem(vm), &slots), i;
	uint64_t start, end, bytes = 0;

	for (i = 0; i < n; i++) {
		start = slots[i].gpa > from ? slots[i].gpa : from;
		end = slots[i].gpa + slots[i].bytes;
		if (end > to)
			end = to;
		if (end > start)
			bytes += end - start;
	}
	return bytes / unit_bytes < max ? bytes / unit_bytes : max;
}

static uint8_t read_register(struct vm *vm, uint8_t index)
{
	uint64_t ext_kib = memory(vm, MIB, 64 * MIB, KIB, UINT16_MAX);
	uint64_t above_16m = memory(vm, 16 * MIB, VM_HIGH_RAM_GPA, 64 * KIB,
				    UINT16_MAX);
	uint64_t above_4g = memory(vm, VM_HIGH_RAM_GPA, UINT64_MAX, 64 * KIB,
				   0xffffff);

	switch (index) {
	case 0x00:
	case 0x02:
	case 0x04:
	case 0x06:
	case 0x07:
	case 0x08:
	case 0x09:
	case 0x32:
		return read_clock(index);
	case 0x0a:
		return read_status_a();
	case 0x0b:
		return REG_B_24H;
	case 0x0d:
		return REG_D_VALID;
	case 0x15:
	case 0x16:
		return (uint8_t)(BASE_MEMORY_KIB >> (index - 0x15) * 8);
	case 0x17:
	case 0x18:
		return (uint8_t)(ext_kib >> (index - 0x17) * 8);
	case 0x30:
	case 0x31:
		return (uint8_t)(ext_kib >> (index - 0x30) * 8);
	case 0x34:
	case 0x35:
		return (uint8_t)(above_16m >> (index - 0x34) * 8);
	case 0x5b:
	case 0x5c:
	case 0x5d:
		return (uint8_t)(above_4g >> (index - 0x5b) * 8);
	default:
		return 0;
	}
}

/* Port 0 is the index, which cannot be read back; port 1 the register. */
static void cmos_read(struct vm_device *d, unsigned int range, uint64_t offset,
		      uint8_t *data, unsigned int bytes)
{
	unsigned int i;

	(void)range;
	for (i = 0; i < bytes; i++)
		data[i] = offset + i == 1
				  ? read_register(d->vm, to_cmos(d)->s.index)
				  : 0xff;
}

static void cmos_write(struct vm_device *d, unsigned int range, uint64_t offset,
		       const uint8_t *data, unsigned int bytes)
{
	(void)range;
	(void)bytes;
	if (offset == 0)
		to_cmos(d)->s.index = data[0] & INDEX_MASK;
}

static void cmos_reset(struct vm_device *d)
{
	to_cmos(d)->s = (struct cmos_state){ 0 };
}

static const struct vm_field cmos_fields[] = {
	VM_FIELD(1, VM_FIELD_UINT, struct cmos_state, index),
};

static void cmos_save(struct vm_device *d, void *state)
{
	*(struct cmos_state *)state = to_cmos(d)->s;
}

static int cmos_load(struct vm_device *d, const void *state)
{
	const struct cmos_state *s = state;

	if (s->index & ~INDEX_MASK)
		return -EINVAL;
	to_cmos(d)->s = *s;
	return 0;
}

static void cmos_free(struct vm_device *d)
{
	free(to_cmos(d));
}

static const struct vm_device_ops cmos_ops = {
	.name = "cmos",
	.read = cmos_read,
	.write = cmos_write,
	.reset = cmos_reset,
	.fields = cmos_fields,
	.nr_fields = sizeof(cmos_fields) / sizeof(cmos_fields[0]),
	.state_bytes = sizeof(struct cmos_state),
	.save = cmos_save,
	.load = cmos_load,
	.free = cmos_free,
};

int vm_cmos_new(struct vm *vm, struct vm_device **ret_device)
{
	struct cmos *c = calloc(1, sizeof(*c));

	(void)vm;
	if (!c)
		return -ENOMEM;
	c->device.ops = &cmos_ops;
	c->device.ranges[0] = (struct vm_device_range){ VM_BUS_PIO, CMOS_PORT,
							CMOS_PORTS };
	c->device.nr_ranges = 1;
	*ret_device = &c->device;
	return 0;
}
