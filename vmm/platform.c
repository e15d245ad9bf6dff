/*
 * vmm/platform.c: the ways in which a guest resets itself or powers off.
 *
 *	0x0cf9		reset control: bit 2 going from 0 to 1 resets
 *	0x0060, 0x0064	a keyboard controller with no keyboard: command 0xfe
 *			pulses the CPU's reset line; reads find it empty
 *	0x0600..0x0607	ACPI's PM1a: status at 0, enable at 2, control at 4.
 *			SLP_EN (bit 13) with SLP_TYP (bits 10 to 12) of 5 powers
 *			off: what our \_S5 would say. 0 does too, because guests
 *			that were taught for QEMU's PCs write 0x2000 there.
 *
 * There are no ACPI tables: Linux finds the resets by itself, but of power-off it
 * knows nothing and halts.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RANGE_CF9, RANGE_KBD_DATA, RANGE_KBD, RANGE_PM1 };

#define CF9_RESET       0x04
#define CF9_BITS        0x0e
#define KBD_PULSE_RESET 0xfe

#define PM1_BYTES     8
#define PM1_CNT_HI    5    /* high byte of PM1_CNT */
#define SLP_EN        0x20 /* its bit 13: reads as 0 */
#define SLP_TYP_SHIFT 2
#define SLP_TYP_MASK  7
#define SLP_TYP_S5    5
#define SLP_TYP_QEMU  0

struct platform_state {
	uint8_t cf9;
	uint8_t pm1[PM1_BYTES];
};

struct platform {
	struct vm_device device;
	struct platform_state s;
};

static struct platform *to_platform(struct vm_device *d)
{
	return (struct platform *)d;
}

static void platform_read(struct vm_device *d, unsigned int range,
			  uint64_t offset, uint8_t *data, unsigned int bytes)
{
	const struct platform_state *s = &to_platform(d)->s;

	memset(data, 0, bytes);
	if (range == RANGE_CF9)
		data[0] = s->cf9;
	else if (range == RANGE_PM1)
		memcpy(data, s->pm1 + offset, bytes);
}

static void write_cf9(struct platform *p, uint8_t value)
{
	bool rising = (value & CF9_RESET) && !(p->s.cf9 & CF9_RESET);

	p->s.cf9 = value & CF9_BITS;
	if (rising)
		vm_event_post(p->device.vm, VM_EVENT_RESET, NULL);
}

static void write_pm1(struct platform *p, uint64_t reg, uint8_t value)
{
	uint8_t type = (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK;

	switch (reg) {
	case 0:
	case 1:
		p->s.pm1[reg] &= (uint8_t)~value; /* status: 1 clears */
		break;
	case PM1_CNT_HI:
		p->s.pm1[reg] = value & (uint8_t)~SLP_EN;
		if ((value & SLP_EN) &&
		    (type == SLP_TYP_S5 || type == SLP_TYP_QEMU))
			vm_event_post(p->device.vm, VM_EVENT_POWEROFF, NULL);
		break;
	default:
		p->s.pm1[reg] = value;
		break;
	}
}

static void platform_write(struct vm_device *d, unsigned int range,
			   uint64_t offset, const uint8_t *data,
			   unsigned int bytes)
{
	struct platform *p = to_platform(d);
	unsigned int i;

	switch (range) {
	case RANGE_CF9:
		write_cf9(p, data[0]);
		break;
	case RANGE_KBD:
		if (data[0] == KBD_PULSE_RESET)
			vm_event_post(d->vm, VM_EVENT_RESET, NULL);
		break;
	case RANGE_PM1:
		for (i = 0; i < bytes; i++)
			write_pm1(p, offset + i, data[i]);
		break;
	default:
		break;
	}
}

static void platform_reset(struct vm_device *d)
{
	to_platform(d)->s = (struct platform_state){ 0 };
}

static const struct vm_field platform_fields[] = {
	VM_FIELD(1, VM_FIELD_UINT, struct platform_state, cf9),
	VM_FIELD(2, VM_FIELD_BYTES, struct platform_state, pm1),
};

static void platform_save(struct vm_device *d, void *state)
{
	*(struct platform_state *)state = to_platform(d)->s;
}

static int platform_load(struct vm_device *d, const void *state)
{
	const struct platform_state *s = state;

	if ((s->cf9 & ~CF9_BITS) || (s->pm1[PM1_CNT_HI] & SLP_EN))
		return -EINVAL;
	to_platform(d)->s = *s;
	return 0;
}

static void platform_free(struct vm_device *d)
{
	free(to_platform(d));
}

static const struct vm_device_ops platform_ops = {
	.name = "platform",
	.read = platform_read,
	.write = platform_write,
	.reset = platform_reset,
	.fields = platform_fields,
	.nr_fields = sizeof(platform_fields) / sizeof(platform_fields[0]),
	.state_bytes = sizeof(struct platform_state),
	.save = platform_save,
	.load = platform_load,
	.free = platform_free,
};

int vm_platform_new(struct vm *vm, struct vm_device **ret_device)
{
	struct platform *p = calloc(1, sizeof(*p));

	(void)vm;
	if (!p)
		return -ENOMEM;
	p->device.ops = &platform_ops;
	p->device.ranges[RANGE_CF9] = (struct vm_device_range){ VM_BUS_PIO,
								0xcf9, 1 };
	p->device.ranges[RANGE_KBD_DATA] = (struct vm_device_range){ VM_BUS_PIO,
								     0x60, 1 };
	p->device.ranges[RANGE_KBD] = (struct vm_device_range){ VM_BUS_PIO,
								0x64, 1 };
	p->device.ranges[RANGE_PM1] =
		(struct vm_device_range){ VM_BUS_PIO, 0x600, PM1_BYTES };
	p->device.nr_ranges = 4;
	*ret_device = &p->device;
	return 0;
}
