#include "migrate/converge.h"

#include "proto/wire.h"

/* Before anything has flowed: loopback and 10 GbE both do this. */
#define FIRST_GUESS_BYTES_PER_S 1e9
/* Less than this measured says more about latency than about bandwidth. */
#define SAMPLE_BYTES_MIN (1u << 20)
/* A round must leave less than this part of what the one before it left... */
#define GAIN_NUM 7
#define GAIN_DEN 10
/* ...or this many such rounds, or rounds at all, and hybrid stops trying. */
#define STALLED_MAX 2
#define ROUNDS_MAX  12
/*
 * What the pause costs beside pages (stop, sync, state, commit, start), as a
 * part of the limit that is kept free for it.
 */
#define PAGES_SHARE_OF_LIMIT 0.6

void mig_converge_init(struct mig_converge *c,
		       const struct mig_source_config *cfg)
{
	*c = (struct mig_converge){ .cfg = cfg };
}

static double send_time_us(const struct mig_source_config *cfg, uint64_t pages,
			   uint64_t flow_bytes, uint64_t flow_us)
{
	double rate = FIRST_GUESS_BYTES_PER_S;

	if (flow_bytes >= SAMPLE_BYTES_MIN && flow_us > 0)
		rate = (double)flow_bytes * 1e6 / (double)flow_us;
	if (cfg->max_bandwidth && rate > (double)cfg->max_bandwidth)
		rate = (double)cfg->max_bandwidth;
	return (double)pages * PROTO_PAGE_BYTES * 1e6 / rate;
}

static bool fits(const struct mig_source_config *cfg, double us)
{
	return us <= cfg->downtime_limit_ms * 1e3 * PAGES_SHARE_OF_LIMIT;
}

enum mig_next mig_converge_next(struct mig_converge *c, uint64_t dirty_pages,
				uint64_t flow_bytes, uint64_t flow_us)
{
	double us = send_time_us(c->cfg, dirty_pages, flow_bytes, flow_us);

	if (fits(c->cfg, us))
		return MIG_SWITCH_PRECOPY;
	if (c->rounds > 0 && dirty_pages * GAIN_DEN > c->last_pages * GAIN_NUM)
		c->stalled++;
	else
		c->stalled = 0;
	c->last_pages = dirty_pages;
	c->rounds++;
	if (c->cfg->mode == MIG_MODE_HYBRID &&
	    (c->stalled >= STALLED_MAX || c->rounds >= ROUNDS_MAX))
		return MIG_SWITCH_POSTCOPY;
	return MIG_ANOTHER_ROUND;
}

bool mig_converge_too_much(const struct mig_source_config *cfg, uint64_t pages,
			   uint64_t flow_bytes, uint64_t flow_us)
{
	return send_time_us(cfg, pages, flow_bytes, flow_us) >
	       cfg->downtime_limit_ms * 1e3;
}
