/*
 * vmm/vcpu_state.c: everything KVM knows about one vCPU, out and in again.
 *
 * The TSC is not here: it only makes sense together with the clock (clock.c).
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Linux arch/x86/include/asm/msr-index.h, uapi/asm/kvm_para.h */
#define MSR_IA32_TSC           0x10
#define MSR_IA32_VMX_FIRST     0x480
#define MSR_IA32_VMX_LAST      0x493
#define MSR_IA32_TSC_DEADLINE  0x6e0
#define MSR_KVM_WALL_CLOCK     0x11
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00

#define MSRS_AT_ONCE 64 /* KVM takes fewer than 256 in a call */

union msr_batch {
	uint8_t room[sizeof(struct kvm_msrs) +
		     MSRS_AT_ONCE * sizeof(struct kvm_msr_entry)];
	struct kvm_msrs m;
};

/*
 * Not state: the TSC (clock.c has it); the wall clocks, for to write one is to
 * ask KVM to fill in a page of guest memory here and now; and what describes
 * VMX, which our guests do not see (cpuid.c).
 */
static bool is_state(uint32_t msr)
{
	return msr != MSR_IA32_TSC && msr != MSR_KVM_WALL_CLOCK &&
	       msr != MSR_KVM_WALL_CLOCK_NEW &&
	       (msr < MSR_IA32_VMX_FIRST || msr > MSR_IA32_VMX_LAST);
}

int vm_msr_list(int kvm_fd, uint32_t **ret_indices, size_t *ret_nr)
{
	struct kvm_msr_list *list;
	size_t nr = 0;
	int ret;

	list = calloc(1, sizeof(*list) + VM_MSRS_MAX * sizeof(uint32_t));
	if (!list)
		return -ENOMEM;
	list->nmsrs = VM_MSRS_MAX;
	ret = vm_ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list);
	if (ret < 0)
		goto free_list;
	ret = -ENOMEM;
	*ret_indices = calloc(VM_MSRS_MAX, sizeof(uint32_t));
	if (!*ret_indices)
		goto free_list;
	for (uint32_t i = 0; i < list->nmsrs; i++) {
		if (is_state(list->indices[i]))
			(*ret_indices)[nr++] = list->indices[i];
	}
	*ret_nr = nr;
	ret = 0;
free_list:
	free(list);
	return ret;
}

/*
 * KVM lists MSRs that a given vCPU may not have, and stops at the first it
 * cannot read: that one is left out and the rest goes on.
 */
static int save_msrs(struct vm_cpu *c, struct vm_cpu_state *s)
{
	const struct vm *vm = c->vm;
	size_t next = 0;

	s->msrs = calloc(vm->nr_msrs ? vm->nr_msrs : 1, sizeof(*s->msrs));
	if (!s->msrs)
		return -ENOMEM;
	while (next < vm->nr_msrs) {
		union msr_batch b = { .room = { 0 } };
		int got;

		while (b.m.nmsrs < MSRS_AT_ONCE &&
		       next + b.m.nmsrs < vm->nr_msrs) {
			b.m.entries[b.m.nmsrs].index =
				vm->msrs[next + b.m.nmsrs];
			b.m.nmsrs++;
		}
		got = vm_ioctl(c->fd, KVM_GET_MSRS, &b);
		if (got < 0)
			return got;
		for (int i = 0; i < got; i++) {
			s->msrs[s->nr_msrs++] = (struct vm_msr){
				b.m.entries[i].index, b.m.entries[i].data
			};
		}
		next += (size_t)got + ((uint32_t)got < b.m.nmsrs);
	}
	return 0;
}

static int read_msr(struct vm_cpu *c, uint32_t index, uint64_t *ret_value)
{
	union msr_batch b = { .room = { 0 } };
	int got;

	b.m.nmsrs = 1;
	b.m.entries[0].index = index;
	got = vm_ioctl(c->fd, KVM_GET_MSRS, &b);
	if (got < 0)
		return got;
	if (got == 0)
		return -ENOENT;
	*ret_value = b.m.entries[0].data;
	return 0;
}

/*
 * What KVM refuses to write is no loss when it says nothing, or what the vCPU
 * has anyway; else the guest would lose state without a word.
 */
static int check_refused(struct vm_cpu *c, const struct vm_msr *msr, char **err)
{
	uint64_t has = 0;

	if (msr->value == 0)
		return 0;
	if (read_msr(c, msr->index, &has) == 0 && has == msr->value)
		return 0;
	return vm_err(err, -EINVAL,
		      "vCPU %u: this host's KVM refuses MSR 0x%x = 0x%llx",
		      c->index, msr->index, (unsigned long long)msr->value);
}

static int load_msrs(struct vm_cpu *c, const struct vm_msr *msrs, size_t nr,
		     char **err)
{
	size_t next = 0;
	int ret;

	while (next < nr) {
		union msr_batch b = { .room = { 0 } };
		int done;

		while (b.m.nmsrs < MSRS_AT_ONCE && next + b.m.nmsrs < nr) {
			const struct vm_msr *m = &msrs[next + b.m.nmsrs];

			b.m.entries[b.m.nmsrs].index = m->index;
			b.m.entries[b.m.nmsrs].data = m->value;
			b.m.nmsrs++;
		}
		done = vm_ioctl(c->fd, KVM_SET_MSRS, &b);
		if (done < 0)
			return vm_err(err, done, "vCPU %u: KVM_SET_MSRS: %s",
				      c->index, strerror(-done));
		next += (size_t)done;
		if ((uint32_t)done == b.m.nmsrs)
			continue;
		ret = check_refused(c, &msrs[next], err);
		if (ret < 0)
			return ret;
		next++;
	}
	return 0;
}

static void sregs2_from_sregs(struct kvm_sregs2 *d, const struct kvm_sregs *s)
{
	*d = (struct kvm_sregs2){
		.cs = s->cs,
		.ds = s->ds,
		.es = s->es,
		.fs = s->fs,
		.gs = s->gs,
		.ss = s->ss,
		.tr = s->tr,
		.ldt = s->ldt,
		.gdt = s->gdt,
		.idt = s->idt,
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = s->cr8,
		.efer = s->efer,
		.apic_base = s->apic_base,
	};
}

/* interrupt_bitmap stays empty: kvm_vcpu_events carries the same. */
static void sregs_from_sregs2(struct kvm_sregs *d, const struct kvm_sregs2 *s)
{
	*d = (struct kvm_sregs){
		.cs = s->cs,
		.ds = s->ds,
		.es = s->es,
		.fs = s->fs,
		.gs = s->gs,
		.ss = s->ss,
		.tr = s->tr,
		.ldt = s->ldt,
		.gdt = s->gdt,
		.idt = s->idt,
		.cr0 = s->cr0,
		.cr2 = s->cr2,
		.cr3 = s->cr3,
		.cr4 = s->cr4,
		.cr8 = s->cr8,
		.efer = s->efer,
		.apic_base = s->apic_base,
	};
}

static int get_sregs(struct vm_cpu *c, struct kvm_sregs2 *sregs2)
{
	struct kvm_sregs sregs;
	int ret;

	if (c->vm->has_sregs2)
		return vm_ioctl(c->fd, KVM_GET_SREGS2, sregs2);
	ret = vm_ioctl(c->fd, KVM_GET_SREGS, &sregs);
	if (ret == 0)
		sregs2_from_sregs(sregs2, &sregs);
	return ret;
}

static int set_sregs(struct vm_cpu *c, const struct kvm_sregs2 *sregs2)
{
	struct kvm_sregs2 copy = *sregs2;
	struct kvm_sregs sregs;

	if (c->vm->has_sregs2)
		return vm_ioctl(c->fd, KVM_SET_SREGS2, &copy);
	sregs_from_sregs2(&sregs, sregs2);
	return vm_ioctl(c->fd, KVM_SET_SREGS, &sregs);
}

static int save_xsave(struct vm_cpu *c, struct vm_cpu_state *s)
{
	s->xsave_bytes = c->vm->xsave_bytes;
	s->xsave = calloc(1, s->xsave_bytes);
	if (!s->xsave)
		return -ENOMEM;
	return vm_ioctl(c->fd,
			s->xsave_bytes > sizeof(struct kvm_xsave)
				? KVM_GET_XSAVE2
				: KVM_GET_XSAVE,
			s->xsave);
}

/* A larger area than this host's may come along as long as it holds nothing. */
static int load_xsave(struct vm_cpu *c, const struct vm_cpu_state *s)
{
	uint32_t host = c->vm->xsave_bytes;
	uint8_t *area;
	int ret;

	for (uint32_t i = host; i < s->xsave_bytes; i++) {
		if (s->xsave[i])
			return -E2BIG;
	}
	area = calloc(1, host);
	if (!area)
		return -ENOMEM;
	memcpy(area, s->xsave, s->xsave_bytes < host ? s->xsave_bytes : host);
	ret = vm_ioctl(c->fd, KVM_SET_XSAVE, area);
	free(area);
	return ret;
}

static int failed(struct vm_cpu *c, int ret, const char *what, char **err)
{
	return vm_err(err, ret, "vCPU %u: %s: %s", c->index, what,
		      strerror(-ret));
}

struct step {
	unsigned long request;
	size_t offset;
	const char *name;
};

#define STEP(_request, _member)                                                \
	{ _request, offsetof(struct vm_cpu_state, _member), #_request }

static int take_steps(struct vm_cpu *c, const struct vm_cpu_state *s,
		      const struct step *steps, size_t nr, char **err)
{
	for (size_t i = 0; i < nr; i++) {
		int ret = vm_ioctl(c->fd, steps[i].request,
				   (uint8_t *)s + steps[i].offset);

		if (ret < 0)
			return failed(c, ret, steps[i].name, err);
	}
	return 0;
}

/*
 * KVM_GET_MP_STATE takes an INIT or SIPI that is on its way, which changes
 * registers: it comes before them.
 */
static const struct step save_steps[] = {
	STEP(KVM_GET_MP_STATE, mp_state),   STEP(KVM_GET_VCPU_EVENTS, events),
	STEP(KVM_GET_REGS, regs),           STEP(KVM_GET_XCRS, xcrs),
	STEP(KVM_GET_DEBUGREGS, debugregs), STEP(KVM_GET_LAPIC, lapic),
};

/*
 * Loaded last, in this order. The LAPIC needs the APIC base from sregs and
 * starts its timer by the TSC. KVM_SET_REGS drops a pending exception, so the
 * events follow it; sregs may set a vCPU runnable, so mp_state follows them.
 */
static const struct step load_steps[] = {
	STEP(KVM_SET_REGS, regs),           STEP(KVM_SET_LAPIC, lapic),
	STEP(KVM_SET_MP_STATE, mp_state),   STEP(KVM_SET_VCPU_EVENTS, events),
	STEP(KVM_SET_DEBUGREGS, debugregs),
};

#define NR(_array) (sizeof(_array) / sizeof((_array)[0]))

int vm_cpu_save(struct vm_cpu *c, struct vm_cpu_state *ret_state, char **err)
{
	struct vm_cpu_state s = { 0 };
	int ret;

	ret = take_steps(c, &s, save_steps, NR(save_steps), err);
	if (ret < 0)
		goto fini;
	ret = get_sregs(c, &s.sregs2);
	if (ret < 0) {
		failed(c, ret, "KVM_GET_SREGS", err);
		goto fini;
	}
	ret = save_xsave(c, &s);
	if (ret < 0) {
		failed(c, ret, "KVM_GET_XSAVE", err);
		goto fini;
	}
	ret = save_msrs(c, &s);
	if (ret < 0) {
		failed(c, ret, "KVM_GET_MSRS", err);
		goto fini;
	}
	s.tsc_khz = c->vm->tsc_khz;
	*ret_state = s;
	return 0;
fini:
	vm_cpu_state_fini(&s);
	return ret;
}

/* The deadline timer runs once LAPIC and TSC are there to run it. */
static int load_deadline(struct vm_cpu *c, const struct vm_cpu_state *s,
			 char **err)
{
	for (uint32_t i = 0; i < s->nr_msrs; i++) {
		if (s->msrs[i].index == MSR_IA32_TSC_DEADLINE)
			return load_msrs(c, &s->msrs[i], 1, err);
	}
	return 0;
}

int vm_cpu_load(struct vm_cpu *c, const struct vm_cpu_state *s, char **err)
{
	int ret;

	ret = set_sregs(c, &s->sregs2);
	if (ret < 0)
		return failed(c, ret, "KVM_SET_SREGS", err);
	if (s->xcrs.nr_xcrs > 0) {
		struct kvm_xcrs xcrs = s->xcrs;

		ret = vm_ioctl(c->fd, KVM_SET_XCRS, &xcrs);
		if (ret < 0)
			return failed(c, ret, "KVM_SET_XCRS", err);
	}
	ret = load_xsave(c, s);
	if (ret < 0)
		return failed(c, ret, "KVM_SET_XSAVE", err);
	ret = load_msrs(c, s->msrs, s->nr_msrs, err);
	if (ret < 0)
		return ret;
	ret = take_steps(c, s, load_steps, NR(load_steps), err);
	if (ret < 0)
		return ret;
	return load_deadline(c, s, err);
}

void vm_cpu_state_fini(struct vm_cpu_state *s)
{
	free(s->xsave);
	free(s->msrs);
	s->xsave = NULL;
	s->msrs = NULL;
	s->nr_msrs = 0;
}

int vm_vcpu_get_entry(struct vm *vm, struct kvm_regs *ret_regs,
		      struct kvm_sregs *ret_sregs)
{
	int ret = vm_ioctl(vm->cpus[0].fd, KVM_GET_SREGS, ret_sregs);

	return ret < 0 ? ret : vm_ioctl(vm->cpus[0].fd, KVM_GET_REGS, ret_regs);
}

int vm_vcpu_set_entry(struct vm *vm, const struct kvm_regs *regs,
		      const struct kvm_sregs *sregs)
{
	struct kvm_sregs sregs_copy = *sregs;
	struct kvm_regs regs_copy = *regs;
	int ret = vm_ioctl(vm->cpus[0].fd, KVM_SET_SREGS, &sregs_copy);

	if (ret < 0)
		return ret;
	return vm_ioctl(vm->cpus[0].fd, KVM_SET_REGS, &regs_copy);
}
