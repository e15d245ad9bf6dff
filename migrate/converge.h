/*
 * migrate/converge.h: when precopy has done enough, and when it never will.
 *
 * Pure arithmetic on what was measured; the migration thread calls it between
 * rounds.
 */
#ifndef MIGRATE_CONVERGE_H
#define MIGRATE_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/source.h"

enum mig_next { MIG_ANOTHER_ROUND, MIG_SWITCH_PRECOPY, MIG_SWITCH_POSTCOPY };

struct mig_converge {
	const struct mig_source_config *cfg;
	uint64_t last_pages;
	unsigned int rounds;
	unsigned int stalled; /* rounds in a row that gained little */
};

void mig_converge_init(struct mig_converge *c,
		       const struct mig_source_config *cfg);
/*
 * dirty_pages are left after a round; flow_bytes went out in flow_us so far.
 */
enum mig_next mig_converge_next(struct mig_converge *c, uint64_t dirty_pages,
				uint64_t flow_bytes, uint64_t flow_us);
/* With the guest stopped: would these pages break the promise by far? */
bool mig_converge_too_much(const struct mig_source_config *cfg, uint64_t pages,
			   uint64_t flow_bytes, uint64_t flow_us);

#endif
