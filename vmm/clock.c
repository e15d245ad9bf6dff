/*
 * vmm/clock.c: guest time: kvmclock and every vCPU's TSC at one instant.
 *
 * The method is that of Linux Documentation/virt/kvm/devices/vcpu.rst, section
 * "KVM_VCPU_TSC_OFFSET": all vCPUs' TSCs are taken at, and set for, the host
 * TSC that belongs to the reading of kvmclock, so that TSCs that were equal stay
 * equal to the cycle. Where KVM has no such attribute the TSC MSR does.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#define MSR_IA32_TSC 0x10

struct instant {
	uint64_t clock_ns;
	uint64_t realtime_ns;
	uint64_t host_tsc;
};

static int clock_now(struct vm *vm, struct instant *ret)
{
	struct kvm_clock_data data = { 0 };
	struct timespec ts;
	int err = vm_ioctl(vm->fd, KVM_GET_CLOCK, &data);

	if (err < 0)
		return err;
	/* KVM pairs them when the host's TSC is its clock; else at once. */
	ret->host_tsc = data.flags & KVM_CLOCK_HOST_TSC ? data.host_tsc
							: __rdtsc();
	ret->realtime_ns = data.realtime;
	if (!(data.flags & KVM_CLOCK_REALTIME)) {
		clock_gettime(CLOCK_REALTIME, &ts);
		ret->realtime_ns = (uint64_t)ts.tv_sec * 1000000000 +
				   (uint64_t)ts.tv_nsec;
	}
	ret->clock_ns = data.clock;
	return 0;
}

static int tsc_msr(struct vm_cpu *c, unsigned long request, uint64_t *tsc)
{
	union {
		uint8_t room[sizeof(struct kvm_msrs) +
			     sizeof(struct kvm_msr_entry)];
		struct kvm_msrs m;
	} msr = { .room = { 0 } };
	int ret;

	msr.m.nmsrs = 1;
	msr.m.entries[0].index = MSR_IA32_TSC;
	msr.m.entries[0].data = *tsc;
	ret = vm_ioctl(c->fd, request, &msr);
	if (ret < 0)
		return ret;
	*tsc = msr.m.entries[0].data;
	return ret == 1 ? 0 : -EIO;
}

static int tsc_offset(struct vm_cpu *c, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)offset };

	return vm_ioctl(c->fd, request, &attr);
}

static int tsc_get(struct vm_cpu *c, const struct instant *at,
		   uint64_t *ret_tsc)
{
	uint64_t offset, tsc = 0;
	int ret;

	if (!c->vm->has_tsc_offset) {
		ret = tsc_msr(c, KVM_GET_MSRS, &tsc);
	} else {
		ret = tsc_offset(c, KVM_GET_DEVICE_ATTR, &offset);
		tsc = at->host_tsc + offset;
	}
	if (ret == 0)
		*ret_tsc = tsc;
	return ret;
}

static int tsc_set(struct vm_cpu *c, const struct instant *at, uint64_t tsc)
{
	uint64_t offset = tsc - at->host_tsc;

	if (!c->vm->has_tsc_offset)
		return tsc_msr(c, KVM_SET_MSRS, &tsc);
	return tsc_offset(c, KVM_SET_DEVICE_ATTR, &offset);
}

/*
 * Read one after the other, equal TSCs look unequal. KVM itself takes TSCs less
 * than a second apart as meant to be equal when they are written
 * (kvm_synchronize_tsc()), and so do we.
 */
static void make_equal(struct vm *vm, struct vm_state *s)
{
	uint64_t second = (uint64_t)vm->tsc_khz * 1000;

	for (unsigned int i = 1; i < s->nr_cpus; i++) {
		if (s->cpus[i].tsc - s->cpus[0].tsc < second)
			s->cpus[i].tsc = s->cpus[0].tsc;
	}
}

int vm_clock_save(struct vm *vm, struct vm_state *s, char **err)
{
	struct instant now;
	int ret = clock_now(vm, &now);

	if (ret < 0)
		return vm_err(err, ret, "KVM_GET_CLOCK: %s", strerror(-ret));
	for (unsigned int i = 0; i < s->nr_cpus; i++) {
		ret = tsc_get(&vm->cpus[i], &now, &s->cpus[i].tsc);
		if (ret < 0)
			return vm_err(err, ret, "vCPU %u: reading the TSC: %s",
				      i, strerror(-ret));
	}
	if (!vm->has_tsc_offset)
		make_equal(vm, s);
	s->clock_ns = now.clock_ns;
	s->realtime_ns = now.realtime_ns;
	return 0;
}

static uint64_t cycles_in(uint64_t ns, uint32_t tsc_khz)
{
	return (uint64_t)((unsigned __int128)ns * tsc_khz / 1000000);
}

int vm_clock_load(struct vm *vm, const struct vm_state *s, uint64_t elapsed_ns,
		  char **err)
{
	struct kvm_clock_data data = { .clock = s->clock_ns + elapsed_ns };
	struct instant now;
	int ret = vm_ioctl(vm->fd, KVM_SET_CLOCK, &data);

	if (ret < 0)
		return vm_err(err, ret, "KVM_SET_CLOCK: %s", strerror(-ret));
	ret = clock_now(vm, &now);
	if (ret < 0)
		return vm_err(err, ret, "KVM_GET_CLOCK: %s", strerror(-ret));
	if (now.clock_ns < data.clock)
		now.clock_ns = data.clock;
	for (unsigned int i = 0; i < s->nr_cpus; i++) {
		uint64_t tsc = s->cpus[i].tsc +
			       cycles_in(now.clock_ns - s->clock_ns,
					 vm->tsc_khz);

		ret = tsc_set(&vm->cpus[i], &now, tsc);
		if (ret < 0)
			return vm_err(err, ret, "vCPU %u: setting the TSC: %s",
				      i, strerror(-ret));
	}
	return 0;
}
