#include "selftest.h"

#include "machine.h"
#include "options.h"
#include "page.h"
#include "work.h"

#define STALL_NS      (300 * NS_PER_MS)
#define CLOCK_BACK_NS (100 * NS_PER_MS)
#define UNMAPPED_GPA  (UINT64_C(1) << 46)

static uint64_t *words_of(uint64_t page)
{
	return (uint64_t *)memory_page_gpa(page);
}

static void copy(volatile uint64_t *to, const volatile uint64_t *from)
{
	for (int i = 0; i < PAGE_WORDS; i++)
		to[i] = from[i];
}

/* A write that was made and then lost. */
static void bring_back_old(struct cpu *c)
{
	static uint64_t old[PAGE_WORDS];

	copy(old, words_of(c->first_page));
	page_write(c->first_page);
	c->writes++;
	copy(words_of(c->first_page), old);
}

static void zero(volatile uint64_t *words)
{
	for (int i = 0; i < PAGE_WORDS; i++)
		words[i] = 0;
}

static void stall(struct cpu *c)
{
	uint64_t tsc, end = clock_ns(&c->pvclock, &tsc) + STALL_NS;

	while (clock_ns(&c->pvclock, &tsc) < end)
		cpu_relax();
}

static void do_wrong(struct cpu *c, uint64_t *seq)
{
	switch ((enum selftest)options.selftest) {
	case SELFTEST_FLIP:
		words_of(c->first_page)[100] ^= 1u << 5;
		break;
	case SELFTEST_STALE:
		bring_back_old(c);
		break;
	case SELFTEST_ALIEN:
		copy(words_of(c->first_page), words_of(c->first_page + 1));
		break;
	case SELFTEST_ZERO:
		zero(words_of(c->first_page));
		break;
	case SELFTEST_RECORD:
		memory.records[c->first_page].version--;
		break;
	case SELFTEST_TSC:
		c->last_tsc += clock_tsc_hz(&c->pvclock);
		break;
	case SELFTEST_KVMCLOCK:
		c->pvclock.system_time -= CLOCK_BACK_NS;
		break;
	case SELFTEST_MIRROR:
		*seq -= 1;
		break;
	case SELFTEST_REGISTERS:
		c->turns--;
		break;
	case SELFTEST_STALL:
		stall(c);
		break;
	case SELFTEST_FAULT:
		(void)*(volatile uint64_t *)UNMAPPED_GPA;
		break;
	case SELFTEST_NONE:
	case NR_SELFTESTS:
		break;
	}
}

void selftest_run(struct cpu *c, uint64_t *seq)
{
	do_wrong(c, seq);
	if (c->filled_pages)
		work_verify_next_is(c, c->first_page);
}
