/*
 * vmm/cpuid.h: what CPU the guest sees, and whether this host can show it.
 *
 * Pure functions of tables of CPUID leaves; any thread.
 */
#ifndef VMM_CPUID_H
#define VMM_CPUID_H

#include <stddef.h>
#include <linux/kvm.h>

/*
 * KVM_GET_SUPPORTED_CPUID and the TSC deadline timer; *ret_entries is malloc'd
 * with room for VM_CPUID_MAX (state.h).
 */
int vm_cpuid_supported(int kvm_fd, struct kvm_cpuid_entry2 **ret_entries,
		       size_t *ret_nr);
/*
 * Turn the supported set into the guest's table for nr_cpus vCPUs: one package
 * of single-threaded cores (leaves 1, 4, 0xb, 0x1f, 0x80000008, 0x8000001d,
 * 0x8000001e), the hypervisor bit set, VMX and SVM cleared, because the state of
 * a guest's own guests is not carried along. In place; *nr grows by the topology
 * levels that KVM leaves out, up to max, beyond which it is -E2BIG. Per-vCPU
 * APIC ids are filled in by vm_cpuid_for_cpu().
 */
int vm_cpuid_shape(struct kvm_cpuid_entry2 *entries, size_t *nr, size_t max,
		   unsigned int nr_cpus);
void vm_cpuid_for_cpu(struct kvm_cpuid_entry2 *entries, size_t nr,
		      unsigned int cpu);
/*
 * Every feature bit that `guest` has and `host` (a supported set) has not, one
 * line each through report(): "CPUID leaf 0x7.0 ebx: bits 0x00010000 missing".
 * Returns how many lines.
 */
size_t vm_cpuid_missing(const struct kvm_cpuid_entry2 *guest, size_t nr_guest,
			const struct kvm_cpuid_entry2 *host, size_t nr_host,
			void (*report)(void *ctx, const char *line), void *ctx);

#endif
