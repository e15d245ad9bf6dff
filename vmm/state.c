/* vmm/state.c: the whole stopped machine as a struct vm_state, and back. */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int save_cpus(struct vm *vm, struct vm_state *s, char **err)
{
	s->cpus = calloc(vm->nr_cpus, sizeof(*s->cpus));
	if (!s->cpus)
		return vm_err(err, -ENOMEM, "out of memory");
	s->nr_cpus = vm->nr_cpus;
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		int ret = vm_cpu_save(&vm->cpus[i], &s->cpus[i], err);

		if (ret < 0)
			return ret;
	}
	return 0;
}

/* get or set; the state's own chip_id is not believed. */
static int irqchip_ioctl(struct vm *vm, unsigned long request,
			 struct kvm_irqchip *chip, uint32_t id)
{
	chip->chip_id = id;
	return vm_ioctl(vm->fd, request, chip);
}

static int save_irqchip(struct vm *vm, struct vm_state *s)
{
	int ret;

	ret = irqchip_ioctl(vm, KVM_GET_IRQCHIP, &s->pic_master,
			    KVM_IRQCHIP_PIC_MASTER);
	if (ret == 0)
		ret = irqchip_ioctl(vm, KVM_GET_IRQCHIP, &s->pic_slave,
				    KVM_IRQCHIP_PIC_SLAVE);
	if (ret == 0)
		ret = irqchip_ioctl(vm, KVM_GET_IRQCHIP, &s->ioapic,
				    KVM_IRQCHIP_IOAPIC);
	s->has_irqchip = ret == 0;
	return ret;
}

static int load_irqchip(struct vm *vm, const struct vm_state *s)
{
	struct kvm_irqchip master = s->pic_master, slave = s->pic_slave;
	struct kvm_irqchip ioapic = s->ioapic;
	int ret;

	ret = irqchip_ioctl(vm, KVM_SET_IRQCHIP, &master,
			    KVM_IRQCHIP_PIC_MASTER);
	if (ret == 0)
		ret = irqchip_ioctl(vm, KVM_SET_IRQCHIP, &slave,
				    KVM_IRQCHIP_PIC_SLAVE);
	if (ret == 0)
		ret = irqchip_ioctl(vm, KVM_SET_IRQCHIP, &ioapic,
				    KVM_IRQCHIP_IOAPIC);
	return ret;
}

int vm_state_save_chips(struct vm *vm, struct vm_state *ret_state, char **err)
{
	int ret = save_cpus(vm, ret_state, err);

	if (ret < 0)
		return ret;
	ret = save_irqchip(vm, ret_state);
	if (ret < 0)
		return vm_err(err, ret, "KVM_GET_IRQCHIP: %s", strerror(-ret));
	ret = vm_ioctl(vm->fd, KVM_GET_PIT2, &ret_state->pit);
	if (ret < 0)
		return vm_err(err, ret, "KVM_GET_PIT2: %s", strerror(-ret));
	ret_state->has_pit = true;
	return 0;
}

/*
 * LAPICs come before the IOAPIC: loading that one delivers what it still holds
 * to them, and a LAPIC loaded afterwards would forget it.
 */
static int load_chips(struct vm *vm, const struct vm_state *s, char **err)
{
	struct kvm_pit_state2 pit = s->pit;
	int ret;

	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		ret = vm_cpu_load(&vm->cpus[i], &s->cpus[i], err);
		if (ret < 0)
			return ret;
	}
	ret = load_irqchip(vm, s);
	if (ret < 0)
		return vm_err(err, ret, "KVM_SET_IRQCHIP: %s", strerror(-ret));
	ret = vm_ioctl(vm->fd, KVM_SET_PIT2, &pit);
	if (ret < 0)
		return vm_err(err, ret, "KVM_SET_PIT2: %s", strerror(-ret));
	return 0;
}

int vm_reset_cpus(struct vm *vm, char **err)
{
	return load_chips(vm, &vm->power_on, err);
}

static int save_devices(struct vm *vm, struct vm_state *s, char **err)
{
	s->devices = calloc(vm->nr_devices ? vm->nr_devices : 1,
			    sizeof(*s->devices));
	if (!s->devices)
		return vm_err(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < vm->nr_devices; i++) {
		struct vm_device *d = vm->devices[i];
		struct vm_device_state *ds = &s->devices[s->nr_devices];

		if (!d->ops->fields)
			continue;
		ds->data = calloc(1, d->ops->state_bytes);
		if (!ds->data)
			return vm_err(err, -ENOMEM, "out of memory");
		ds->name = d->ops->name;
		ds->fields = d->ops->fields;
		ds->nr_fields = d->ops->nr_fields;
		ds->bytes = d->ops->state_bytes;
		s->nr_devices++;
		pthread_mutex_lock(&d->lock);
		d->ops->save(d, ds->data);
		pthread_mutex_unlock(&d->lock);
	}
	return 0;
}

static void save_event(struct vm *vm, struct vm_state *s)
{
	pthread_mutex_lock(&vm->lock);
	s->pending_event = vm->event;
	if (vm->event != VM_EVENT_NONE)
		memcpy(s->pending_reason, vm->reason,
		       sizeof(s->pending_reason));
	pthread_mutex_unlock(&vm->lock);
}

int vm_state_save(struct vm *vm, struct vm_state *ret_state, char **err)
{
	struct vm_state s = { 0 };
	int ret;

	/* vCPUs that parked by themselves leave the devices running. */
	if (vm_is_running(vm) || vm_devices_run(vm))
		return vm_err(err, -EBUSY, "the guest is running");
	ret = vm_state_save_chips(vm, &s, err);
	if (ret < 0)
		goto fini;
	ret = vm_clock_save(vm, &s, err);
	if (ret < 0)
		goto fini;
	ret = save_devices(vm, &s, err);
	if (ret < 0)
		goto fini;
	save_event(vm, &s);
	*ret_state = s;
	return 0;
fini:
	vm_state_fini(&s);
	return ret;
}

static struct vm_device *find_device(struct vm *vm, const char *name)
{
	for (size_t i = 0; i < vm->nr_devices; i++) {
		if (strcmp(vm->devices[i]->ops->name, name) == 0)
			return vm->devices[i];
	}
	return NULL;
}

static int check_cpus(struct vm *vm, const struct vm_state *s, char **err)
{
	if (s->nr_cpus != vm->nr_cpus || !s->cpus)
		return vm_err(err, -EINVAL,
			      "state of %u vCPUs for a machine with %u",
			      s->nr_cpus, vm->nr_cpus);
	for (unsigned int i = 0; i < s->nr_cpus; i++) {
		const struct vm_cpu_state *c = &s->cpus[i];

		if (!c->xsave || c->xsave_bytes < sizeof(struct kvm_xsave) ||
		    c->xsave_bytes > VM_XSAVE_BYTES_MAX)
			return vm_err(err, -EINVAL,
				      "vCPU %u: XSAVE area of %u bytes", i,
				      c->xsave_bytes);
		if (c->nr_msrs > VM_MSRS_MAX || (c->nr_msrs && !c->msrs))
			return vm_err(err, -EINVAL, "vCPU %u: %u MSRs", i,
				      c->nr_msrs);
		if (c->tsc_khz != vm->tsc_khz)
			return vm_err(err, -EINVAL,
				      "vCPU %u: TSC of %u kHz for a machine "
				      "with %u kHz",
				      i, c->tsc_khz, vm->tsc_khz);
	}
	return 0;
}

static int check_devices(struct vm *vm, const struct vm_state *s, char **err)
{
	if (s->nr_devices > VM_DEVICES_MAX)
		return vm_err(err, -EINVAL, "state of %zu devices",
			      s->nr_devices);
	for (size_t i = 0; i < s->nr_devices; i++) {
		const struct vm_device_state *ds = &s->devices[i];
		struct vm_device *d = find_device(vm, ds->name);

		if (!d)
			return vm_err(err, -EINVAL,
				      "state of a device %s, which this "
				      "machine has not",
				      ds->name);
		if (!d->ops->fields || ds->bytes != d->ops->state_bytes)
			return vm_err(err, -EINVAL,
				      "device %s: state of %zu bytes, not %zu",
				      ds->name, ds->bytes, d->ops->state_bytes);
	}
	return 0;
}

static int check(struct vm *vm, const struct vm_state *s, uint64_t elapsed_ns,
		 char **err)
{
	int ret;

	if (vm_is_running(vm))
		return vm_err(err, -EBUSY, "the guest is running");
	if (!s->has_irqchip || !s->has_pit)
		return vm_err(err, -EINVAL,
			      "state without interrupt controller or PIT");
	if ((unsigned int)s->pending_event >= VM_NR_EVENTS)
		return vm_err(err, -EINVAL, "unknown pending event %u",
			      (unsigned int)s->pending_event);
	if (elapsed_ns > UINT64_MAX - s->clock_ns)
		return vm_err(err, -EINVAL, "guest clock out of range");
	ret = check_cpus(vm, s, err);
	return ret < 0 ? ret : check_devices(vm, s, err);
}

/*
 * After the interrupt controllers: a device that has its line up says so to
 * them again, since KVM does not save the levels of lines.
 */
static int load_devices(struct vm *vm, const struct vm_state *s, char **err)
{
	for (size_t i = 0; i < s->nr_devices; i++) {
		const struct vm_device_state *ds = &s->devices[i];
		struct vm_device *d = find_device(vm, ds->name);
		int ret;

		pthread_mutex_lock(&d->lock);
		ret = d->ops->load(d, ds->data);
		pthread_mutex_unlock(&d->lock);
		if (ret < 0)
			return vm_err(err, ret, "device %s: bad state: %s",
				      ds->name, strerror(-ret));
	}
	return 0;
}

static void load_event(struct vm *vm, const struct vm_state *s)
{
	pthread_mutex_lock(&vm->lock);
	vm->event = s->pending_event;
	vm->ended = s->pending_event != VM_EVENT_NONE;
	snprintf(vm->reason, sizeof(vm->reason), "%.*s",
		 (int)sizeof(vm->reason) - 1, s->pending_reason);
	pthread_mutex_unlock(&vm->lock);
}

/*
 * Tells the guest that it was stopped, so that its watchdogs forgive the gap.
 * EINVAL from a guest that has no kvmclock.
 */
static void tell_stopped(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nr_cpus; i++)
		vm_ioctl_num(vm->cpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
}

int vm_state_load(struct vm *vm, const struct vm_state *state,
		  uint64_t elapsed_ns, char **err)
{
	int ret = check(vm, state, elapsed_ns, err);

	if (ret < 0)
		return ret;
	/* LAPIC timers are started by the TSC, so time comes first. */
	ret = vm_clock_load(vm, state, elapsed_ns, err);
	if (ret < 0)
		return ret;
	ret = load_chips(vm, state, err);
	if (ret < 0)
		return ret;
	ret = load_devices(vm, state, err);
	if (ret < 0)
		return ret;
	load_event(vm, state);
	tell_stopped(vm);
	return 0;
}

void vm_state_fini(struct vm_state *s)
{
	for (unsigned int i = 0; s->cpus && i < s->nr_cpus; i++)
		vm_cpu_state_fini(&s->cpus[i]);
	free(s->cpus);
	for (size_t i = 0; s->devices && i < s->nr_devices; i++)
		free(s->devices[i].data);
	free(s->devices);
	memset(s, 0, sizeof(*s));
}
