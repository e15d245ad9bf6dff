/*
 * The test guest: an instrument, not an example of an operating system. It
 * writes memory that it can check to the last bit, watches its clocks and its
 * own standstills, and says what it sees on the serial port. See README.md.
 */
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "disk.h"
#include "loop.h"
#include "memory.h"
#include "options.h"
#include "power.h"
#include "report.h"
#include "work.h"

static volatile bool go; /* all is laid out: vCPUs may run */

/* Of what cannot be, the name or the number. */
static void give_up(const char *what, const char *key, const char *text)
{
	struct line l;

	line_start(&l, "GUEST-FAIL ");
	line_str(&l, what);
	line_key(&l, key, "");
	for (int i = 0; i < 64 && text[i] && text[i] != ' '; i++)
		line_str(&l, (const char[]){ text[i], '\0' });
	line_send(&l);
	console_flush();
	power_exit(POWER_OFF);
}

static void start_cpus(void)
{
	uint32_t wanted = options.cpus ? (uint32_t)options.cpus
				       : machine.nr_cpus;
	uint32_t missing = 0;
	char digits[] = { '0', '0', '\0' };

	if (cpu_start_others(wanted, &missing))
		return;
	digits[0] = (char)('0' + missing / 10);
	digits[1] = (char)('0' + missing % 10);
	give_up("cpu-did-not-start", "id", digits);
}

void main_bsp(struct cpu *c)
{
	const char *why;

	console_init();
	if (!options_parse(memory_cmdline(), &why))
		give_up("bad option", "word", why);
	if (!machine.has_kvmclock)
		give_up("machine", "why", "no-kvmclock");
	if (!memory_init(&why))
		give_up("memory", "why", why);
	if ((options.work == WORK_DISK || options.work == WORK_DISKONLY) &&
	    !disk_init(&why))
		give_up("disk", "why", why);
	if (!memory_place(options.mem, disk_blocks(), &why))
		give_up("memory", "why", why);
	start_cpus();
	work_init();
	report_start();
	loop_init(c);
	__atomic_store_n(&go, true, __ATOMIC_RELEASE);
	cpu_wake_others();
	loop_run(c);
}

void main_ap(struct cpu *c)
{
	cpu_interrupts_init();
	c->up = true;
	/* Halted: with many vCPUs on few cores, spinning would cost seconds. */
	while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE))
		kernel_call(KERNEL_HALT);
	loop_init(c);
	loop_run(c);
}
