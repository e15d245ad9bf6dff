/*
 * migrate/state_codec.h: a stopped machine as bytes and back (state.proto).
 *
 * Packing takes what vmm/ saved; unpacking believes nothing: every length and
 * count is checked against the bounds of vmm/state.h before it is used. What it
 * cannot judge (register contents) vm_state_load() does.
 *
 * Threads: pure functions but for the device tables they read: any thread, with
 *          all vCPUs parked.
 * Errors:  -errno and a line in *err (may be NULL): -EBADMSG damaged,
 *          -EOPNOTSUPP a newer format, -EINVAL not for this machine, -ENOMEM.
 */
#ifndef MIGRATE_STATE_CODEC_H
#define MIGRATE_STATE_CODEC_H

#include "migrate/hardware.h"
#include "vmm/device.h"
#include "vmm/state.h"
#include "vmm/vm.h"

/* Longest message that is looked at: 64 vCPUs and 64 devices, all full. */
#define MIG_STATE_BYTES_MAX (16u << 20)

/* *ret_buf is malloc'd. */
int mig_state_pack(const struct vm_state *s, uint8_t **ret_buf,
		   size_t *ret_bytes);
/*
 * vm: just made, so that a field that the message does not have keeps its value
 * of power-on. *ret_state: to be freed by vm_state_fini().
 */
int mig_state_unpack(const uint8_t *buf, size_t bytes, struct vm *vm,
		     struct vm_state *ret_state, char **err);
/* The same for a list of devices; any devices that the state does not name. */
int mig_state_unpack_for(const uint8_t *buf, size_t bytes,
			 struct vm_device *const *devices, size_t nr_devices,
			 struct vm_state *ret_state, char **err);

/* What vm_new() needs to build the machine that a state belongs to. */
struct mig_machine {
	uint64_t ram_bytes;
	unsigned int nr_cpus;
	enum vm_mem_backend mem_backend;
	uint32_t tsc_khz;
	struct kvm_cpuid_entry2 *cpuid; /* owned */
	size_t nr_cpuid;
	struct mig_hardware hardware; /* owned */
};

/* A copy of vm's. */
int mig_machine_of(struct vm *vm, struct mig_machine *ret_machine);
void mig_machine_fini(struct mig_machine *m);

/* state.pb: the machine and its packed state. *ret_buf is malloc'd. */
int mig_saved_pack(const struct mig_machine *m, const uint8_t *state,
		   size_t state_bytes, uint8_t **ret_buf, size_t *ret_bytes);
/* *ret_state is malloc'd and not yet looked at: for mig_state_unpack(). */
int mig_saved_unpack(const uint8_t *buf, size_t bytes,
		     struct mig_machine *ret_machine, uint8_t **ret_state,
		     size_t *ret_state_bytes, char **err);

#endif
