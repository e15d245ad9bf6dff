/*
 * cli/report.h: operations as JSON objects, for people's scripts.
 *
 * The keys are a promise (docs/vmmd.1). Times in ms with fractions unless the
 * key says otherwise. Each call returns a new object. Any thread.
 */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <jansson.h>

#include "migrate/stats.h"

/* "completed", "failed", "cancelled", "paused"; "running" before the end. */
const char *report_result(enum mig_phase phase);

json_t *report_migration(const struct mig_status *status,
			 const struct mig_stats *stats);
json_t *report_snapshot(const struct mig_status *status,
			const struct mig_snapshot_stats *stats);
json_t *report_restore(const struct mig_status *status,
		       const struct mig_restore_stats *stats);

/* Where it is now. */
struct report_progress {
	enum mig_phase phase;
	uint64_t left_pages;
	uint64_t total_pages;
	uint64_t bytes; /* sent or written so far */
	uint64_t rounds;
};
json_t *report_progress(const struct report_progress *p);

#endif
