/* migrate/state_codec.c: packing, and what a machine is. state_unpack.c has the
 * way back. */
#include "migrate/state_codec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/hardware_codec.h"
#include "migrate/say.h"
#include "migrate/state_version.h"
#include "proto/state.pb-c.h"

/*
 * A message under construction: its lists are allocated here, everything else
 * points into the vm_state.
 */
struct pack {
	Vmmd__VmState msg;
	Vmmd__IrqchipState irqchip;
	Vmmd__CpuState *cpus;
	Vmmd__DeviceState *devices;
};

static ProtobufCBinaryData blob(const void *p, size_t bytes)
{
	return (ProtobufCBinaryData){ .len = bytes, .data = (uint8_t *)p };
}

#define BLOB(x) blob(&(x), sizeof(x))

/* n objects of bytes each, and the list of pointers that protobuf-c wants. */
static int new_list(size_t n, size_t bytes, void **ret_objects,
		    void ***ret_list)
{
	uint8_t *objects = calloc(n ? n : 1, bytes);
	void **list = calloc(n ? n : 1, sizeof(*list));

	if (!objects || !list) {
		free(objects);
		free(list);
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++)
		list[i] = objects + i * bytes;
	*ret_objects = objects;
	*ret_list = list;
	return 0;
}

static int pack_msrs(Vmmd__CpuState *msg, const struct vm_cpu_state *s)
{
	size_t n = s->nr_msrs;

	if (n == 0)
		return 0;
	msg->msr_index = calloc(n, sizeof(*msg->msr_index));
	msg->msr_value = calloc(n, sizeof(*msg->msr_value));
	if (!msg->msr_index || !msg->msr_value)
		return -ENOMEM;
	msg->n_msr_index = n;
	msg->n_msr_value = n;
	for (size_t i = 0; i < n; i++) {
		msg->msr_index[i] = s->msrs[i].index;
		msg->msr_value[i] = s->msrs[i].value;
	}
	return 0;
}

static int pack_cpu(Vmmd__CpuState *msg, const struct vm_cpu_state *s)
{
	vmmd__cpu_state__init(msg);
	msg->regs = BLOB(s->regs);
	msg->sregs2 = BLOB(s->sregs2);
	msg->lapic = BLOB(s->lapic);
	msg->mp_state = BLOB(s->mp_state);
	msg->events = BLOB(s->events);
	msg->debugregs = BLOB(s->debugregs);
	msg->xcrs = BLOB(s->xcrs);
	msg->xsave = blob(s->xsave, s->xsave_bytes);
	msg->tsc = s->tsc;
	msg->tsc_khz = s->tsc_khz;
	return pack_msrs(msg, s);
}

static uint64_t load_uint(const uint8_t *p, uint32_t bytes)
{
	uint64_t value = 0;

	memcpy(&value, p, bytes); /* x86-64 only, so little-endian */
	return value;
}

static void pack_field(Vmmd__DeviceField *msg, const struct vm_field *f,
		       const uint8_t *data)
{
	vmmd__device_field__init(msg);
	msg->id = f->id;
	if (f->kind == VM_FIELD_UINT)
		msg->value = load_uint(data + f->offset, f->bytes);
	else
		msg->data = blob(data + f->offset, f->bytes);
}

static int pack_device(Vmmd__DeviceState *msg, const struct vm_device_state *s)
{
	void *fields;
	int ret;

	vmmd__device_state__init(msg);
	msg->name = (char *)s->name;
	msg->version = STATE_VERSION;
	ret = new_list(s->nr_fields, sizeof(Vmmd__DeviceField), &fields,
		       (void ***)&msg->fields);
	if (ret < 0)
		return ret;
	msg->n_fields = s->nr_fields;
	for (size_t i = 0; i < s->nr_fields; i++)
		pack_field(msg->fields[i], &s->fields[i], s->data);
	return 0;
}

static int pack_cpus(struct pack *p, const struct vm_state *s)
{
	int ret;

	ret = new_list(s->nr_cpus, sizeof(*p->cpus), (void **)&p->cpus,
		       (void ***)&p->msg.cpus);
	if (ret < 0)
		return ret;
	p->msg.n_cpus = p->msg.nr_cpus = s->nr_cpus;
	for (size_t i = 0; i < s->nr_cpus && ret == 0; i++)
		ret = pack_cpu(&p->cpus[i], &s->cpus[i]);
	return ret;
}

static int pack_devices(struct pack *p, const struct vm_state *s)
{
	int ret;

	ret = new_list(s->nr_devices, sizeof(*p->devices), (void **)&p->devices,
		       (void ***)&p->msg.devices);
	if (ret < 0)
		return ret;
	p->msg.n_devices = p->msg.nr_devices = (uint32_t)s->nr_devices;
	for (size_t i = 0; i < s->nr_devices && ret == 0; i++)
		ret = pack_device(&p->devices[i], &s->devices[i]);
	return ret;
}

static void pack_chips(struct pack *p, const struct vm_state *s)
{
	if (s->has_irqchip) {
		vmmd__irqchip_state__init(&p->irqchip);
		p->irqchip.pic_master = BLOB(s->pic_master);
		p->irqchip.pic_slave = BLOB(s->pic_slave);
		p->irqchip.ioapic = BLOB(s->ioapic);
		p->msg.irqchip = &p->irqchip;
	}
	if (s->has_pit)
		p->msg.pit = BLOB(s->pit);
}

static void pack_fini(struct pack *p)
{
	for (size_t i = 0; i < p->msg.n_cpus; i++) {
		free(p->cpus[i].msr_index);
		free(p->cpus[i].msr_value);
	}
	for (size_t i = 0; i < p->msg.n_devices; i++) {
		if (p->devices[i].n_fields > 0)
			free(p->devices[i].fields[0]);
		free(p->devices[i].fields);
	}
	free(p->cpus);
	free(p->msg.cpus);
	free(p->devices);
	free(p->msg.devices);
}

static int encode(const ProtobufCMessage *msg, uint8_t **ret_buf,
		  size_t *ret_bytes)
{
	size_t bytes = protobuf_c_message_get_packed_size(msg);
	uint8_t *buf;

	if (bytes > MIG_STATE_BYTES_MAX)
		return -EMSGSIZE;
	buf = malloc(bytes ? bytes : 1);
	if (!buf)
		return -ENOMEM;
	protobuf_c_message_pack(msg, buf);
	*ret_buf = buf;
	*ret_bytes = bytes;
	return 0;
}

int mig_state_pack(const struct vm_state *s, uint8_t **ret_buf,
		   size_t *ret_bytes)
{
	struct pack p = { 0 };
	int ret;

	vmmd__vm_state__init(&p.msg);
	p.msg.version = STATE_VERSION;
	p.msg.clock_ns = s->clock_ns;
	p.msg.realtime_ns = s->realtime_ns;
	p.msg.pending_event = s->pending_event;
	p.msg.pending_reason = (char *)s->pending_reason;
	p.msg.end = 1;
	pack_chips(&p, s);
	ret = pack_cpus(&p, s);
	if (ret == 0)
		ret = pack_devices(&p, s);
	if (ret == 0)
		ret = encode(&p.msg.base, ret_buf, ret_bytes);
	pack_fini(&p);
	return ret;
}

int mig_machine_of(struct vm *vm, struct mig_machine *ret_machine)
{
	const struct kvm_cpuid_entry2 *cpuid;
	struct mig_machine m = {
		.ram_bytes = vm_mem_bytes(vm_mem(vm)),
		.nr_cpus = vm_nr_cpus(vm),
		.mem_backend = vm_mem_backend(vm_mem(vm)),
		.tsc_khz = vm_tsc_khz(vm),
		.nr_cpuid = vm_cpuid(vm, &cpuid),
	};

	int ret;

	m.cpuid = calloc(m.nr_cpuid ? m.nr_cpuid : 1, sizeof(*m.cpuid));
	if (!m.cpuid)
		return -ENOMEM;
	memcpy(m.cpuid, cpuid, m.nr_cpuid * sizeof(*cpuid));
	ret = mig_hardware_of(vm, &m.hardware);
	if (ret < 0)
		mig_machine_fini(&m);
	else
		*ret_machine = m;
	return ret;
}

void mig_machine_fini(struct mig_machine *m)
{
	mig_hardware_fini(&m->hardware);
	free(m->cpuid);
	m->cpuid = NULL;
}

int mig_saved_pack(const struct mig_machine *m, const uint8_t *state,
		   size_t state_bytes, uint8_t **ret_buf, size_t *ret_bytes)
{
	Vmmd__SavedMachine msg = VMMD__SAVED_MACHINE__INIT;
	Vmmd__Machine machine = VMMD__MACHINE__INIT;
	struct mig_hardware_msg hw;

	machine.version = STATE_VERSION;
	machine.ram_bytes = m->ram_bytes;
	machine.nr_cpus = m->nr_cpus;
	machine.mem_backend = (char *)vm_mem_backend_name(m->mem_backend);
	machine.tsc_khz = m->tsc_khz;
	machine.cpuid = blob(m->cpuid, m->nr_cpuid * sizeof(*m->cpuid));
	machine.nr_cpuid = (uint32_t)m->nr_cpuid;
	if (mig_hardware_is_any(&m->hardware)) {
		mig_hardware_fill(&m->hardware, &hw);
		machine.hardware = &hw.msg;
	}
	msg.machine = &machine;
	msg.state = blob(state, state_bytes);
	return encode(&msg.base, ret_buf, ret_bytes);
}
