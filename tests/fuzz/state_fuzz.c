/* state.pb of a snapshot, and the state that a peer sends. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "migrate/state_codec.h"

/* A machine of one vCPU as a message, to be patched. */
static uint8_t *pack_sample(size_t *ret_bytes)
{
	struct vm_msr msr = { .index = 0x10, .value = 1 };
	struct vm_cpu_state cpu = { .msrs = &msr, .nr_msrs = 1 };
	struct vm_state state = {
		.nr_cpus = 1, .cpus = &cpu, .has_irqchip = true, .has_pit = true
	};
	struct kvm_cpuid_entry2 cpuid = { .function = 1 };
	struct mig_machine machine = { .ram_bytes = VM_RAM_BYTES_MIN,
				       .nr_cpus = 1,
				       .cpuid = &cpuid,
				       .nr_cpuid = 1 };
	uint8_t *packed = NULL, *saved = NULL;
	size_t packed_bytes = 0;

	cpu.xsave_bytes = 4096;
	cpu.xsave = calloc(1, cpu.xsave_bytes);
	FUZZ_CLAIM(cpu.xsave);
	FUZZ_CLAIM(mig_state_pack(&state, &packed, &packed_bytes) == 0);
	FUZZ_CLAIM(mig_saved_pack(&machine, packed, packed_bytes, &saved,
				  ret_bytes) == 0);
	free(packed);
	free(cpu.xsave);
	return saved;
}

static void try_state(const uint8_t *data, size_t bytes)
{
	struct vm_state state;
	char *err = NULL;

	if (mig_state_unpack_for(data, bytes, NULL, 0, &state, &err) == 0) {
		FUZZ_CLAIM(state.nr_cpus >= 1 && state.nr_cpus <= VM_CPUS_MAX);
		FUZZ_CLAIM(state.pending_event < VM_NR_EVENTS);
		vm_state_fini(&state);
	}
	free(err);
}

static void try_saved(const uint8_t *data, size_t bytes)
{
	struct mig_machine machine;
	size_t state_bytes;
	uint8_t *state;
	char *err = NULL;

	if (mig_saved_unpack(data, bytes, &machine, &state, &state_bytes,
			     &err) == 0) {
		FUZZ_CLAIM(machine.ram_bytes <= VM_RAM_BYTES_MAX);
		FUZZ_CLAIM(machine.nr_cpus <= VM_CPUS_MAX);
		try_state(state, state_bytes);
		free(state);
		mig_machine_fini(&machine);
	}
	free(err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static uint8_t *sample;
	static size_t sample_bytes;
	uint8_t *patched;

	if (!sample)
		sample = pack_sample(&sample_bytes);
	if (bytes == 0)
		return 0;
	if (data[0] % 2 == 0) {
		try_saved(data + 1, bytes - 1);
		try_state(data + 1, bytes - 1);
		return 0;
	}
	patched = malloc(sample_bytes);
	FUZZ_CLAIM(patched);
	memcpy(patched, sample, sample_bytes);
	fuzz_patch(patched, sample_bytes, data + 1, bytes - 1);
	try_saved(patched, sample_bytes);
	free(patched);
	return 0;
}
