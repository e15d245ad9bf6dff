#include "report.h"

#include "blk.h"
#include "console.h"
#include "disk.h"
#include "loop.h"
#include "machine.h"
#include "memory.h"
#include "options.h"
#include "power.h"
#include "selftest.h"
#include "work.h"

#define SELFTEST_AT_BEAT 3 /* after GUEST-READY */

/* The first vCPU only. seq is also in memory.mirror, far away. */
static struct {
	uint64_t seq;
	uint64_t next_ns;
	uint64_t start_ns, ready_ns;
	uint64_t last_tsc, up_ns;
	uint64_t beats_since_ready;
	bool ready;
	bool pass_running;
	uint64_t pass_errors;
} state;

static uint64_t total(uint64_t offset)
{
	uint64_t sum = 0;

	for (uint32_t id = 0; id < nr_cpus; id++)
		sum += *(volatile uint64_t *)((uint8_t *)&cpus[id] + offset);
	return sum;
}
#define TOTAL(field) total(__builtin_offsetof(struct cpu, field))

static uint64_t tsc_us(struct cpu *c, uint64_t tsc)
{
	return clock_tsc_to_ns(&c->pvclock, tsc) / NS_PER_US;
}

void report_start(void)
{
	struct cpu *c = &cpus[0];
	struct line l;

	line_start(&l, "GUEST-START version=1");
	line_dec(&l, "cpus", nr_cpus);
	line_dec(&l, "mem", memory.pages * PAGE_BYTES);
	line_key(&l, "work", work_names[options.work]);
	line_dec(&l, "seed", options.seed);
	line_dec(&l, "tsc_hz", clock_tsc_hz(&c->pvclock));
	line_send(&l);
	line_start(&l, "table");
	line_hex(&l, "gpa", (uint64_t)memory.records);
	line_dec(&l, "entry", sizeof(struct record));
	line_dec(&l, "pages", memory.pages);
	line_hex(&l, "mirror", (uint64_t)memory.mirror);
	line_send(&l);
	for (uint32_t i = 0; i < memory.nr_extents; i++) {
		const struct extent *x = &memory.extents[i];

		line_start(&l, "extent");
		line_dec(&l, "first", x->first_page);
		line_hex(&l, "gpa", x->gpa);
		line_dec(&l, "pages", x->pages);
		line_send(&l);
	}
	if (disk_blocks()) {
		line_start(&l, "disk");
		line_dec(&l, "bytes", blk.bytes);
		line_dec(&l, "used", disk_blocks() * PAGE_BYTES);
		line_dec(&l, "queues", blk.nr_queues);
		line_send(&l);
	}
	state.start_ns = clock_ns(&c->pvclock, &state.last_tsc);
	state.next_ns = state.start_ns;
	memory.mirror[0] = 0;
}

/* Largest gap since the last heartbeat: of this vCPU, and of all. */
static void take_stalls(uint64_t *ret_first, uint64_t *ret_all)
{
	uint64_t first = 0, all = 0;

	for (uint32_t id = 0; id < nr_cpus; id++) {
		struct cpu *c = &cpus[id];
		uint64_t tsc = __atomic_exchange_n(&c->stall_tsc, 0,
						   __ATOMIC_RELAXED);

		if (tsc > c->stall_ever_tsc)
			c->stall_ever_tsc = tsc;
		if (tsc > all)
			all = tsc;
		if (id == 0)
			first = tsc;
	}
	*ret_first = first;
	*ret_all = all;
}

/* The count of heartbeats in two places: a rollback of one page would show. */
static void count_beat(struct cpu *c)
{
	struct line l;

	if (memory.mirror[0] != state.seq && failure_start(c, &l, "mirror")) {
		line_dec(&l, "want", state.seq);
		line_dec(&l, "got", memory.mirror[0]);
		failure_end(c, &l);
	}
	state.seq++;
	memory.mirror[0] = state.seq;
	/* A TSC that went back has been told of by the loop. */
	if (c->last_tsc > state.last_tsc)
		state.up_ns += clock_tsc_to_ns(&c->pvclock,
					       c->last_tsc - state.last_tsc);
	state.last_tsc = c->last_tsc;
}

static void heartbeat(struct cpu *c)
{
	uint64_t first, all;
	struct line l;

	count_beat(c);
	take_stalls(&first, &all);
	line_start(&l, "hb");
	line_dec(&l, "seq", state.seq);
	line_dec(&l, "t_ms", c->last_ns / NS_PER_MS);
	line_dec(&l, "up_us", state.up_ns / NS_PER_US);
	line_dec(&l, "writes", TOTAL(writes));
	line_dec(&l, "verified", TOTAL(verified));
	line_dec(&l, "max_stall_us", tsc_us(c, first));
	line_dec(&l, "max_stall_all_us", tsc_us(c, all));
	if (options.irq)
		line_dec(&l, "ticks", TOTAL(ticks));
	if (disk_blocks())
		line_dec(&l, "disk_reads", TOTAL(disk_reads));
	line_dec(&l, "errs", TOTAL(errors));
	line_send(&l);
}

static void stats(struct cpu *first)
{
	struct line l;

	for (uint32_t id = 0; id < nr_cpus; id++) {
		struct cpu *c = &cpus[id];

		line_start(&l, "cpu");
		line_dec(&l, "id", id);
		line_dec(&l, "writes", c->writes);
		line_dec(&l, "verified", c->verified);
		line_dec(&l, "ticks", c->ticks);
		line_dec(&l, "turns", c->turns);
		line_dec(&l, "worst_stall_us",
			 tsc_us(first, c->stall_ever_tsc));
		line_dec(&l, "errs", c->errors);
		line_send(&l);
	}
	line_start(&l, "clock");
	line_dec(&l, "tsc_hz", clock_tsc_hz(&first->pvclock));
	line_send(&l);
}

static void forget_stalls(void)
{
	uint64_t first, all;
	struct line l;

	take_stalls(&first, &all);
	for (uint32_t id = 0; id < nr_cpus; id++)
		cpus[id].stall_ever_tsc = 0;
	line_start(&l, "stalls-forgotten");
	line_send(&l);
}

static void end(struct cpu *c, enum power_exit how)
{
	struct line l;

	line_start(&l, "GUEST-DONE");
	line_dec(&l, "seq", state.seq);
	line_dec(&l, "t_ms", c->last_ns / NS_PER_MS);
	line_dec(&l, "writes", TOTAL(writes));
	line_dec(&l, "verified", TOTAL(verified));
	line_dec(&l, "errs", TOTAL(errors));
	line_send(&l);
	console_flush();
	power_exit(how);
}

static void pass_start(void)
{
	if (state.pass_running)
		return;
	state.pass_running = true;
	state.pass_errors = TOTAL(errors);
	work_pass_start();
}

static void pass_check(void)
{
	struct line l;
	uint64_t errors;

	if (!state.pass_running || !work_pass_done())
		return;
	state.pass_running = false;
	errors = TOTAL(errors) - state.pass_errors;
	line_start(&l, errors ? "verify-all bad" : "verify-all ok");
	line_dec(&l, "pages", TOTAL(filled_pages));
	line_dec(&l, "errs", errors);
	line_send(&l);
}

static void command(struct cpu *c)
{
	switch (console_getc()) {
	case 'v':
		pass_start();
		break;
	case 's':
		stats(c);
		break;
	case 'z':
		forget_stalls();
		break;
	case 'q':
		end(c, POWER_OFF);
		break;
	case 'r':
		end(c, POWER_RESET);
		break;
	}
}

static void ready_check(struct cpu *c)
{
	struct line l;

	if (state.ready || !work_ready())
		return;
	state.ready = true;
	state.ready_ns = c->last_ns;
	line_start(&l, "GUEST-READY");
	line_dec(&l, "fill_ms", (c->last_ns - state.start_ns) / NS_PER_MS);
	line_send(&l);
}

static void beat(struct cpu *c)
{
	/* No beats are made up for time in which there was no guest. */
	state.next_ns += options.hb * NS_PER_MS;
	if (state.next_ns < c->last_ns)
		state.next_ns = c->last_ns + options.hb * NS_PER_MS;
	heartbeat(c);
	command(c);
	if (state.ready && ++state.beats_since_ready == SELFTEST_AT_BEAT)
		selftest_run(c, &state.seq);
}

bool report_turn(struct cpu *c)
{
	if (console_pump())
		return true;
	ready_check(c);
	pass_check();
	if (c->last_ns >= state.next_ns)
		beat(c);
	if (options.time && state.ready &&
	    c->last_ns - state.ready_ns >= options.time * NS_PER_S)
		end(c, (enum power_exit)options.exit);
	return false;
}
