#include "loop.h"

#include "machine.h"
#include "options.h"
#include "report.h"
#include "work.h"

#define FAILURES_TOLD_MAX 8

/*
 * kvmclocks of different vCPUs may differ by a little where the host's TSCs are
 * not in step (then PVCLOCK_TSC_STABLE_BIT is clear); a clock that was moved
 * wrongly is off by far more.
 */
#define CROSS_SLACK_NS    NS_PER_MS
#define CROSS_SHARE_TURNS 64

/* The latest kvmclock reading that any vCPU has shared. */
static volatile uint64_t shared_ns;

bool failure_start(struct cpu *c, struct line *l, const char *what)
{
	c->errors++;
	if (c->failures_told == FAILURES_TOLD_MAX)
		return false;
	c->failures_told++;
	line_start(l, "GUEST-FAIL ");
	line_str(l, what);
	return true;
}

void failure_end(struct cpu *c, struct line *l)
{
	line_dec(l, "cpu", c->id);
	line_send(l);
}

static void clock_failed(struct cpu *c, const char *which, uint64_t was,
			 uint64_t is)
{
	struct line l;

	if (!failure_start(c, &l, "clock"))
		return;
	line_key(&l, "which", which);
	line_dec(&l, "was", was);
	line_dec(&l, "is", is);
	line_dec(&l, "back", was - is);
	failure_end(c, &l);
}

static void check_clocks(struct cpu *c)
{
	/* Read before the clock, so that a delay in between cannot accuse. */
	uint64_t shared = shared_ns;
	uint64_t tsc, ns = clock_ns(&c->pvclock, &tsc);

	if (tsc < c->last_tsc)
		clock_failed(c, "tsc", c->last_tsc, tsc);
	else if (tsc - c->last_tsc > c->stall_tsc)
		c->stall_tsc = tsc - c->last_tsc;
	c->last_tsc = tsc;
	if (ns < c->last_ns)
		clock_failed(c, "kvmclock", c->last_ns, ns);
	c->last_ns = ns;
	if (ns + CROSS_SLACK_NS < shared)
		clock_failed(c, "kvmclock-of-others", shared, ns);
	else if (c->turns % CROSS_SHARE_TURNS == 0 && ns > shared)
		shared_ns = ns;
}

static void registers_failed(struct cpu *c, const char *which, uint64_t want,
			     uint64_t got)
{
	struct line l;

	if (!failure_start(c, &l, "registers"))
		return;
	line_key(&l, "which", which);
	line_hex(&l, "want", want);
	line_hex(&l, "got", got);
	failure_end(c, &l);
}

static uint64_t pattern(const struct cpu *c)
{
	return UINT64_C(0x5ca1ab1e00000000) | c->id;
}

/*
 * The compiler is told to keep off the vector registers, so what the loop puts
 * there stays: XMM14 a pattern, XMM15 the count of turns, which is in memory
 * too. If memory and registers were not of the same instant they would differ.
 */
static void check_registers(struct cpu *c)
{
	uint64_t self, pattern_got, turns;

	__asm__ volatile("movq %%fs:0, %0\n\t"
			 "movq %%xmm14, %1\n\t"
			 "movq %%xmm15, %2"
			 : "=r"(self), "=r"(pattern_got), "=r"(turns));
	if (self != (uint64_t)c)
		registers_failed(c, "fs", (uint64_t)c, self);
	if (pattern_got != pattern(c))
		registers_failed(c, "xmm14", pattern(c), pattern_got);
	if (turns != c->turns)
		registers_failed(c, "xmm15", c->turns, turns);
	c->turns++;
	__asm__ volatile("movq %0, %%xmm14\n\t"
			 "movq %1, %%xmm15" ::"r"(pattern(c)),
			 "r"(c->turns));
}

void loop_init(struct cpu *c)
{
	c->turns = 0;
	__asm__ volatile("movq %0, %%xmm14\n\t"
			 "movq %1, %%xmm15" ::"r"(pattern(c)),
			 "r"(c->turns));
	c->last_ns = clock_ns(&c->pvclock, &c->last_tsc);
	if (options.irq || options.halt)
		cpu_timer_start(options.hz);
	if (options.irq)
		kernel_call(KERNEL_INTERRUPTS);
}

/*
 * Until the next tick. Of that time only what goes beyond a tick is a stall:
 * the turn that follows sees the gap from last_tsc. (A stop that begins and
 * ends inside the halt is not felt, and not counted.)
 */
static void rest(struct cpu *c)
{
	uint64_t before = rdtsc(), tick;

	if (!options.halt) {
		cpu_relax();
		return;
	}
	kernel_call(KERNEL_HALT);
	tick = clock_tsc_hz(&c->pvclock) / options.hz;
	c->last_tsc = rdtsc();
	if (c->last_tsc < before)
		c->last_tsc = before;
	else if (c->last_tsc - before > tick)
		c->last_tsc = before + tick;
}

void loop_run(struct cpu *c)
{
	for (;;) {
		bool busy;

		check_clocks(c);
		check_registers(c);
		busy = c->id == 0 && report_turn(c);
		if (!work_turn(c) && !busy)
			rest(c);
	}
}
