/*
 * tests/unit/tiny_guest.h: a machine with a few bytes of 32-bit code in it, and
 * a device that the code talks to.
 *
 * The code starts at CODE_GPA in flat protected mode without paging. Ports:
 * 0x500 counts: every read gives one more than the last; a write is the guest
 * saying that it read a wrong one. 0x501 takes text, 0x502 powers off.
 * MMIO at 0xc8000000: reads give back the offset plus what was written last.
 */
#ifndef TINY_GUEST_H
#define TINY_GUEST_H

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

#define CODE_GPA 0x2000
#define AP_GPA   0x1000 /* SIPI vector 1 */
#define DATA_GPA 0x3000

/* ebx and the word at DATA_GPA count for ever */
static const uint8_t tiny_counting[] = {
	0x43,                               /* 1: inc ebx */
	0x89, 0x1d, 0x00, 0x30, 0x00, 0x00, /* mov [0x3000], ebx */
	0xeb, 0xf7,                         /* jmp 1b */
};

struct tiny {
	struct vm_device device; /* first: ops get it back by a cast */
	struct vm *vm;
	sem_t events;
	uint32_t reads; /* device lock */
	uint32_t written;
	atomic_uint wrong;
	char text[64];
};

static void tiny_read(struct vm_device *d, unsigned int range, uint64_t offset,
		      uint8_t *data, unsigned int bytes)
{
	struct tiny *t = (struct tiny *)d;
	uint32_t value = range == 0 ? ++t->reads
				    : t->written + (uint32_t)offset;

	memcpy(data, &value, bytes < 4 ? bytes : 4);
}

static void tiny_write(struct vm_device *d, unsigned int range, uint64_t offset,
		       const uint8_t *data, unsigned int bytes)
{
	struct tiny *t = (struct tiny *)d;
	size_t n = strlen(t->text);

	if (range == 1)
		memcpy(&t->written, data, bytes < 4 ? bytes : 4);
	else if (offset == 0)
		atomic_fetch_add(&t->wrong, 1);
	else if (offset == 1 && n + 1 < sizeof(t->text))
		t->text[n] = (char)data[0];
	else if (offset == 2)
		vm_event_post(t->vm, VM_EVENT_POWEROFF, "port 0x502");
}

static void tiny_reset(struct vm_device *d)
{
	((struct tiny *)d)->reads = 0;
}

struct tiny_state {
	uint32_t reads;
};

static void tiny_save(struct vm_device *d, void *state)
{
	((struct tiny_state *)state)->reads = ((struct tiny *)d)->reads;
}

static int tiny_load(struct vm_device *d, const void *state)
{
	((struct tiny *)d)->reads = ((const struct tiny_state *)state)->reads;
	return 0;
}

static void tiny_device_free(struct vm_device *d)
{
	(void)d; /* the test's */
}

static const struct vm_field tiny_fields[] = {
	VM_FIELD(1, VM_FIELD_UINT, struct tiny_state, reads),
};

static const struct vm_device_ops tiny_ops = {
	.name = "tiny",
	.read = tiny_read,
	.write = tiny_write,
	.reset = tiny_reset,
	.fields = tiny_fields,
	.nr_fields = 1,
	.state_bytes = sizeof(struct tiny_state),
	.save = tiny_save,
	.load = tiny_load,
	.free = tiny_device_free,
};

static void tiny_event(void *ctx)
{
	sem_post(&((struct tiny *)ctx)->events);
}

static size_t tiny_serial_output(void *ctx, const uint8_t *data, size_t bytes)
{
	(void)ctx;
	(void)data;
	return bytes;
}

static const struct vm_ops tiny_vm_ops = {
	.event = tiny_event,
	.serial_output = tiny_serial_output,
};

static inline struct tiny *tiny_new(const struct vm_config *cfg)
{
	struct tiny *t = calloc(1, sizeof(*t));
	char *err = NULL;

	assert_non_null(t);
	sem_init(&t->events, 0, 0);
	t->device.ops = &tiny_ops;
	t->device.nr_ranges = 2;
	t->device.ranges[0] = (struct vm_device_range){ VM_BUS_PIO, 0x500, 4 };
	t->device.ranges[1] = (struct vm_device_range){ VM_BUS_MMIO, 0xc8000000,
							4096 };
	if (vm_new(cfg, &tiny_vm_ops, t, &t->vm, &err) < 0)
		fail_msg("%s", err);
	assert_int_equal(vm_device_add(t->vm, &t->device), 0);
	return t;
}

static inline void tiny_free(struct tiny *t)
{
	vm_free(t->vm);
	sem_destroy(&t->events);
	free(t);
}

static inline void tiny_code(struct tiny *t, const void *code, size_t bytes)
{
	const struct kvm_segment flat = {
		.limit = 0xffffffff,
		.selector = 0x10,
		.type = 3,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	assert_int_equal(vm_mem_write(t->vm->mem, CODE_GPA, code, bytes), 0);
	assert_int_equal(vm_vcpu_get_entry(t->vm, &regs, &sregs), 0);
	sregs.cr0 |= 1;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
	sregs.cs = flat;
	sregs.cs.type = 0xb;
	sregs.cs.selector = 8;
	memset(&regs, 0, sizeof(regs));
	regs.rip = CODE_GPA;
	regs.rflags = 2;
	assert_int_equal(vm_vcpu_set_entry(t->vm, &regs, &sregs), 0);
}

#define PML4_GPA 0x10000
#define PDPT_GPA 0x11000
#define PD_GPA   0x12000 /* 8 of them: 8 GiB in 2 MiB pages */
#define TSS_GPA  0x20000

/*
 * Page tables and a TSS for CPL 3: everything present, writable, user's, and
 * already accessed and dirty, so that nobody writes to them.
 */
static inline void tiny_tables(struct tiny *t)
{
	const uint16_t iomap_at = 0x68;
	uint64_t entry = PDPT_GPA | 0x27;
	struct vm_mem *m = t->vm->mem;

	assert_int_equal(vm_mem_write(m, PML4_GPA, &entry, 8), 0);
	for (uint64_t i = 0; i < 8; i++) {
		entry = (PD_GPA + i * 4096) | 0x27;
		assert_int_equal(vm_mem_write(m, PDPT_GPA + i * 8, &entry, 8),
				 0);
	}
	for (uint64_t i = 0; i < 8 * 512; i++) {
		entry = i << 21 | 0xe7;
		assert_int_equal(vm_mem_write(m, PD_GPA + i * 8, &entry, 8), 0);
	}
	assert_int_equal(vm_mem_write(m, TSS_GPA + 0x66, &iomap_at, 2), 0);
}

/*
 * As tiny_code(), in 64-bit mode at CPL 3 with all ports allowed: there, even
 * where KVM interprets kernel code, the guest runs on the real CPU.
 */
static inline void tiny_code64(struct tiny *t, const void *code, size_t bytes)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	tiny_code(t, code, bytes);
	tiny_tables(t);
	assert_int_equal(vm_vcpu_get_entry(t->vm, &regs, &sregs), 0);
	sregs.cr3 = PML4_GPA;
	sregs.cr4 |= 1 << 5;                          /* PAE */
	sregs.efer |= 1 << 8 | 1 << 10;               /* LME, LMA */
	sregs.cr0 |= UINT32_C(1) << 31 | 1 << 16 | 1; /* PG, WP, PE */
	sregs.cs.db = 0;
	sregs.cs.l = 1;
	sregs.cs.selector = 0x1b;
	sregs.ds.selector = sregs.es.selector = sregs.ss.selector = 0x13;
	sregs.cs.dpl = sregs.ds.dpl = sregs.es.dpl = sregs.ss.dpl = 3;
	sregs.tr = (struct kvm_segment){
		.base = TSS_GPA,
		.limit = 0x68 + 8192,
		.selector = 0x20,
		.type = 0xb,
		.present = 1,
	};
	assert_int_equal(vm_vcpu_set_entry(t->vm, &regs, &sregs), 0);
}

static inline uint32_t tiny_peek(struct tiny *t, uint64_t gpa)
{
	uint64_t offset;

	assert_int_equal(vm_mem_gpa_to_offset(t->vm->mem, gpa, 4, &offset), 0);
	return __atomic_load_n((uint32_t *)(vm_mem_base(t->vm->mem) + offset),
			       __ATOMIC_RELAXED);
}

static inline void tiny_sleep_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

#define TINY_PATIENCE_S 60

/* Waits until the word at gpa is another than `old`, at most TINY_PATIENCE_S. */
static inline uint32_t tiny_wait_change(struct tiny *t, uint64_t gpa,
					uint32_t old)
{
	for (int i = 0; i < TINY_PATIENCE_S * 1000 && tiny_peek(t, gpa) == old;
	     i++)
		tiny_sleep_ms(1);
	return tiny_peek(t, gpa);
}

static inline void tiny_wait_event(struct tiny *t)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += TINY_PATIENCE_S;
	assert_int_equal(sem_timedwait(&t->events, &ts), 0);
	assert_int_equal(vm_pause(t->vm), 0);
}

/* Exits the program with 77 where there is no KVM, having said why. */
static inline void tiny_need_kvm(void)
{
	char *err = NULL;
	int fd;

	if (vm_kvm_open(&fd, &err) == 0) {
		close(fd);
		return;
	}
	printf("skipped: %s\n", err ? err : "no KVM");
	free(err);
	exit(77);
}

#endif
