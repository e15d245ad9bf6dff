/*
 * migrate/cpu_check.h: can this host show a guest the CPU it knows?
 *
 * KVM itself takes any CPUID and leaves the guest to die of it later, so whoever
 * brings a guest in asks here first. Any thread.
 */
#ifndef MIGRATE_CPU_CHECK_H
#define MIGRATE_CPU_CHECK_H

#include <linux/kvm.h>
#include <stddef.h>

/*
 * Tells report() each thing that is missing, one line each; returns how many.
 * A /dev/kvm that cannot be asked is one of them.
 */
size_t mig_cpu_missing(const struct kvm_cpuid_entry2 *guest, size_t nr,
		       void (*report)(void *ctx, const char *line), void *ctx);

#endif
