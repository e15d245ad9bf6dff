/*
 * vmm/slice.h: threads that get a core soon after they wake.
 *
 * Of threads that have had no more than their share the scheduler takes the one whose
 * time slice would end first, and a slice is milliseconds: whoever wakes waits for most
 * of somebody else's. One with the shortest slice goes first, and takes no more of the
 * core in all (Linux Documentation/scheduler/sched-eevdf.rst). From Linux 6.12 on;
 * before that nothing changes.
 */
#ifndef VMM_SLICE_H
#define VMM_SLICE_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Of any thread of this process; is_short false: the kernel's own slice again. False
 * for one that is no ordinary thread now (urgent.h), and where the kernel refuses.
 */
bool vm_thread_slice_short(pid_t tid, bool is_short);

#endif
