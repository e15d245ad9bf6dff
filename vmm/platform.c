/*
 * vmm/platform.c: the ways in which a guest resets itself or powers off, and the
 * button that asks it to.
 *
 *	0x0cf9		reset control: bit 2 going from 0 to 1 resets; the PCI host
 *			bridge has the port and passes it on
 *	0x0060, 0x0064	a keyboard controller with no keyboard: command 0xfe
 *			pulses the CPU's reset line; reads find it empty
 *	0x0600..0x0607	ACPI's PM1a (ACPI 6.3, 4.8.3.1 and 4.8.3.2): status at 0,
 *			enable at 2, control at 4. SLP_EN (bit 13) with SLP_TYP
 *			(bits 10 to 12) of 5 powers off, as \_S5 in dsdt.asl says.
 *			0 does too, because guests that were taught for QEMU's PCs
 *			write 0x2000 there.
 *
 * The only status that there is is the power button's. While it is set and
 * enabled the SCI is raised: a level, so that nothing is lost when the guest
 * enables it late or moves in between.
 *
 * Threads: registers on vCPU threads, vm_power_button() and the cf9 calls on any;
 * all under the device's lock.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/acpi.h"

enum { RANGE_KBD_DATA, RANGE_KBD, RANGE_PM1 };

#define CF9_RESET       0x04
#define CF9_BITS        0x0e
#define KBD_PULSE_RESET 0xfe

#define PM1_BYTES     8
#define PM1_STS_HI    1 /* where status and enable have the power button */
#define PM1_EN_HI     3
#define PWRBTN_HI     (ACPI_PM1_PWRBTN >> 8)
#define PM1_CNT_LO    ACPI_PM1_CNT_OFFSET
#define SCI_EN        0x01 /* reads as 1: there is no legacy mode (4.8.3.2.1) */
#define PM1_CNT_HI    (ACPI_PM1_CNT_OFFSET + 1)
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
	int sci_level; /* as last told to KVM */
};

static struct platform *to_platform(struct vm_device *d)
{
	return (struct platform *)d;
}

static void update_sci(struct platform *p)
{
	int level = (p->s.pm1[PM1_STS_HI] & p->s.pm1[PM1_EN_HI] & PWRBTN_HI) !=
		    0;

	if (level == p->sci_level)
		return;
	p->sci_level = level;
	vm_irq_set(p->device.vm, ACPI_SCI_GSI, level);
}

static uint8_t read_pm1(const struct platform_state *s, uint64_t reg)
{
	return reg == PM1_CNT_LO ? s->pm1[reg] | SCI_EN : s->pm1[reg];
}

static void platform_read(struct vm_device *d, unsigned int range,
			  uint64_t offset, uint8_t *data, unsigned int bytes)
{
	const struct platform_state *s = &to_platform(d)->s;
	unsigned int i;

	memset(data, 0, bytes);
	for (i = 0; range == RANGE_PM1 && i < bytes; i++)
		data[i] = read_pm1(s, offset + i);
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
	case RANGE_KBD:
		if (data[0] == KBD_PULSE_RESET)
			vm_event_post(d->vm, VM_EVENT_RESET, NULL);
		break;
	case RANGE_PM1:
		for (i = 0; i < bytes; i++)
			write_pm1(p, offset + i, data[i]);
		update_sci(p);
		break;
	default:
		break;
	}
}

static void platform_reset(struct vm_device *d)
{
	struct platform *p = to_platform(d);

	p->s = (struct platform_state){ 0 };
	update_sci(p);
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
	struct platform *p = to_platform(d);

	if ((s->cf9 & ~CF9_BITS) || (s->pm1[PM1_CNT_HI] & SLP_EN) ||
	    s->pm1[0] != 0 || (s->pm1[PM1_STS_HI] & ~PWRBTN_HI))
		return -EINVAL;
	p->s = *s;
	/* Always said: KVM's side of the line may be anything. */
	p->sci_level = -1;
	update_sci(p);
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
	p->device.ranges[RANGE_KBD_DATA] = (struct vm_device_range){ VM_BUS_PIO,
								     0x60, 1 };
	p->device.ranges[RANGE_KBD] = (struct vm_device_range){ VM_BUS_PIO,
								0x64, 1 };
	p->device.ranges[RANGE_PM1] = (struct vm_device_range){ VM_BUS_PIO,
								ACPI_PM1_PORT,
								PM1_BYTES };
	p->device.nr_ranges = 3;
	*ret_device = &p->device;
	return 0;
}

/* Every machine has one. */
static struct platform *platform_of(struct vm *vm)
{
	struct vm_device *const *devices;

	vm_devices(vm, &devices);
	while ((*devices)->ops != &platform_ops)
		devices++;
	return to_platform(*devices);
}

uint8_t vm_platform_cf9_read(struct vm *vm)
{
	struct platform *p = platform_of(vm);
	uint8_t value;

	pthread_mutex_lock(&p->device.lock);
	value = p->s.cf9;
	pthread_mutex_unlock(&p->device.lock);
	return value;
}

void vm_platform_cf9_write(struct vm *vm, uint8_t value)
{
	struct platform *p = platform_of(vm);

	pthread_mutex_lock(&p->device.lock);
	write_cf9(p, value);
	pthread_mutex_unlock(&p->device.lock);
}

bool vm_power_button(struct vm *vm)
{
	struct platform *p = platform_of(vm);
	bool heard;

	pthread_mutex_lock(&p->device.lock);
	p->s.pm1[PM1_STS_HI] |= PWRBTN_HI;
	update_sci(p);
	heard = p->sci_level == 1;
	pthread_mutex_unlock(&p->device.lock);
	return heard;
}
