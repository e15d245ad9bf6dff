#include "migrate/converge.h"

#include "proto/wire.h"

/* Before anything has flowed: loopback and 10 GbE both do this. */
#define FIRST_GUESS_BYTES_PER_US 1e3
/* Less than this measured says more about latency than about bandwidth. */
#define SAMPLE_BYTES_MIN (1u << 20)
/* A round must leave less than this part of what the one before it left... */
#define GAIN_NUM 7
#define GAIN_DEN 10
/* ...or this many such rounds, or rounds at all, and hybrid stops trying. */
#define STALLED_MAX 2
#define ROUNDS_MAX  12
/* A window that just began says nothing: of the last one it has to be this part. */
#define RUNNING_PART 5
/* Before a stop has been seen: a kick and its answer, on a host with work. */
#define FIRST_STOP_US 500
/* Of what the costs leave of the limit, kept for what nobody foresaw. */
#define ROOM_SHARE 0.8
/* However dear the rest is, pages may take this part of the limit. */
#define FLOOR_SHARE 0.1

void mig_converge_init(struct mig_converge *c,
		       const struct mig_source_config *cfg)
{
	*c = (struct mig_converge){
		.mode = cfg->mode,
		.downtime_limit_ms = cfg->downtime_limit_ms,
		.max_bandwidth = cfg->max_bandwidth,
		.flow_limit = cfg->max_bandwidth,
	};
	c->cost_us[MIG_COST_STOP] = FIRST_STOP_US;
}

void mig_converge_cost(struct mig_converge *c, enum mig_cost cost, uint64_t us)
{
	double *peak = &c->cost_us[cost];

	if ((double)us >= *peak)
		*peak = (double)us;
	else
		*peak -= (*peak - (double)us) / 4;
}

/*
 * What flowed under another limit says nothing about this one. The round in which
 * it changed is better than nothing, until there is a whole one.
 */
static void note_limit(struct mig_converge *c)
{
	uint64_t limit = atomic_load(&c->max_bandwidth);

	if (limit == c->flow_limit && !c->flow_is_mixed)
		return;
	c->flow_is_mixed = limit != c->flow_limit;
	c->flow_limit = limit;
	c->flow_bytes = c->flow_us = 0;
	c->slowest = c->last = 0;
}

void mig_converge_flow(struct mig_converge *c, uint64_t bytes, uint64_t us)
{
	double rate;

	note_limit(c);
	c->flow_bytes += (double)bytes;
	c->flow_us += (double)us;
	if (bytes < SAMPLE_BYTES_MIN || us == 0)
		return;
	rate = (double)bytes / (double)us;
	c->slowest = c->last > 0 && c->last < rate ? c->last : rate;
	c->last = rate;
}

static double bytes_per_us(const struct mig_converge *c)
{
	double limit = (double)atomic_load(&c->max_bandwidth) / 1e6;
	double rate = FIRST_GUESS_BYTES_PER_US;

	if (c->flow_bytes >= SAMPLE_BYTES_MIN && c->flow_us > 0)
		rate = c->flow_bytes / c->flow_us;
	if (c->slowest > 0 && rate > c->slowest)
		rate = c->slowest;
	return limit > 0 && rate > limit ? limit : rate;
}

static double send_time_us(const struct mig_converge *c, uint64_t pages)
{
	return (double)pages * PROTO_PAGE_BYTES / bytes_per_us(c);
}

static double limit_us(const struct mig_converge *c)
{
	return atomic_load(&c->downtime_limit_ms) * 1e3;
}

/* What comes after the pages. */
static double tail_us(const struct mig_converge *c)
{
	return c->cost_us[MIG_COST_LOAD] + 2 * c->cost_us[MIG_COST_RTT];
}

/* How long pages may take in a pause that costs this much beside them. */
static double room_us(const struct mig_converge *c, double cost_us)
{
	double room = limit_us(c) - cost_us;
	double floor = limit_us(c) * FLOOR_SHARE;

	return room > floor ? room : floor;
}

static bool fits(const struct mig_converge *c, uint64_t pages)
{
	double cost = c->cost_us[MIG_COST_STOP] + c->cost_us[MIG_COST_STATE] +
		      c->cost_us[MIG_COST_SYNC] + tail_us(c);

	return send_time_us(c, pages) <= room_us(c, cost) * ROOM_SHARE;
}

bool mig_converge_window(struct mig_converge *c, uint64_t written_pages,
			 uint64_t window_us, double next_us)
{
	c->running = (struct mig_window){ written_pages, window_us };
	if ((double)window_us < next_us)
		return false;
	c->closed = c->running;
	c->running = (struct mig_window){ 0 };
	return true;
}

/*
 * Pages that will have been written again after us, if the guest goes on like this.
 * In a part of a window it wrote at least that part of the window's different pages;
 * the running one tells whether it still does.
 */
static double foreseen_pages(const struct mig_converge *c, double us)
{
	const struct mig_window *w = &c->closed, *now = &c->running;
	double pages = (double)w->pages, most;

	if (us < (double)w->us)
		pages *= us / (double)w->us;
	if (now->us == 0 || now->us < w->us / RUNNING_PART)
		return pages;
	most = (double)now->pages * us / (double)now->us;
	return most < pages ? most : pages;
}

/*
 * Would a round over these pages leave little less? Reckoned with what the line did
 * on the whole, not at its worst: giving up is the step that cannot be undone.
 */
static bool is_hopeless(const struct mig_converge *c, uint64_t pages)
{
	double bytes_per_us, left;

	if (c->closed.us == 0 || c->flow_is_mixed || c->flow_us <= 0)
		return false;
	bytes_per_us = c->flow_bytes / c->flow_us;
	left = foreseen_pages(c,
			      (double)pages * PROTO_PAGE_BYTES / bytes_per_us);
	return left * GAIN_DEN > (double)pages * GAIN_NUM &&
	       left * PROTO_PAGE_BYTES > limit_us(c) * bytes_per_us;
}

static bool has_stalled(const struct mig_converge *c)
{
	return c->stalled >= STALLED_MAX || c->rounds >= ROUNDS_MAX;
}

enum mig_next mig_converge_next(struct mig_converge *c, uint64_t dirty_pages)
{
	bool hopeless = is_hopeless(c, dirty_pages);

	/* They tell about the round that comes next only. */
	c->closed = c->running = (struct mig_window){ 0 };
	if (fits(c, dirty_pages))
		return MIG_SWITCH_PRECOPY;
	if (c->rounds > 0 && dirty_pages * GAIN_DEN > c->last_pages * GAIN_NUM)
		c->stalled++;
	else
		c->stalled = 0;
	c->last_pages = dirty_pages;
	c->rounds++;
	if (c->mode == MIG_MODE_HYBRID && (hopeless || has_stalled(c)))
		return MIG_SWITCH_POSTCOPY;
	return MIG_ANOTHER_ROUND;
}

bool mig_converge_too_much(const struct mig_converge *c, uint64_t pages,
			   uint64_t stopped_us)
{
	return send_time_us(c, pages) >
	       room_us(c, (double)stopped_us + tail_us(c));
}
