#include "migrate/phase.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

/*
 * ON_TOKEN fires before the run token is written: from then on the guest may be
 * alive over there, and only the peer's proof that it never ran leads back. The
 * receiver fires it when it says READY: from then on the token may be on its
 * way, so a lost link no longer means that the guest is still at the source.
 */
static const uint8_t next_phase[MIG_NR_PHASES][MIG_NR_EVENTS] = {
	[MIG_SETUP] = {
		[ON_AGREED]    = MIG_PRECOPY,
		[ON_LOST]      = MIG_FAILED,
		[ON_CANCEL]    = MIG_CANCELLED,
	},
	[MIG_PRECOPY] = {
		[ON_STOPPED]   = MIG_SWITCHOVER,
		[ON_LOST]      = MIG_FAILED,
		[ON_CANCEL]    = MIG_CANCELLED,
	},
	[MIG_SWITCHOVER] = {
		[ON_REVIVED]   = MIG_PRECOPY,
		[ON_TOKEN]     = MIG_COMMIT,
		[ON_LOST]      = MIG_FAILED,
		[ON_CANCEL]    = MIG_CANCELLED,
	},
	[MIG_COMMIT] = {
		[ON_RUNNING]   = MIG_POSTCOPY,
		[ON_LOST]      = MIG_PAUSED,
		[ON_CANCEL]    = MIG_CANCELLED,
	},
	[MIG_POSTCOPY] = {
		[ON_DRAINED]   = MIG_COMPLETE,
		[ON_LOST]      = MIG_PAUSED,
	},
	[MIG_PAUSED] = {
		[ON_REJOINED]  = MIG_POSTCOPY,
		[ON_NEVER_RAN] = MIG_FAILED,
	},
};

static const char *const phase_names[MIG_NR_PHASES] = {
	[MIG_REFUSED_MOVE] = "?",  [MIG_SETUP] = "setup",
	[MIG_PRECOPY] = "precopy", [MIG_SWITCHOVER] = "switchover",
	[MIG_COMMIT] = "commit",   [MIG_POSTCOPY] = "postcopy",
	[MIG_PAUSED] = "paused",   [MIG_COMPLETE] = "complete",
	[MIG_FAILED] = "failed",   [MIG_CANCELLED] = "cancelled",
};

int mig_phase_step(struct mig_phases *p, enum mig_event ev)
{
	enum mig_phase next = next_phase[mig_phase(p)][ev];

	if (next == MIG_REFUSED_MOVE)
		return -EPROTO;
	atomic_store(&p->phase, next);
	return 0;
}

enum mig_phase mig_phase(const struct mig_phases *p)
{
	return atomic_load(&p->phase);
}

const char *mig_phase_name(enum mig_phase phase)
{
	return phase < MIG_NR_PHASES ? phase_names[phase] : "?";
}

bool mig_phase_is_end(enum mig_phase phase)
{
	return phase == MIG_COMPLETE || phase == MIG_FAILED ||
	       phase == MIG_CANCELLED;
}
