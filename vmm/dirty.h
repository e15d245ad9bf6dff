/*
 * vmm/dirty.h: KVM's own dirty page reports, as raw mechanism.
 *
 * Which of them to use, and in which order, is migrate/tracker.h's business.
 * Bitmaps cover all RAM, one bit per page in offset order; slots start at
 * multiples of 64 pages, so KVM's per-slot bitmaps are parts of it.
 * KVM may call a page dirty that was only read (it maps it writable then).
 * Threads: one thread at a time. Errors: -errno from the ioctl.
 */
#ifndef VMM_DIRTY_H
#define VMM_DIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/vm.h"

struct vm_dirty_caps {
	bool manual;               /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	bool initially_set;        /* ... with KVM_DIRTY_LOG_INITIALLY_SET */
	uint32_t ring_entries_max; /* 0: KVM has no dirty ring */
	bool wp_all;    /* KVM_CAP_X86_WRITE_PROTECT_ALL, see compat/linux.h */
	bool log_flags; /* KVM_CAP_DIRTY_LOG_FLAGS with NO_PROTECT */
};

/* What /dev/kvm offers. kvm_fd: an open /dev/kvm. */
void vm_dirty_caps(int kvm_fd, struct vm_dirty_caps *ret_caps);
/* What it offers to this vm, tried where saying is not enough. Not while logging. */
void vm_dirty_caps_vm(struct vm *vm, struct vm_dirty_caps *ret_caps);

/* How the log gets pages protected again. The last two need their caps. */
enum vm_dirty_log {
	VM_DIRTY_LOG_FETCH, /* KVM_GET_DIRTY_LOG protects what it reports */
	/*
	 * KVM_CLEAR_DIRTY_LOG, piece by piece. With INITIALLY_SET where there is
	 * one: then the first fetch reports every page.
	 */
	VM_DIRTY_LOG_MANUAL,
	VM_DIRTY_LOG_WP_ALL, /* all pages at once after each fetch */
};

/*
 * KVM_MEM_LOG_DIRTY_PAGES on all slots, on and off. With a dirty ring, which
 * then takes the place of the log, only VM_DIRTY_LOG_FETCH.
 */
int vm_dirty_log_start(struct vm *vm, enum vm_dirty_log how);
int vm_dirty_log_stop(struct vm *vm);

/*
 * bitmap becomes KVM_GET_DIRTY_LOG of all slots. Clears it, and protects again, unless
 * manual.
 */
int vm_dirty_log_fetch(struct vm *vm, uint64_t *bitmap);
/*
 * KVM_CLEAR_DIRTY_LOG: the set bits of bitmap in [first_page, + nr_pages) are
 * cleared and protected again. Both multiples of 64, or up to the end of RAM;
 * a range may cross slots.
 */
int vm_dirty_log_clear(struct vm *vm, const uint64_t *bitmap,
		       uint64_t first_page, uint64_t nr_pages);

/*
 * Harvest every vCPU's ring and OR that into bitmap (NULL: forget it), then
 * KVM_RESET_DIRTY_RINGS protects what was harvested. vCPUs may run. What vCPU
 * threads harvested themselves when a ring was full is included. Once a ring was
 * overrun, which KVM should not allow, or a reset cut short, every page is reported
 * each time: nobody knows what is no longer protected, nor where KVM's and our idea
 * of the ring part.
 */
int vm_dirty_ring_collect(struct vm *vm, uint64_t *bitmap);

#endif
