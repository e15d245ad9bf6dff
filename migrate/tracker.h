/*
 * migrate/tracker.h: which pages may have been written since the last answer.
 *
 * One interface, several engines (log, manual, ring, wp-all). Every answer is
 * the union of KVM's report and the user-side bitmap of vmm/mem.h.
 *
 * Rules:
 * - sync may report pages that nobody wrote, even never-populated ones (manual
 *   starts with every bit set); it never misses one.
 * - Before the bytes of a reported page are read, rearm must have covered it
 *   since that report. A store in between is in those bytes or reported again.
 *
 * Threads: start, sync, stop: the operation's thread; rearm: any, on disjoint
 *          ranges.
 * Errors:  -errno.
 */
#ifndef MIGRATE_TRACKER_H
#define MIGRATE_TRACKER_H

#include "vmm/dirty.h"
#include "vmm/vm.h"

struct mig_tracker;

/*
 * name: "auto" or an engine. -EINVAL for an unknown name, -EOPNOTSUPP when the
 * host or this vm cannot; *err says why in one line.
 */
int mig_tracker_new(struct vm *vm, const char *name,
		    struct mig_tracker **ret_tracker, char **err);
void mig_tracker_free(struct mig_tracker *t); /* stops it if running */
const char *mig_tracker_name(const struct mig_tracker *t); /* static */

int mig_tracker_start(struct mig_tracker *t);
int mig_tracker_stop(struct mig_tracker *t);
/* bitmap becomes what was reported, one bit per page of RAM. */
int mig_tracker_sync(struct mig_tracker *t, uint64_t *bitmap);
/*
 * Whether KVM repeats what it reports until it is rearmed; then it can be peeked at:
 * bitmap becomes its part of a report, which sync will report once more. The engines
 * that do not repeat watch all of RAM without being told.
 */
bool mig_tracker_repeats(const struct mig_tracker *t);
int mig_tracker_peek(struct mig_tracker *t, uint64_t *bitmap);
/*
 * The set bits of bitmap in [first_page, first_page + nr_pages) are to be read, now
 * or later: watch them again. Bounds are multiples of 64 or the end of RAM.
 */
int mig_tracker_rearm(struct mig_tracker *t, const uint64_t *bitmap,
		      uint64_t first_page, uint64_t nr_pages);

/* For doctor: every engine, best first. */
struct mig_tracker_info {
	const char *name;
	bool available;  /* on this host */
	const char *why; /* what it is, or what it lacks and how to get it */
};
#define MIG_NR_TRACKERS 4
void mig_tracker_list(const struct vm_dirty_caps *caps,
		      struct mig_tracker_info ret_infos[MIG_NR_TRACKERS]);

#endif
