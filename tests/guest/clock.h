/*
 * clock.h: kvmclock, and TSC differences in its terms.
 *
 * The page layout and formula are Linux's
 * Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW.
 */
#ifndef GUEST_CLOCK_H
#define GUEST_CLOCK_H

#include <stdint.h>

#define NS_PER_S  UINT64_C(1000000000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_US UINT64_C(1000)

struct pvclock {
	volatile uint32_t version; /* odd: being written */
	uint32_t pad;
	volatile uint64_t tsc_timestamp;
	volatile uint64_t system_time;
	volatile uint32_t tsc_to_system_mul;
	volatile int8_t tsc_shift;
	volatile uint8_t flags;
	uint8_t pad2[2];
};

/* Now, in ns; also the TSC reading it was made from. */
uint64_t clock_ns(const struct pvclock *p, uint64_t *ret_tsc);
uint64_t clock_tsc_to_ns(const struct pvclock *p, uint64_t tsc);
/* Derived from the page each time: it may change when the guest moves. */
uint64_t clock_tsc_hz(const struct pvclock *p);

#endif
