#include "migrate/faultpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migrate/session.h"

#define STALL_S 5

/* The action, when VMMD_FAULT names this point and has not fired yet. */
static const char *armed(const char *point)
{
	static atomic_bool fired;
	const char *spec = getenv("VMMD_FAULT");
	size_t len = strlen(point);

	if (!spec || strncmp(spec, point, len) != 0 || spec[len] != ':')
		return NULL;
	return atomic_exchange(&fired, true) ? NULL : spec + len + 1;
}

void mig_fault_point(struct mig_session *s, const char *point)
{
	const char *action = armed(point);

	if (!action)
		return;
	if (strcmp(action, "kill") == 0)
		raise(SIGKILL);
	if (strcmp(action, "cut") == 0)
		mig_session_cut(s);
	if (strcmp(action, "stall") == 0)
		sleep(STALL_S);
}
