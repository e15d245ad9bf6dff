#include "cli/daemon_state.h"

#define PARKING_VERBS (DO_PAUSE | DO_SNAPSHOT | DO_MIGRATE)
#define IDLE_VERBS    (PARKING_VERBS | DO_RESUME | DO_TYPE | DO_BALLOON)

static const struct {
	const char *name;
	unsigned int verbs;
} states[DAEMON_NR_STATES] = {
	[DAEMON_STARTING] = { "starting", 0 },
	[DAEMON_INCOMING] = { "incoming", 0 },
	[DAEMON_RUNNING] = { "running", IDLE_VERBS | DO_POWERDOWN },
	[DAEMON_PAUSED] = { "paused", IDLE_VERBS },
	[DAEMON_WORKING] = { "busy", DO_TYPE },
	[DAEMON_SAVING] = { "saving", DO_CANCEL | DO_TYPE },
	[DAEMON_MIGRATING] = { "migrating", DO_CANCEL | DO_ADJUST | DO_TYPE },
	[DAEMON_MIGRATION_PAUSED] = { "paused-migration", DO_REJOIN },
	[DAEMON_STOPPING] = { "stopping", 0 },
	[DAEMON_ENDED] = { "ended", 0 },
};

const char *daemon_state_text(enum daemon_state state, enum daemon_stuck stuck)
{
	if (state <= DAEMON_PAUSED && stuck == STUCK_MIGRATION)
		return "paused-migration";
	if (state <= DAEMON_PAUSED && stuck == STUCK_DAMAGE)
		return "paused-damaged";
	return states[state].name;
}

bool daemon_state_accepts(enum daemon_state state, enum daemon_stuck stuck,
			  enum daemon_verb verb)
{
	unsigned int verbs = states[state].verbs;

	if (stuck != NOT_STUCK)
		verbs &= ~(unsigned int)PARKING_VERBS;
	return (verbs & verb) != 0;
}
