/*
 * tests/bench/felt.c: a stopwatch for the test guest: how long each page it
 * verified let it wait.
 *
 * Linked around page_verify() and console_getc() of tests/guest (ld --wrap), so
 * that felt.elf is the test guest in all else. One more letter is understood, and
 * 'z' forgets these figures too:
 *
 *	h	felt count=812 p50_us=86 p99_us=310 max_us=2104 sum_us=81230
 *
 * Counted is what took longer than anything that happens to a page which is there:
 * by the TSC, so that a standstill of the whole guest counts as well.
 */
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "machine.h"
#include "page.h"

#define WAITED_US_MIN 30
#define WAITED_US_MAX 16384 /* what took longer counts as that, but for max_us */

bool __real_page_verify(uint64_t page, struct page_error *ret_error);
bool __wrap_page_verify(uint64_t page, struct page_error *ret_error);
int __real_console_getc(void);
int __wrap_console_getc(void);

/* Any vCPU, by atomics. */
static uint32_t waits[WAITED_US_MAX + 1];
static uint64_t sum_us, max_us;

static struct cpu *this_cpu(void)
{
	struct cpu *c;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(c));
	return c;
}

static void count(uint64_t us)
{
	uint64_t most = __atomic_load_n(&max_us, __ATOMIC_RELAXED);

	__atomic_fetch_add(&waits[us < WAITED_US_MAX ? us : WAITED_US_MAX], 1,
			   __ATOMIC_RELAXED);
	__atomic_fetch_add(&sum_us, us, __ATOMIC_RELAXED);
	while (us > most &&
	       !__atomic_compare_exchange_n(&max_us, &most, us, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

bool __wrap_page_verify(uint64_t page, struct page_error *ret_error)
{
	uint64_t begin = rdtsc(), us;
	bool right = __real_page_verify(page, ret_error);

	us = clock_tsc_to_ns(&this_cpu()->pvclock, rdtsc() - begin) / NS_PER_US;
	if (us >= WAITED_US_MIN)
		count(us);
	return right;
}

/* The wait that percent of all waits did not exceed. */
static uint64_t percentile(uint64_t nr, uint64_t percent)
{
	uint64_t seen = 0;

	for (uint64_t us = 0; us < WAITED_US_MAX; us++) {
		seen += waits[us];
		if (seen * 100 >= nr * percent)
			return us;
	}
	return WAITED_US_MAX;
}

static void tell(void)
{
	uint64_t nr = 0;
	struct line l;

	for (uint64_t us = 0; us <= WAITED_US_MAX; us++)
		nr += waits[us];
	line_start(&l, "felt");
	line_dec(&l, "count", nr);
	line_dec(&l, "p50_us", nr ? percentile(nr, 50) : 0);
	line_dec(&l, "p99_us", nr ? percentile(nr, 99) : 0);
	line_dec(&l, "max_us", max_us);
	line_dec(&l, "sum_us", sum_us);
	line_send(&l);
}

static void forget(void)
{
	for (uint64_t us = 0; us <= WAITED_US_MAX; us++)
		waits[us] = 0;
	sum_us = 0;
	max_us = 0;
}

int __wrap_console_getc(void)
{
	int letter = __real_console_getc();

	if (letter == 'h')
		tell();
	else if (letter == 'z')
		forget();
	return letter;
}
