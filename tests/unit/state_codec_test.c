/*
 * A machine's state comes back as it went, and nothing that is not such a state
 * is believed or does harm.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "migrate/state_codec.h"
#include "proto/state.pb-c.h"

#define CPUS  2u
#define MSRS  40u
#define FLIPS 10000u

struct toy_state {
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	uint8_t array[24];
};

static const struct vm_field toy_fields[] = {
	VM_FIELD(1, VM_FIELD_UINT, struct toy_state, u8),
	VM_FIELD(2, VM_FIELD_UINT, struct toy_state, u16),
	VM_FIELD(4, VM_FIELD_UINT, struct toy_state, u32),
	VM_FIELD(5, VM_FIELD_UINT, struct toy_state, u64),
	VM_FIELD(6, VM_FIELD_BYTES, struct toy_state, array),
};

/* What a device is like after power-on. */
static void toy_save(struct vm_device *d, void *state)
{
	(void)d;
	memset(state, 0x5a, sizeof(struct toy_state));
}

static const struct vm_device_ops toy_ops = {
	.name = "toy",
	.fields = toy_fields,
	.nr_fields = sizeof(toy_fields) / sizeof(*toy_fields),
	.state_bytes = sizeof(struct toy_state),
	.save = toy_save,
};

static struct vm_device toy = {
	.ops = &toy_ops,
	.lock = PTHREAD_MUTEX_INITIALIZER,
};
static struct vm_device *const devices[] = { &toy };

static uint64_t seed;

static uint64_t next_random(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return seed >> 20;
}

static void scramble(void *p, size_t bytes)
{
	uint8_t *b = p;

	while (bytes-- > 0)
		*b++ = (uint8_t)next_random();
}

static void make_cpu(struct vm_cpu_state *c)
{
	scramble(c, sizeof(*c));
	c->xsave_bytes = 4096 + 64;
	c->xsave = malloc(c->xsave_bytes);
	c->nr_msrs = MSRS;
	c->msrs = calloc(MSRS, sizeof(*c->msrs));
	assert_non_null(c->xsave);
	assert_non_null(c->msrs);
	scramble(c->xsave, c->xsave_bytes);
	for (size_t i = 0; i < MSRS; i++)
		c->msrs[i] = (struct vm_msr){ (uint32_t)next_random(),
					      next_random() << 24 };
}

static void make_state(struct vm_state *s)
{
	seed = 1;
	memset(s, 0, sizeof(*s));
	s->nr_cpus = CPUS;
	s->cpus = calloc(CPUS, sizeof(*s->cpus));
	assert_non_null(s->cpus);
	for (size_t i = 0; i < CPUS; i++)
		make_cpu(&s->cpus[i]);
	s->has_irqchip = s->has_pit = true;
	scramble(&s->pic_master, sizeof(s->pic_master));
	scramble(&s->pic_slave, sizeof(s->pic_slave));
	scramble(&s->ioapic, sizeof(s->ioapic));
	scramble(&s->pit, sizeof(s->pit));
	s->clock_ns = 1234567890123456789u;
	s->realtime_ns = UINT64_MAX;
	s->pending_event = VM_EVENT_RESET;
	strcpy(s->pending_reason, "a reset it asked for");
	s->nr_devices = 1;
	s->devices = calloc(1, sizeof(*s->devices));
	assert_non_null(s->devices);
	s->devices[0] = (struct vm_device_state){
		.name = "toy",
		.fields = toy_fields,
		.nr_fields = toy_ops.nr_fields,
		.data = calloc(1, sizeof(struct toy_state)),
		.bytes = sizeof(struct toy_state),
	};
	assert_non_null(s->devices[0].data);
	scramble(s->devices[0].data, sizeof(struct toy_state));
}

static void pack(uint8_t **buf, size_t *bytes)
{
	struct vm_state s;

	make_state(&s);
	assert_int_equal(mig_state_pack(&s, buf, bytes), 0);
	vm_state_fini(&s);
}

static int unpack(const uint8_t *buf, size_t bytes, struct vm_state *s,
		  char **err)
{
	*err = NULL;
	return mig_state_unpack_for(buf, bytes, devices, 1, s, err);
}

static void assert_toy_equal(const struct toy_state *a,
			     const struct toy_state *b)
{
	assert_int_equal(a->u8, b->u8);
	assert_int_equal(a->u16, b->u16);
	assert_int_equal(a->u32, b->u32);
	assert_true(a->u64 == b->u64);
	assert_memory_equal(a->array, b->array, sizeof(a->array));
}

static void assert_cpu_equal(const struct vm_cpu_state *a,
			     const struct vm_cpu_state *b)
{
	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	assert_memory_equal(&a->sregs2, &b->sregs2, sizeof(a->sregs2));
	assert_memory_equal(&a->lapic, &b->lapic, sizeof(a->lapic));
	assert_memory_equal(&a->mp_state, &b->mp_state, sizeof(a->mp_state));
	assert_memory_equal(&a->events, &b->events, sizeof(a->events));
	assert_memory_equal(&a->debugregs, &b->debugregs, sizeof(a->debugregs));
	assert_memory_equal(&a->xcrs, &b->xcrs, sizeof(a->xcrs));
	assert_int_equal(a->xsave_bytes, b->xsave_bytes);
	assert_memory_equal(a->xsave, b->xsave, a->xsave_bytes);
	assert_int_equal(a->nr_msrs, b->nr_msrs);
	for (size_t i = 0; i < a->nr_msrs; i++) {
		assert_int_equal(a->msrs[i].index, b->msrs[i].index);
		assert_true(a->msrs[i].value == b->msrs[i].value);
	}
	assert_true(a->tsc == b->tsc);
	assert_int_equal(a->tsc_khz, b->tsc_khz);
}

static void test_round_trip(void **state)
{
	struct vm_state a, b;
	uint8_t *buf;
	size_t bytes;
	char *err;

	(void)state;
	pack(&buf, &bytes);
	make_state(&a);
	assert_int_equal(unpack(buf, bytes, &b, &err), 0);
	assert_int_equal(b.nr_cpus, CPUS);
	for (size_t i = 0; i < CPUS; i++)
		assert_cpu_equal(&a.cpus[i], &b.cpus[i]);
	assert_true(b.has_irqchip && b.has_pit);
	assert_memory_equal(&a.pic_master, &b.pic_master, sizeof(a.pic_master));
	assert_memory_equal(&a.pic_slave, &b.pic_slave, sizeof(a.pic_slave));
	assert_memory_equal(&a.ioapic, &b.ioapic, sizeof(a.ioapic));
	assert_memory_equal(&a.pit, &b.pit, sizeof(a.pit));
	assert_true(a.clock_ns == b.clock_ns);
	assert_true(a.realtime_ns == b.realtime_ns);
	assert_int_equal(b.pending_event, VM_EVENT_RESET);
	assert_string_equal(b.pending_reason, "a reset it asked for");
	assert_int_equal(b.nr_devices, 1);
	assert_toy_equal(a.devices[0].data, b.devices[0].data);
	vm_state_fini(&a);
	vm_state_fini(&b);
	free(buf);
}

static void test_cut_anywhere_is_refused(void **state)
{
	struct vm_state s;
	uint8_t *buf, *cut;
	size_t bytes;
	char *err;

	(void)state;
	pack(&buf, &bytes);
	for (size_t n = 0; n < bytes; n++) {
		cut = malloc(n + 1); /* so that a read past it is noticed */
		assert_non_null(cut);
		memcpy(cut, buf, n);
		assert_true(unpack(cut, n, &s, &err) < 0);
		assert_non_null(err);
		free(err);
		free(cut);
	}
	free(buf);
}

static void test_flipped_bits_do_no_harm(void **state)
{
	struct vm_state s;
	uint8_t *buf;
	size_t bytes;
	char *err;

	(void)state;
	pack(&buf, &bytes);
	seed = 42;
	for (unsigned int i = 0; i < FLIPS; i++) {
		uint64_t at = next_random() % (8 * bytes);

		/* Structure is rare among the bytes of state: aim at it. */
		if (i % 2)
			at %= 8 * 64;
		buf[at / 8] ^= (uint8_t)(1u << at % 8);
		if (unpack(buf, bytes, &s, &err) == 0)
			vm_state_fini(&s);
		free(err);
		buf[at / 8] ^= (uint8_t)(1u << at % 8);
	}
	free(buf);
}

/* Repacks after a change that only a newer or hostile peer would make. */
static int unpack_changed(void (*change)(Vmmd__VmState *msg),
			  struct vm_state *s, char **err)
{
	uint8_t *buf, *changed;
	Vmmd__VmState *msg;
	size_t bytes;
	int ret;

	pack(&buf, &bytes);
	msg = vmmd__vm_state__unpack(NULL, bytes, buf);
	free(buf);
	assert_non_null(msg);
	change(msg);
	bytes = vmmd__vm_state__get_packed_size(msg);
	changed = malloc(bytes);
	assert_non_null(changed);
	vmmd__vm_state__pack(msg, changed);
	vmmd__vm_state__free_unpacked(msg, NULL);
	ret = unpack(changed, bytes, s, err);
	free(changed);
	return ret;
}

static void newer_version(Vmmd__VmState *m)
{
	m->version = 2;
}

static void newer_device(Vmmd__VmState *m)
{
	m->devices[0]->version = 9;
}

static void other_device(Vmmd__VmState *m)
{
	m->devices[0]->name[0] = 'T';
}

static void short_blob(Vmmd__VmState *m)
{
	m->cpus[1]->regs.len--;
}

static void grow_events(Vmmd__VmState *m, uint8_t last)
{
	ProtobufCBinaryData *b = &m->cpus[0]->events;

	uint8_t *data = realloc(b->data, b->len + 8);

	assert_non_null(data);
	b->data = data;
	memset(b->data + b->len, 0, 8);
	b->len += 8;
	b->data[b->len - 1] = last;
}

static void long_blob(Vmmd__VmState *m)
{
	grow_events(m, 1);
}

static void long_zero_blob(Vmmd__VmState *m)
{
	grow_events(m, 0);
}

static void odd_msrs(Vmmd__VmState *m)
{
	m->cpus[0]->n_msr_value--;
}

static void small_xsave(Vmmd__VmState *m)
{
	m->cpus[0]->xsave.len = 4095;
}

static void wide_value(Vmmd__VmState *m)
{
	m->devices[0]->fields[0]->value = 256;
}

static void short_array(Vmmd__VmState *m)
{
	m->devices[0]->fields[4]->data.len--;
}

static void unknown_event(Vmmd__VmState *m)
{
	m->pending_event = VM_NR_EVENTS;
}

static void more_cpus_said(Vmmd__VmState *m)
{
	m->nr_cpus = 64;
}

static void test_refusals_say_what(void **state)
{
	static const struct {
		void (*change)(Vmmd__VmState *msg);
		int ret;
		const char *says;
	} cases[] = {
		{ newer_version, -EOPNOTSUPP, "format 2" },
		{ newer_device, -EOPNOTSUPP, "toy has format 9" },
		{ other_device, -EINVAL, "'Toy'" },
		{ short_blob, -EBADMSG, "regs: 143 bytes" },
		{ long_blob, -EOPNOTSUPP, "events: 72 bytes" },
		{ odd_msrs, -EBADMSG, "MSRs: 40 indices and 39" },
		{ small_xsave, -EBADMSG, "xsave: 4095" },
		{ wide_value, -EBADMSG, "device toy: field 1" },
		{ short_array, -EBADMSG, "field 6 has 23 bytes" },
		{ unknown_event, -EBADMSG, "no event" },
		{ more_cpus_said, -EBADMSG, "64 vCPUs and has 2" },
	};
	struct vm_state s;
	char *err;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		assert_int_equal(unpack_changed(cases[i].change, &s, &err),
				 cases[i].ret);
		assert_non_null(err);
		if (!strstr(err, cases[i].says))
			fail_msg("'%s' does not say '%s'", err, cases[i].says);
		free(err);
	}
	assert_int_equal(unpack_changed(long_zero_blob, &s, &err), 0);
	vm_state_fini(&s);
}

static void renumber_field(Vmmd__VmState *m)
{
	m->devices[0]->fields[1]->id = 3; /* u16 is gone, 3 unknown */
}

/* A newer device's field is skipped; one it no longer sends is as reset. */
static void test_fields_come_and_go(void **state)
{
	const struct toy_state *got;
	struct vm_state s, want;
	char *err;

	(void)state;
	assert_int_equal(unpack_changed(renumber_field, &s, &err), 0);
	make_state(&want);
	got = s.devices[0].data;
	assert_int_equal(got->u16, 0x5a5a);
	((struct toy_state *)want.devices[0].data)->u16 = 0x5a5a;
	assert_toy_equal(got, want.devices[0].data);
	vm_state_fini(&s);
	vm_state_fini(&want);
}

static void test_unknown_fields_are_skipped(void **state)
{
	/* Field 100, 3 bytes. */
	static const uint8_t extra[] = { 0xa2, 0x06, 3, 1, 2, 3 };
	struct vm_state s;
	uint8_t *longer, *buf;
	size_t bytes;
	char *err;

	(void)state;
	pack(&buf, &bytes);
	longer = realloc(buf, bytes + sizeof(extra));
	assert_non_null(longer);
	buf = longer;
	memcpy(buf + bytes, extra, sizeof(extra));
	assert_int_equal(unpack(buf, bytes + sizeof(extra), &s, &err), 0);
	vm_state_fini(&s);
	free(buf);
}

static void test_saved_machine_round_trip(void **state)
{
	struct kvm_cpuid_entry2 leaves[3];
	struct mig_machine b, a = {
		.ram_bytes = UINT64_C(5) << 30,
		.nr_cpus = 3,
		.mem_backend = VM_MEM_MEMFD,
		.tsc_khz = 2900000,
		.cpuid = leaves,
		.nr_cpuid = 3,
	};
	uint8_t *buf, *got;
	size_t bytes, got_bytes;
	char *err = NULL;

	(void)state;
	seed = 7;
	scramble(leaves, sizeof(leaves));
	assert_int_equal(
		mig_saved_pack(&a, (const uint8_t *)"state", 5, &buf, &bytes),
		0);
	assert_int_equal(
		mig_saved_unpack(buf, bytes, &b, &got, &got_bytes, &err), 0);
	assert_true(b.ram_bytes == a.ram_bytes);
	assert_int_equal(b.nr_cpus, 3);
	assert_int_equal(b.mem_backend, VM_MEM_MEMFD);
	assert_int_equal(b.tsc_khz, 2900000);
	assert_int_equal(b.nr_cpuid, 3);
	assert_memory_equal(b.cpuid, leaves, sizeof(leaves));
	assert_int_equal(got_bytes, 5);
	assert_memory_equal(got, "state", 5);
	mig_machine_fini(&b);
	free(got);
	for (size_t n = 0; n < bytes; n++) {
		assert_true(mig_saved_unpack(buf, n, &b, &got, &got_bytes,
					     &err) < 0);
		free(err);
		err = NULL;
	}
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_cut_anywhere_is_refused),
		cmocka_unit_test(test_flipped_bits_do_no_harm),
		cmocka_unit_test(test_refusals_say_what),
		cmocka_unit_test(test_fields_come_and_go),
		cmocka_unit_test(test_unknown_fields_are_skipped),
		cmocka_unit_test(test_saved_machine_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
