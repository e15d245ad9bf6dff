#include "vmm/slice.h"

#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_SHORT_NS UINT64_C(100000) /* the least that Linux allows */

/*
 * SCHED_ATTR_SIZE_VER0 of linux/sched/types.h, which cannot be included where libc
 * has a struct sched_attr of its own (glibc 2.41).
 */
struct attr {
	uint32_t size;
	uint32_t sched_policy;
	uint64_t sched_flags;
	int32_t sched_nice;
	uint32_t sched_priority;
	uint64_t sched_runtime; /* ns; an ordinary one's slice, 0: any */
	uint64_t sched_deadline;
	uint64_t sched_period;
};

bool vm_thread_slice_short(pid_t tid, bool is_short)
{
	struct attr a;

	if (syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0) < 0 ||
	    a.sched_policy != SCHED_OTHER)
		return false;
	a.sched_runtime = is_short ? SLICE_SHORT_NS : 0;
	return syscall(SYS_sched_setattr, tid, &a, 0) == 0;
}
