/* migrate/state_unpack.c: state.proto into checked structs. */
#include "migrate/state_codec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/hardware_codec.h"
#include "migrate/say.h"
#include "migrate/state_version.h"
#include "proto/state.pb-c.h"

#define XSAVE_BYTES_MIN 4096u /* struct kvm_xsave without extensions */

static int check_version(const char *what, uint32_t version, char **err)
{
	if (version == 0)
		return mig_say(err, -EBADMSG, "%s: no version: not a state",
			       what);
	if (version > STATE_VERSION)
		return mig_say(err, -EOPNOTSUPP,
			       "%s has format %u, this vmmd knows up to %u: "
			       "use a newer vmmd",
			       what, version, STATE_VERSION);
	return 0;
}

/* A kernel ABI struct. What a newer kernel appended must not mean anything. */
static int take_blob(const ProtobufCBinaryData *b, void *out, size_t bytes,
		     const char *what, char **err)
{
	if (b->len < bytes)
		return mig_say(err, -EBADMSG, "%s: %zu bytes instead of %zu",
			       what, b->len, bytes);
	for (size_t i = bytes; i < b->len; i++) {
		if (b->data[i] != 0)
			return mig_say(err, -EOPNOTSUPP,
				       "%s: %zu bytes with content beyond the "
				       "%zu that this vmmd knows",
				       what, b->len, bytes);
	}
	memcpy(out, b->data, bytes);
	return 0;
}

#define TAKE(msg, out, name, err)                                              \
	take_blob(&(msg)->name, &(out)->name, sizeof((out)->name), #name, err)

static int take_fixed(const Vmmd__CpuState *msg, struct vm_cpu_state *s,
		      char **err)
{
	int ret = TAKE(msg, s, regs, err);

	if (ret == 0)
		ret = TAKE(msg, s, sregs2, err);
	if (ret == 0)
		ret = TAKE(msg, s, lapic, err);
	if (ret == 0)
		ret = TAKE(msg, s, mp_state, err);
	if (ret == 0)
		ret = TAKE(msg, s, events, err);
	if (ret == 0)
		ret = TAKE(msg, s, debugregs, err);
	if (ret == 0)
		ret = TAKE(msg, s, xcrs, err);
	return ret;
}

static int take_xsave(const Vmmd__CpuState *msg, struct vm_cpu_state *s,
		      char **err)
{
	size_t bytes = msg->xsave.len;

	if (bytes < XSAVE_BYTES_MIN || bytes > VM_XSAVE_BYTES_MAX)
		return mig_say(err, -EBADMSG, "xsave: %zu bytes, not %u to %u",
			       bytes, XSAVE_BYTES_MIN, VM_XSAVE_BYTES_MAX);
	s->xsave = malloc(bytes);
	if (!s->xsave)
		return -ENOMEM;
	memcpy(s->xsave, msg->xsave.data, bytes);
	s->xsave_bytes = (uint32_t)bytes;
	return 0;
}

static int take_msrs(const Vmmd__CpuState *msg, struct vm_cpu_state *s,
		     char **err)
{
	size_t n = msg->n_msr_index;

	if (n > VM_MSRS_MAX || n != msg->n_msr_value)
		return mig_say(
			err, -EBADMSG,
			"MSRs: %zu indices and %zu values, at most %u of "
			"each",
			n, msg->n_msr_value, VM_MSRS_MAX);
	s->msrs = calloc(n ? n : 1, sizeof(*s->msrs));
	if (!s->msrs)
		return -ENOMEM;
	s->nr_msrs = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		s->msrs[i].index = msg->msr_index[i];
		s->msrs[i].value = msg->msr_value[i];
	}
	return 0;
}

static int take_cpus(const Vmmd__VmState *msg, struct vm_state *s, char **err)
{
	int ret = 0;

	if (msg->nr_cpus == 0 || msg->nr_cpus > VM_CPUS_MAX ||
	    msg->nr_cpus != msg->n_cpus)
		return mig_say(err, -EBADMSG,
			       "state says %u vCPUs and has %zu, at most %u",
			       msg->nr_cpus, msg->n_cpus, VM_CPUS_MAX);
	s->cpus = calloc(msg->nr_cpus, sizeof(*s->cpus));
	if (!s->cpus)
		return -ENOMEM;
	s->nr_cpus = msg->nr_cpus;
	for (size_t i = 0; i < s->nr_cpus && ret == 0; i++) {
		ret = take_fixed(msg->cpus[i], &s->cpus[i], err);
		if (ret == 0)
			ret = take_xsave(msg->cpus[i], &s->cpus[i], err);
		if (ret == 0)
			ret = take_msrs(msg->cpus[i], &s->cpus[i], err);
		s->cpus[i].tsc = msg->cpus[i]->tsc;
		s->cpus[i].tsc_khz = msg->cpus[i]->tsc_khz;
	}
	return ret;
}

static const struct vm_field *find_field(const struct vm_device_ops *ops,
					 uint32_t id)
{
	for (size_t i = 0; i < ops->nr_fields; i++) {
		if (ops->fields[i].id == id)
			return &ops->fields[i];
	}
	return NULL;
}

static int take_field(const Vmmd__DeviceField *msg,
		      const struct vm_device_ops *ops, uint8_t *data,
		      char **err)
{
	const struct vm_field *f = find_field(ops, msg->id);

	if (!f)
		return 0; /* a newer device's: skipped */
	if (f->kind == VM_FIELD_UINT) {
		if (f->bytes < 8 && msg->value >> (8 * f->bytes) != 0)
			return mig_say(
				err, -EBADMSG,
				"device %s: field %u is too large: 0x%llx",
				ops->name, f->id,
				(unsigned long long)msg->value);
		memcpy(data + f->offset, &msg->value, f->bytes);
		return 0;
	}
	if (msg->data.len != f->bytes)
		return mig_say(
			err, -EBADMSG,
			"device %s: field %u has %zu bytes instead of %u",
			ops->name, f->id, msg->data.len, f->bytes);
	memcpy(data + f->offset, msg->data.data, f->bytes);
	return 0;
}

/* s->data starts as the device is, so that what is missing keeps its value. */
static int take_device(const Vmmd__DeviceState *msg, struct vm_device *d,
		       struct vm_device_state *s, char **err)
{
	const struct vm_device_ops *ops = d->ops;
	int ret;

	ret = check_version(ops->name, msg->version, err);
	if (ret < 0)
		return ret;
	s->data = calloc(1, ops->state_bytes ? ops->state_bytes : 1);
	if (!s->data)
		return -ENOMEM;
	s->name = ops->name;
	s->fields = ops->fields;
	s->nr_fields = ops->nr_fields;
	s->bytes = ops->state_bytes;
	if (ops->save) {
		pthread_mutex_lock(&d->lock);
		ops->save(d, s->data);
		pthread_mutex_unlock(&d->lock);
	}
	for (size_t i = 0; i < msg->n_fields && ret == 0; i++)
		ret = take_field(msg->fields[i], ops, s->data, err);
	return ret;
}

static struct vm_device *find_device(struct vm_device *const *devices,
				     size_t nr_devices, const char *name)
{
	for (size_t i = 0; i < nr_devices; i++) {
		if (strcmp(devices[i]->ops->name, name) == 0)
			return devices[i];
	}
	return NULL;
}

static bool have_device(const struct vm_state *s, const char *name)
{
	for (size_t i = 0; i < s->nr_devices; i++) {
		if (strcmp(s->devices[i].name, name) == 0)
			return true;
	}
	return false;
}

static int take_devices(const Vmmd__VmState *msg,
			struct vm_device *const *devices, size_t nr_devices,
			struct vm_state *s, char **err)
{
	int ret = 0;

	if (msg->nr_devices > VM_DEVICES_MAX ||
	    msg->nr_devices != msg->n_devices)
		return mig_say(err, -EBADMSG,
			       "state says %u devices and has %zu, at most %u",
			       msg->nr_devices, msg->n_devices, VM_DEVICES_MAX);
	s->devices = calloc(msg->nr_devices + 1, sizeof(*s->devices));
	if (!s->devices)
		return -ENOMEM;
	for (size_t i = 0; i < msg->n_devices && ret == 0; i++) {
		const char *name = msg->devices[i]->name;
		struct vm_device *d = find_device(devices, nr_devices, name);

		if (!d)
			return mig_say(err, -EINVAL,
				       "state of a device '%.32s' that this "
				       "machine does not have",
				       name);
		if (have_device(s, name))
			return mig_say(err, -EBADMSG,
				       "device %s: its state is there twice",
				       name);
		/* Counted first: what is half done is freed with the rest. */
		s->devices[s->nr_devices].name = d->ops->name;
		ret = take_device(msg->devices[i], d,
				  &s->devices[s->nr_devices++], err);
	}
	return ret;
}

static int take_chips(const Vmmd__VmState *msg, struct vm_state *s, char **err)
{
	int ret = 0;

	if (msg->irqchip) {
		s->has_irqchip = true;
		ret = TAKE(msg->irqchip, s, pic_master, err);
		if (ret == 0)
			ret = TAKE(msg->irqchip, s, pic_slave, err);
		if (ret == 0)
			ret = TAKE(msg->irqchip, s, ioapic, err);
	}
	if (ret == 0 && msg->pit.len > 0) {
		s->has_pit = true;
		ret = TAKE(msg, s, pit, err);
	}
	return ret;
}

static int take_state(const Vmmd__VmState *msg,
		      struct vm_device *const *devices, size_t nr_devices,
		      struct vm_state *s, char **err)
{
	int ret = check_version("machine state", msg->version, err);

	if (ret < 0)
		return ret;
	if (msg->end != 1)
		return mig_say(err, -EBADMSG, "machine state: cut short");
	if (msg->pending_event >= VM_NR_EVENTS)
		return mig_say(err, -EBADMSG, "machine state: no event %u",
			       msg->pending_event);
	s->clock_ns = msg->clock_ns;
	s->realtime_ns = msg->realtime_ns;
	s->pending_event = (enum vm_event)msg->pending_event;
	snprintf(s->pending_reason, sizeof(s->pending_reason), "%s",
		 msg->pending_reason);
	ret = take_chips(msg, s, err);
	if (ret == 0)
		ret = take_cpus(msg, s, err);
	if (ret == 0)
		ret = take_devices(msg, devices, nr_devices, s, err);
	return ret;
}

int mig_state_unpack_for(const uint8_t *buf, size_t bytes,
			 struct vm_device *const *devices, size_t nr_devices,
			 struct vm_state *ret_state, char **err)
{
	struct vm_state s = { 0 };
	Vmmd__VmState *msg = NULL;
	int ret;

	if (bytes <= MIG_STATE_BYTES_MAX)
		msg = vmmd__vm_state__unpack(NULL, bytes, buf);
	if (!msg)
		return mig_say(err, -EBADMSG, "machine state: not readable");
	ret = take_state(msg, devices, nr_devices, &s, err);
	vmmd__vm_state__free_unpacked(msg, NULL);
	if (ret < 0) {
		vm_state_fini(&s);
		return mig_say(err, ret, "machine state: %s", strerror(-ret));
	}
	*ret_state = s;
	return 0;
}

int mig_state_unpack(const uint8_t *buf, size_t bytes, struct vm *vm,
		     struct vm_state *ret_state, char **err)
{
	struct vm_device *const *devices;
	size_t nr = vm_devices(vm, &devices);

	return mig_state_unpack_for(buf, bytes, devices, nr, ret_state, err);
}

static int take_cpuid(const Vmmd__Machine *msg, struct mig_machine *m,
		      char **err)
{
	size_t bytes = msg->cpuid.len;

	if (msg->nr_cpuid > VM_CPUID_MAX ||
	    bytes != msg->nr_cpuid * sizeof(*m->cpuid))
		return mig_say(err, -EBADMSG,
			       "machine: %zu bytes for %u CPUID leaves", bytes,
			       msg->nr_cpuid);
	m->cpuid = malloc(bytes ? bytes : 1);
	if (!m->cpuid)
		return -ENOMEM;
	if (bytes)
		memcpy(m->cpuid, msg->cpuid.data, bytes);
	m->nr_cpuid = msg->nr_cpuid;
	return 0;
}

static int take_machine(const Vmmd__Machine *msg, struct mig_machine *m,
			char **err)
{
	int ret;

	if (!msg)
		return mig_say(err, -EBADMSG, "state.pb: no machine in it");
	ret = check_version("machine", msg->version, err);
	if (ret < 0)
		return ret;
	if (vm_mem_backend_parse(msg->mem_backend, &m->mem_backend) < 0)
		return mig_say(err, -EBADMSG,
			       "machine: unknown memory backend '%.16s'",
			       msg->mem_backend);
	if (msg->ram_bytes < VM_RAM_BYTES_MIN ||
	    msg->ram_bytes > VM_RAM_BYTES_MAX ||
	    msg->ram_bytes % VM_PAGE_BYTES != 0)
		return mig_say(err, -EBADMSG, "machine: %llu bytes of RAM",
			       (unsigned long long)msg->ram_bytes);
	if (msg->nr_cpus == 0 || msg->nr_cpus > VM_CPUS_MAX)
		return mig_say(err, -EBADMSG, "machine: %u vCPUs",
			       msg->nr_cpus);
	m->ram_bytes = msg->ram_bytes;
	m->nr_cpus = msg->nr_cpus;
	m->tsc_khz = msg->tsc_khz;
	ret = take_cpuid(msg, m, err);
	return ret < 0 ? ret
		       : mig_hardware_take(msg->hardware, &m->hardware, err);
}

static int take_saved(const Vmmd__SavedMachine *msg, struct mig_machine *m,
		      uint8_t **ret_state, size_t *ret_bytes, char **err)
{
	uint8_t *state;
	int ret;

	ret = take_machine(msg->machine, m, err);
	if (ret < 0)
		return ret;
	if (msg->state.len == 0)
		return mig_say(err, -EBADMSG, "state.pb: no state in it");
	state = malloc(msg->state.len);
	if (!state)
		return -ENOMEM;
	memcpy(state, msg->state.data, msg->state.len);
	*ret_state = state;
	*ret_bytes = msg->state.len;
	return 0;
}

int mig_saved_unpack(const uint8_t *buf, size_t bytes,
		     struct mig_machine *ret_machine, uint8_t **ret_state,
		     size_t *ret_state_bytes, char **err)
{
	Vmmd__SavedMachine *msg = NULL;
	struct mig_machine m = { 0 };
	int ret;

	if (bytes <= MIG_STATE_BYTES_MAX)
		msg = vmmd__saved_machine__unpack(NULL, bytes, buf);
	if (!msg)
		return mig_say(err, -EBADMSG, "state.pb: not readable");
	ret = take_saved(msg, &m, ret_state, ret_state_bytes, err);
	vmmd__saved_machine__free_unpacked(msg, NULL);
	if (ret < 0) {
		mig_machine_fini(&m);
		return mig_say(err, ret, "state.pb: %s", strerror(-ret));
	}
	*ret_machine = m;
	return 0;
}
