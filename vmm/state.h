/*
 * vmm/state.h: the state of a stopped machine as plain structs.
 *
 * vmm/ fills and applies these; migrate/ turns them into messages. kvm_* structs
 * are the kernel's stable ABI (linux/kvm.h, asm/kvm.h) and are carried whole.
 * Life:    vm_state_save() allocates, vm_state_fini() frees what hangs below.
 */
#ifndef VMM_STATE_H
#define VMM_STATE_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VM_CPUS_MAX        64
#define VM_MSRS_MAX        1024
#define VM_XSAVE_BYTES_MAX (64u << 10)
#define VM_CPUID_MAX       256
#define VM_DEVICES_MAX     64
#define VM_REASON_BYTES    160 /* of an event, with its NUL */

struct vm_msr {
	uint32_t index;
	uint64_t value;
};

struct vm_cpu_state {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs2; /* from kvm_sregs where the host is older */
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	uint8_t *xsave; /* owned; >= 4096 bytes (struct kvm_xsave, XSAVE2) */
	uint32_t xsave_bytes;
	struct vm_msr *msrs; /* owned; without MSR_IA32_TSC */
	uint32_t nr_msrs;
	uint64_t tsc; /* guest TSC at vm_state.clock, see there */
	uint32_t tsc_khz;
};

/* Something the guest did that ends or restarts it; see vm_event_take(). */
enum vm_event {
	VM_EVENT_NONE,
	VM_EVENT_POWEROFF,
	VM_EVENT_RESET,
	VM_EVENT_CRASH, /* KVM could not go on: vm_event_reason() */
	VM_NR_EVENTS
};

/*
 * A device's state: `bytes` bytes of the device's own plain struct, laid out as
 * its vm_field table says (device.h).
 */
struct vm_device_state {
	const char *name; /* borrowed: the device's */
	const struct vm_field *fields;
	size_t nr_fields;
	void *data; /* owned */
	size_t bytes;
};

/*
 * Time: every cpus[].tsc, clock and realtime_ns describe one instant, the one
 * at which the clock was read after all vCPUs had stopped.
 */
struct vm_state {
	unsigned int nr_cpus;
	struct vm_cpu_state *cpus; /* owned */
	bool has_irqchip;
	struct kvm_irqchip pic_master, pic_slave, ioapic;
	bool has_pit;
	struct kvm_pit_state2 pit;
	uint64_t clock_ns;    /* kvmclock */
	uint64_t realtime_ns; /* this host's CLOCK_REALTIME */
	enum vm_event pending_event;
	char pending_reason[VM_REASON_BYTES]; /* NUL terminated */
	size_t nr_devices;
	struct vm_device_state *devices; /* owned */
};

void vm_state_fini(struct vm_state *s);

#endif
