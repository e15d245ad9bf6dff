/*
 * tests/bench/felt.c: a stopwatch for the test guest: how long each page that it
 * verified let it wait.
 *
 * Linked around page_verify() and console_getc() of tests/guest (ld --wrap), so
 * that felt.elf is the test guest in all else. One more letter is understood, and
 * 'z' forgets these figures too:
 *
 *	h	felt max_us=2104 u32=120 u96=412 u112=7 u1792=1
 *
 * u96=412: of so many pages the wait was 96 us or more, and less than the next
 * step, of which there are four to an octave. By the TSC, so that a standstill of
 * the whole guest counts as well. Shorter waits than the first step are not counted.
 */
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "machine.h"
#include "page.h"

#define OCTAVE_FIRST 5  /* 32 us */
#define OCTAVE_LAST  14 /* from 16 to 32 ms, and all that is longer */
#define STEPS        4
#define NR_WAITS     ((OCTAVE_LAST - OCTAVE_FIRST + 1) * STEPS)

bool __real_page_verify(uint64_t page, struct page_error *ret_error);
bool __wrap_page_verify(uint64_t page, struct page_error *ret_error);
int __real_console_getc(void);
int __wrap_console_getc(void);

/* Any vCPU, by atomics. */
static uint32_t waits[NR_WAITS];
static uint64_t max_us;

static struct cpu *this_cpu(void)
{
	struct cpu *c;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(c));
	return c;
}

static uint64_t step_us(unsigned int step)
{
	return (STEPS + step % STEPS) << (OCTAVE_FIRST - 2 + step / STEPS);
}

static void count(uint64_t us)
{
	uint64_t most = __atomic_load_n(&max_us, __ATOMIC_RELAXED);
	unsigned int step = 0;

	while (step + 1 < NR_WAITS && us >= step_us(step + 1))
		step++;
	__atomic_fetch_add(&waits[step], 1, __ATOMIC_RELAXED);
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
	if (us >= step_us(0))
		count(us);
	return right;
}

static void line_wait(struct line *l, unsigned int step)
{
	char key[8] = "u";
	uint64_t us = step_us(step);
	unsigned int digits = 1;

	for (uint64_t rest = us; rest >= 10; rest /= 10)
		digits++;
	for (; digits > 0; digits--, us /= 10)
		key[digits] = (char)('0' + us % 10);
	line_dec(l, key, waits[step]);
}

static void tell(void)
{
	struct line l;

	line_start(&l, "felt");
	line_dec(&l, "max_us", max_us);
	for (unsigned int step = 0; step < NR_WAITS; step++)
		if (waits[step])
			line_wait(&l, step);
	line_send(&l);
}

static void forget(void)
{
	for (unsigned int step = 0; step < NR_WAITS; step++)
		waits[step] = 0;
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
