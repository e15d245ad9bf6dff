#include "vmm/urgent.h"

#include <sched.h>

void vm_thread_urgent(pthread_t thread, bool urgent)
{
	/* The flag stays: to take it away wants CAP_SYS_NICE, and all would fail. */
	int policy = (urgent ? SCHED_RR : SCHED_OTHER) | SCHED_RESET_ON_FORK;
	struct sched_param p = {
		.sched_priority = urgent ? sched_get_priority_min(SCHED_RR) : 0,
	};

	pthread_setschedparam(thread, policy, &p);
}
