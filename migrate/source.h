/*
 * migrate/source.h: the side a guest leaves.
 *
 * Life:    mig_source_start() spawns the migration thread and returns;
 *          ops->changed says when to look at mig_source_status(); when the phase
 *          is an end, or MIG_PAUSED, the thread has done all it will do.
 *          mig_source_free() joins it.
 * Ends:    MIG_COMPLETE: the guest is over there, free it here and exit.
 *          MIG_FAILED, MIG_CANCELLED: it runs (or stays paused) here as before.
 *          MIG_PAUSED: it must not run here; mig_source_resume() goes on.
 * Threads: start, change, resume, cancel, free: main thread. status: any.
 * Borrows: the guest, until free.
 */
#ifndef MIGRATE_SOURCE_H
#define MIGRATE_SOURCE_H

#include "migrate/guest.h"
#include "migrate/stats.h"

#define MIG_CHANNELS_MAX              16
#define MIG_DOWNTIME_LIMIT_MS_DEFAULT 20
#define MIG_CHANNELS_DEFAULT          2

struct mig_source_config {
	const char *uri; /* tcp://ADDR:PORT, copied */
	enum mig_mode mode;
	unsigned int channels; /* 1..MIG_CHANNELS_MAX */
	uint32_t downtime_limit_ms;
	uint64_t max_bandwidth; /* bytes/s over all channels; 0: none */
	const char *tracker;    /* "auto" or an engine's name, copied */
};

struct mig_source_ops {
	/* Phase changed or the thread ended. Any thread: post and return. */
	void (*changed)(void *ctx);
};

/* What may be changed while it runs. NULL: left as it is. */
struct mig_source_change {
	const uint64_t *downtime_limit_ms; /* up to UINT32_MAX */
	const uint64_t *max_bandwidth;
	bool postcopy; /* hybrid: enough precopy, switch over now */
};

struct mig_source;

/* -EINVAL and a line in *err when cfg cannot work at all (URI, tracker). */
int mig_source_start(struct mig_guest *g, const struct mig_source_config *cfg,
		     const struct mig_source_ops *ops, void *ctx,
		     struct mig_source **ret_source, char **err);
/*
 * All of it or nothing. -EINVAL: postcopy was not agreed on. -EBUSY: too late, for
 * postcopy once the guest is stopped for the switch, for the downtime limit once it
 * was handed over.
 */
int mig_source_change(struct mig_source *s, const struct mig_source_change *c,
		      char **err);
/* In MIG_PAUSED only (-EBUSY): rejoin the session at uri and go on. */
int mig_source_resume(struct mig_source *s, const char *uri, char **err);
/* Before the token; later it is refused: -EBUSY. */
int mig_source_cancel(struct mig_source *s);
void mig_source_status(struct mig_source *s, struct mig_status *ret_status,
		       struct mig_stats *ret_stats);
/* Joins the thread; in MIG_PAUSED gives the session up. */
void mig_source_free(struct mig_source *s);

#endif
