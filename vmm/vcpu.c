/*
 * vmm/vcpu.c: one vCPU and its KVM_RUN loop.
 *
 * How a vCPU is stopped, without a race: the stopper clears vm->run, then sets
 * immediate_exit, then sends the signal (run.c). The loop here clears
 * immediate_exit, then looks at vm->run, then enters KVM_RUN. Whichever store
 * to immediate_exit comes last, either the loop sees that it may not run, or
 * KVM sees immediate_exit, or KVM is past looking at it and the signal, which
 * comes later still, ends KVM_RUN.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/cpuid.h"

static int map_run(struct vm_cpu *c)
{
	int bytes = vm_ioctl_num(c->vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	void *p;

	if (bytes < 0)
		return bytes;
	if ((size_t)bytes < sizeof(struct kvm_run))
		return -EPROTO;
	p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd,
		 0);
	if (p == MAP_FAILED)
		return -errno;
	c->run = p;
	c->run_bytes = (size_t)bytes;
	return 0;
}

static int set_cpuid(struct vm_cpu *c)
{
	const struct vm *vm = c->vm;
	struct kvm_cpuid2 *table;
	int ret;

	table = calloc(1, sizeof(*table) +
				  vm->nr_cpuid * sizeof(table->entries[0]));
	if (!table)
		return -ENOMEM;
	table->nent = (uint32_t)vm->nr_cpuid;
	memcpy(table->entries, vm->cpuid,
	       vm->nr_cpuid * sizeof(table->entries[0]));
	vm_cpuid_for_cpu(table->entries, vm->nr_cpuid, c->index);
	ret = vm_ioctl(c->fd, KVM_SET_CPUID2, table);
	free(table);
	return ret;
}

/*
 * The rate of a new vCPU's TSC may be one that KVM itself has refused, without a
 * word, and then no timer of the vCPU's works: it is what the host took its TSC for
 * when KVM was loaded, unless the TSC is known to be constant, and the host may have
 * measured it better since (kvm_timer_init(), kvm_set_tsc_khz() of Linux 6.12). So
 * it is asked for the rate of today, which 0 stands for in every KVM with this
 * ioctl, if not in its manual.
 */
static int host_tsc_khz(struct vm_cpu *c)
{
	(void)vm_ioctl_num(c->fd, KVM_SET_TSC_KHZ, 0);
	return vm_ioctl_num(c->fd, KVM_GET_TSC_KHZ, 0);
}

/* vm->tsc_khz is the wish, 0 for none; the first vCPU turns it into a fact. */
static int set_tsc_khz(struct vm_cpu *c, char **err)
{
	struct vm *vm = c->vm;
	int host_khz = host_tsc_khz(c);
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET };
	int ret;

	if (host_khz <= 0)
		return vm_err(err, -ENOTSUP,
			      "KVM does not know this host's TSC frequency");
	if (vm->tsc_khz == 0)
		vm->tsc_khz = (uint32_t)host_khz;
	if (vm->tsc_khz != (uint32_t)host_khz) {
		ret = vm_ioctl_num(c->fd, KVM_SET_TSC_KHZ, vm->tsc_khz);
		if (ret < 0)
			return vm_err(err, ret,
				      "the guest's TSC runs at %u kHz, this "
				      "host's at %d kHz, and this CPU cannot "
				      "scale it",
				      vm->tsc_khz, host_khz);
	}
	vm->has_tsc_offset = vm->tsc_khz == (uint32_t)host_khz &&
			     vm_ioctl(c->fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
	return 0;
}

int vm_cpu_new(struct vm *vm, unsigned int index, char **err)
{
	struct vm_cpu *c = &vm->cpus[index];
	int ret;

	c->vm = vm;
	c->index = index;
	c->fd = vm_ioctl_num(vm->fd, KVM_CREATE_VCPU, index);
	if (c->fd < 0)
		return vm_err(err, c->fd, "vCPU %u: KVM_CREATE_VCPU: %s", index,
			      strerror(-c->fd));
	ret = map_run(c);
	if (ret < 0)
		return vm_err(err, ret, "vCPU %u: mapping kvm_run: %s", index,
			      strerror(-ret));
	ret = vm_dirty_ring_map(c);
	if (ret < 0)
		return vm_err(err, ret, "vCPU %u: mapping its dirty ring: %s",
			      index, strerror(-ret));
	ret = set_cpuid(c);
	if (ret < 0)
		return vm_err(err, ret, "vCPU %u: KVM_SET_CPUID2: %s", index,
			      strerror(-ret));
	return set_tsc_khz(c, err);
}

void vm_cpu_free(struct vm_cpu *c)
{
	vm_dirty_ring_unmap(c);
	if (c->run)
		munmap(c->run, c->run_bytes);
	c->run = NULL;
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

static uint64_t rip_of(struct vm_cpu *c)
{
	struct kvm_regs regs;

	return vm_ioctl(c->fd, KVM_GET_REGS, &regs) < 0 ? 0 : regs.rip;
}

static void crash(struct vm_cpu *c, const char *what)
{
	char reason[VM_REASON_BYTES];

	snprintf(reason, sizeof(reason), "vCPU %u at rip 0x%llx: %s", c->index,
		 (unsigned long long)rip_of(c), what);
	vm_event_post(c->vm, VM_EVENT_CRASH, reason);
}

static void on_internal_error(struct vm_cpu *c)
{
	const struct kvm_run *run = c->run;
	char what[VM_REASON_BYTES - 48]; /* crash() says more */
	size_t n;

	n = (size_t)snprintf(what, sizeof(what), "KVM internal error %u%s",
			     run->internal.suberror,
			     run->internal.suberror ==
					     KVM_INTERNAL_ERROR_EMULATION
				     ? " (cannot emulate this instruction)"
				     : "");
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
	    run->emulation_failure.ndata >= 1 &&
	    run->emulation_failure.flags &
		    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) {
		n += (size_t)snprintf(what + n, sizeof(what) - n, ", bytes");
		for (unsigned int i = 0; i < run->emulation_failure.insn_size &&
					 i < 15 && n < sizeof(what);
		     i++)
			n += (size_t)snprintf(
				what + n, sizeof(what) - n, " %02x",
				run->emulation_failure.insn_bytes[i]);
	}
	crash(c, what);
}

static void on_io(struct vm_cpu *c)
{
	const struct kvm_run *run = c->run;
	uint8_t *data = (uint8_t *)c->run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
		vm_bus_access(c->vm, VM_BUS_PIO, run->io.port, data,
			      run->io.size,
			      run->io.direction == KVM_EXIT_IO_OUT);
	c->io_pending = true;
}

static void on_mmio(struct vm_cpu *c)
{
	struct kvm_run *run = c->run;

	vm_bus_access(c->vm, VM_BUS_MMIO, run->mmio.phys_addr, run->mmio.data,
		      run->mmio.len, run->mmio.is_write);
	c->io_pending = true;
}

static void on_system_event(struct vm_cpu *c)
{
	switch (c->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		vm_event_post(c->vm, VM_EVENT_POWEROFF, NULL);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		vm_event_post(c->vm, VM_EVENT_RESET, NULL);
		break;
	default:
		crash(c, "the guest reported a crash");
		break;
	}
}

static void on_exit_reason(struct vm_cpu *c)
{
	char what[64];

	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		on_io(c);
		return;
	case KVM_EXIT_MMIO:
		on_mmio(c);
		return;
	case KVM_EXIT_INTR:
		return;
	case KVM_EXIT_DIRTY_RING_FULL:
		if (vm_dirty_ring_full(c) < 0)
			crash(c, "the dirty ring is stuck full; use another "
				 "tracker "
				 "or a larger ring");
		return;
	case KVM_EXIT_SHUTDOWN:
		vm_event_post(c->vm, VM_EVENT_RESET, "triple fault");
		return;
	case KVM_EXIT_SYSTEM_EVENT:
		on_system_event(c);
		return;
	case KVM_EXIT_INTERNAL_ERROR:
		on_internal_error(c);
		return;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(what, sizeof(what),
			 "the CPU refuses this state, reason 0x%llx",
			 (unsigned long long)c->run->fail_entry
				 .hardware_entry_failure_reason);
		crash(c, what);
		return;
	default:
		snprintf(what, sizeof(what), "unexpected KVM exit %u",
			 c->run->exit_reason);
		crash(c, what);
		return;
	}
}

static void enter(struct vm_cpu *c)
{
	int ret = vm_ioctl_num(c->fd, KVM_RUN, 0);
	char what[80];

	c->io_pending = false;
	switch (ret) {
	case 0:
		on_exit_reason(c);
		break;
	case -EINTR:
	case -EAGAIN: /* an AP that has just got its INIT or SIPI */
		break;
	case -EFAULT:
		crash(c, "KVM cannot get at guest memory (EFAULT)");
		break;
	default:
		snprintf(what, sizeof(what), "KVM_RUN: %s", strerror(-ret));
		crash(c, what);
		break;
	}
}

/*
 * KVM moves the result of a port or MMIO access into the guest's registers, and
 * steps over the instruction, at the start of the next KVM_RUN. Before that the
 * vCPU's state is not one that can be saved. Finishing one access may bring the
 * next one of the same instruction.
 */
static void finish_io(struct vm_cpu *c)
{
	while (c->io_pending) {
		__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		enter(c);
	}
}

void vm_cpu_run(struct vm_cpu *c)
{
	for (;;) {
		__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (!atomic_load(&c->vm->run))
			break;
		enter(c);
	}
	finish_io(c);
}
