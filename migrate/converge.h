/*
 * migrate/converge.h: when precopy has done enough, and when it never will.
 *
 * Pure arithmetic on what was measured. The promise is the whole pause, so what
 * it costs beside pages is learned before it begins: each dirty sync is timed,
 * the peer is asked for a round trip before each decision, and it said in setup
 * how long its machine's state takes. A pause that was given up teaches too.
 *
 * Threads: the migration thread, but for the two limits, which any may set.
 */
#ifndef MIGRATE_CONVERGE_H
#define MIGRATE_CONVERGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/source.h"

enum mig_next { MIG_ANOTHER_ROUND, MIG_SWITCH_PRECOPY, MIG_SWITCH_POSTCOPY };

/* What a pause is made of beside its pages. */
enum mig_cost {
	MIG_COST_STOP,  /* until all vCPUs are parked */
	MIG_COST_STATE, /* saving it */
	MIG_COST_SYNC,  /* the last dirty sync */
	MIG_COST_LOAD,  /* loading the state over there */
	MIG_COST_RTT,   /* state and READY, token and RUNNING: two of them */
	MIG_NR_COSTS
};

struct mig_converge {
	enum mig_mode mode;
	_Atomic uint32_t downtime_limit_ms;
	_Atomic uint64_t max_bandwidth; /* bytes/s; 0: none */
	double cost_us[MIG_NR_COSTS];
	double flow_bytes, flow_us; /* all rounds under this limit */
	double slowest; /* bytes per us of the slower of the last two rounds */
	double last;    /* and of the last */
	uint64_t flow_limit; /* max_bandwidth when these were measured */
	bool flow_is_mixed;  /* or partly, while another held */
	/* What was written, until the next decision. */
	struct mig_window {
		uint64_t pages; /* different ones */
		uint64_t us;
	} closed, running;
	uint64_t last_pages;
	unsigned int rounds;
	unsigned int stalled; /* rounds in a row that gained little */
};

void mig_converge_init(struct mig_converge *c,
		       const struct mig_source_config *cfg);
/*
 * A cost was measured. What is kept is the peak, which goes a quarter of the way
 * down to each smaller measurement: a host that was busy a moment ago still is.
 */
void mig_converge_cost(struct mig_converge *c, enum mig_cost cost, uint64_t us);
/* A round sent so many bytes in that time. */
void mig_converge_flow(struct mig_converge *c, uint64_t bytes, uint64_t us);
/*
 * written_pages different pages were written in the last window_us, while a round
 * went on. next_us: how long the next one would take by now, as this one goes. True
 * when the window was as long as that: it is noted, and another one shall begin.
 */
bool mig_converge_window(struct mig_converge *c, uint64_t written_pages,
			 uint64_t window_us, double next_us);
/* dirty_pages are left after a round. */
enum mig_next mig_converge_next(struct mig_converge *c, uint64_t dirty_pages);
/*
 * The guest has been stopped for stopped_us: would sending these pages break the
 * promise? Never said of a number of pages that is small for the limit itself,
 * or a host where the rest costs more than the limit would never be left.
 */
bool mig_converge_too_much(const struct mig_converge *c, uint64_t pages,
			   uint64_t stopped_us);

#endif
