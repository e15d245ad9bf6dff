#include "migrate/dest_internal.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/cpu_check.h"
#include "migrate/faultpoint.h"
#include "migrate/hardware_codec.h"
#include "proto/wire.h"
#include "uffd/uffd.h"
#include "vmm/device.h"
#include "vmm/urgent.h"

#define REASONS_MAX 64

/* Why not, as many as there are. */
struct reasons {
	char *lines[REASONS_MAX];
	size_t nr;
};

__attribute__((format(printf, 2, 3))) static void object(struct reasons *r,
							 const char *fmt, ...)
{
	va_list ap;

	if (r->nr == REASONS_MAX)
		return;
	va_start(ap, fmt);
	if (vasprintf(&r->lines[r->nr], fmt, ap) >= 0)
		r->nr++;
	va_end(ap);
}

static void check_required(const Vmmd__Setup *m, struct reasons *r)
{
	size_t i;

	for (i = 0; i < m->n_required; i++) {
		if (strcmp(m->required[i], MIG_FEATURE_HARDWARE) == 0)
			continue;
		object(r, "needs protocol feature '%s', which vmmd %s lacks",
		       m->required[i], VMMD_VERSION);
	}
}

static void check_shape(const Vmmd__Setup *m, struct reasons *r)
{
	if (m->page_bytes != PROTO_PAGE_BYTES)
		object(r, "pages of %u bytes: only %d are supported",
		       m->page_bytes, PROTO_PAGE_BYTES);
	if (m->ram_bytes < VM_RAM_BYTES_MIN ||
	    m->ram_bytes > VM_RAM_BYTES_MAX || m->ram_bytes % VM_PAGE_BYTES)
		object(r, "memory of %llu bytes is not possible here",
		       (unsigned long long)m->ram_bytes);
	if (m->nr_cpus < 1 || m->nr_cpus > VM_CPUS_MAX)
		object(r, "%u vCPUs: 1 to %d are supported", m->nr_cpus,
		       VM_CPUS_MAX);
	if (m->channels < 1 || m->channels > PROTO_CHANNELS_MAX)
		object(r, "%u channels: 1 to %d are supported", m->channels,
		       PROTO_CHANNELS_MAX);
}

static void check_mode(const Vmmd__Setup *m, enum vm_mem_backend backend,
		       struct reasons *r)
{
	struct uffd_caps caps;
	enum mig_mode mode;

	if (mig_mode_parse(m->mode, &mode) < 0) {
		object(r, "unknown mode '%s'", m->mode);
		return;
	}
	if (mode == MIG_MODE_PRECOPY)
		return;
	if (backend == VM_MEM_HUGETLB)
		object(r,
		       "mode %s: memory of huge pages moves by precopy "
		       "only: use --mode precopy",
		       m->mode);
	uffd_probe(&caps);
	if (!caps.usable)
		object(r,
		       "mode %s needs userfaultfd here: %s (or use --mode "
		       "precopy)",
		       m->mode, caps.why);
}

static void on_line(void *ctx, const char *line)
{
	object(ctx, "%s", line);
}

static void check_cpuid(const Vmmd__Setup *m, struct reasons *r)
{
	const struct kvm_cpuid_entry2 *guest = (const void *)m->cpuid.data;
	size_t nr = m->cpuid.len / sizeof(*guest);

	if (nr == 0 || nr > VM_CPUID_MAX || m->cpuid.len % sizeof(*guest))
		object(r, "the CPUID table is damaged");
	else
		mig_cpu_missing(guest, nr, on_line, r);
}

/* What only the finished machine can tell. */
static void check_machine(const Vmmd__Setup *m, struct vm *vm,
			  struct reasons *r)
{
	const uint32_t *have;
	size_t nr, i, j;

	nr = vm_msr_indices(vm, &have);
	for (i = 0; i < m->n_msrs; i++) {
		for (j = 0; j < nr && have[j] != m->msrs[i]; j++)
			;
		if (j == nr)
			object(r, "MSR 0x%x does not exist here", m->msrs[i]);
	}
	if (m->xsave_bytes > vm_xsave_bytes(vm))
		object(r, "%u bytes of XSAVE state: %u are supported here",
		       m->xsave_bytes, vm_xsave_bytes(vm));
}

static void check_slots(const Vmmd__Setup *m, struct vm_mem *mem,
			struct reasons *r)
{
	const struct vm_slot *have;
	size_t i, nr = vm_mem_slots(mem, &have);
	bool same = nr == m->n_slots;

	for (i = 0; same && i < nr; i++)
		same = have[i].gpa == m->slots[i]->gpa &&
		       have[i].offset == m->slots[i]->offset &&
		       have[i].bytes == m->slots[i]->bytes;
	if (!same)
		object(r, "the layout of guest memory differs");
}

static void check_devices(const Vmmd__Setup *m, struct vm *vm,
			  struct reasons *r)
{
	struct vm_device *const *have;
	size_t i, j, nr = vm_devices(vm, &have);

	for (i = 0; i < m->n_devices; i++) {
		for (j = 0; j < nr; j++) {
			if (strcmp(have[j]->ops->name, m->devices[i]) == 0)
				break;
		}
		if (j == nr)
			object(r, "no device '%s' here", m->devices[i]);
	}
}

static int make_guest(struct mig_dest *d, const struct vm_config *cfg,
		      struct reasons *r)
{
	struct mig_guest *guest;
	struct vm *vm = NULL;
	char *err = NULL;
	int ret;

	ret = vm_new(cfg, d->cfg.vm_ops, d->cfg.vm_ctx, &vm, &err);
	if (ret < 0) {
		object(r, "%s", err ? err : strerror(-ret));
		free(err);
		return ret;
	}
	ret = mig_guest_new(vm, &guest);
	if (ret < 0) {
		vm_free(vm);
		return ret;
	}
	pthread_mutex_lock(&d->lock);
	d->guest = guest;
	pthread_mutex_unlock(&d->lock);
	return 0;
}

static int alloc_bitmaps(struct mig_dest *d)
{
	d->ram_pages = vm_mem_pages(vm_mem(d->guest->vm));
	d->received = bitmap_new(d->ram_pages);
	d->suspect = bitmap_new(d->ram_pages);
	return d->received && d->suspect ? 0 : -ENOMEM;
}

static enum mig_mode mode_of(const Vmmd__Setup *m)
{
	enum mig_mode mode = MIG_MODE_PRECOPY;

	mig_mode_parse(m->mode, &mode);
	return mode;
}

/* What postcopy will need: descriptors and threads are missed now, not in the pause. */
static void open_uffd(struct mig_dest *d, const Vmmd__Setup *m,
		      struct reasons *r)
{
	struct uffd *u;
	char *err = NULL;
	int ret;

	if (mode_of(m) == MIG_MODE_PRECOPY)
		return;
	ret = mig_guest_uffd(d->guest, &u, &err);
	if (ret < 0)
		object(r,
		       "mode %s needs userfaultfd here: %s (or use --mode "
		       "precopy)",
		       m->mode, err ? err : strerror(-ret));
	free(err);
}

/* Nobody waits for it, so it does not keep others from the cores. */
static int give_ram(struct mig_dest *d, char **err)
{
	int ret;

	vm_thread_urgent(pthread_self(), false);
	ret = vm_add_ram(d->guest->vm, err);
	vm_thread_urgent(pthread_self(), true);
	return ret;
}

/* *ret_due: the mark that waited for it, or 0. */
static void note_ram(struct mig_dest *d, uint64_t *ret_due)
{
	pthread_mutex_lock(&d->lock);
	d->has_ram = true;
	*ret_due = d->due_mark;
	pthread_mutex_unlock(&d->lock);
}

int mig_dest_add_ram(struct mig_dest *d)
{
	char *err = NULL;
	uint64_t due;
	int ret;

	if (d->has_ram)
		return 0;
	mig_fault_point(d->session, "ram");
	ret = give_ram(d, &err);
	if (ret < 0) {
		mig_dest_say(d, err ? err : strerror(-ret));
		free(err);
		return ret;
	}
	note_ram(d, &due);
	return due ? mig_dest_send_marked(d, due) : 0;
}

/* No channel has been opened, so nothing is due. */
static void add_ram_now(struct mig_dest *d, struct reasons *r)
{
	char *err = NULL;
	uint64_t none;
	int ret = give_ram(d, &err);

	if (ret == 0)
		note_ram(d, &none);
	else
		object(r, "%s", err ? err : strerror(-ret));
	free(err);
}

/* The machine, when nothing speaks against it so far. */
static int build(struct mig_dest *d, const Vmmd__Setup *m,
		 const struct mig_hardware *hw, enum vm_mem_backend backend,
		 struct reasons *r)
{
	const struct mig_objector o = { on_line, r };
	struct vm_config cfg = {
		.ram_bytes = m->ram_bytes,
		.ram_later = true,
		.nr_cpus = m->nr_cpus,
		.mem_backend = backend,
		.dirty_ring_entries = d->cfg.dirty_ring_entries,
		.cpuid = (const void *)m->cpuid.data,
		.nr_cpuid = m->cpuid.len / sizeof(struct kvm_cpuid_entry2),
		.tsc_khz = m->tsc_khz,
	};
	struct mig_plan plan;
	int ret;

	mig_hardware_plan(hw, &d->cfg.host, &plan, &cfg, &o);
	mig_hardware_probe(hw, &cfg, &o);
	if (r->nr > 0)
		return 0;
	ret = make_guest(d, &cfg, r);
	if (ret < 0)
		return r->nr > 0 ? 0 : ret;
	check_machine(m, d->guest->vm, r);
	check_slots(m, vm_mem(d->guest->vm), r);
	check_devices(m, d->guest->vm, r);
	mig_hardware_compare(hw, d->guest->vm, &o);
	open_uffd(d, m, r);
	if (r->nr == 0 && mode_of(m) == MIG_MODE_POSTCOPY)
		add_ram_now(d, r);
	return 0;
}

static int judge(struct mig_dest *d, const Vmmd__Setup *m, struct reasons *r)
{
	enum vm_mem_backend backend = VM_MEM_ANON;
	struct mig_hardware hw = { 0 };
	char *err = NULL;
	int ret;

	check_required(m, r);
	check_shape(m, r);
	if (vm_mem_backend_parse(m->mem_backend, &backend) < 0)
		object(r, "unknown memory backend '%s'", m->mem_backend);
	check_mode(m, backend, r);
	check_cpuid(m, r);
	ret = mig_hardware_take(m->hardware, &hw, &err);
	if (ret < 0) {
		object(r, "%s", err ? err : strerror(-ret));
		free(err);
		return 0;
	}
	ret = build(d, m, &hw, backend, r);
	mig_hardware_fini(&hw);
	if (ret < 0 || r->nr > 0)
		return ret;
	ret = alloc_bitmaps(d);
	return ret < 0 ? ret : vm_start(d->guest->vm);
}

/* A rehearsal of the pause's part that only a machine of this shape can tell. */
static uint64_t time_state(struct vm *vm)
{
	uint64_t begin_us = mig_now_us();
	struct vm_state state;

	if (vm_state_save(vm, &state, NULL) == 0)
		vm_state_fini(&state);
	return mig_now_us() - begin_us;
}

static int answer(struct mig_dest *d, const struct reasons *r)
{
	Vmmd__SetupReply reply = VMMD__SETUP_REPLY__INIT;

	if (r->nr == 0)
		reply.state_us = time_state(d->guest->vm);
	reply.takes_ahead = true;
	reply.answers_marks = true;
	reply.fault_channels = d->session->fault_channels;
	reply.n_reasons = r->nr;
	reply.reasons = (char **)r->lines;
	return mig_link_send(d->session->link, PROTO_SETUP_REPLY, &reply.base);
}

int mig_dest_agree(struct mig_dest *d, const Vmmd__Setup *setup)
{
	struct reasons r = { .nr = 0 };
	int ret;

	ret = judge(d, setup, &r);
	if (ret == 0)
		ret = answer(d, &r);
	if (ret == 0 && r.nr > 0) {
		mig_dest_say(d, r.lines[0]);
		ret = -EOPNOTSUPP;
	}
	while (r.nr > 0)
		free(r.lines[--r.nr]);
	return ret;
}
