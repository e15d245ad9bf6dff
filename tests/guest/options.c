#include "options.h"

#include <stddef.h>

#include "clock.h"
#include "cpu.h"

#define HB_MS_MAX UINT64_C(3600000)
#define HZ_MAX    UINT64_C(10000)
#define MEM_MAX   (UINT64_C(512) << 30)

const char *const work_names[NR_WORKS] = {
	[WORK_IDLE] = "idle",   [WORK_FILL] = "fill",
	[WORK_DIRTY] = "dirty", [WORK_SPARSE] = "sparse",
	[WORK_READ] = "read",   [WORK_TOUCH] = "touch",
	[WORK_DISK] = "disk",   [WORK_DISKONLY] = "diskonly",
};

static const char *const exit_names[] = {
	[POWER_OFF] = "poweroff",
	[POWER_RESET] = "reset",
	[POWER_TRIPLE_FAULT] = "triple",
};

static const char *const selftest_names[NR_SELFTESTS] = {
	[SELFTEST_NONE] = "none",     [SELFTEST_FLIP] = "flip",
	[SELFTEST_STALE] = "stale",   [SELFTEST_ALIEN] = "alien",
	[SELFTEST_ZERO] = "zero",     [SELFTEST_RECORD] = "record",
	[SELFTEST_TSC] = "tsc",       [SELFTEST_KVMCLOCK] = "kvmclock",
	[SELFTEST_MIRROR] = "mirror", [SELFTEST_REGISTERS] = "registers",
	[SELFTEST_STALL] = "stall",   [SELFTEST_FAULT] = "fault",
};

struct options options = {
	.mem = UINT64_C(64) << 20,
	.seed = 1,
	.hb = 200,
	.hz = 100,
	.verify = 1,
	.halt = 1,
};

/* A number in min..max, or an index into names. */
static const struct option {
	const char *key;
	uint64_t *value;
	uint64_t min, max;
	const char *const *names;
} table[] = {
	{ "cpus", &options.cpus, 1, CPUS_MAX, NULL },
	{ "mem", &options.mem, PAGE_BYTES, MEM_MAX, NULL },
	{ "ws", &options.ws, PAGE_BYTES, MEM_MAX, NULL },
	{ "rate", &options.rate, 0, 10000000, NULL },
	{ "seed", &options.seed, 0, UINT64_MAX, NULL },
	{ "zero", &options.zero, 0, 1u << 30, NULL },
	{ "hb", &options.hb, 1, HB_MS_MAX, NULL },
	{ "hz", &options.hz, 1, HZ_MAX, NULL },
	{ "time", &options.time, 0, 1u << 30, NULL },
	{ "verify", &options.verify, 0, 1, NULL },
	{ "irq", &options.irq, 0, 1, NULL },
	{ "halt", &options.halt, 0, 1, NULL },
	{ "light", &options.light, 0, 1, NULL },
	{ "disk", &options.disk, PAGE_BYTES, UINT64_MAX, NULL },
	{ "prefilled", &options.prefilled, 0, 1, NULL },
	{ "work", &options.work, 0, NR_WORKS - 1, work_names },
	{ "exit", &options.exit, 0, POWER_TRIPLE_FAULT, exit_names },
	{ "selftest", &options.selftest, 0, NR_SELFTESTS - 1, selftest_names },
};

static bool ends_word(char c)
{
	return c == '\0' || c == ' ';
}

/* True when the word at text is name, up to the end character. */
static bool is_name(const char *text, const char *name, char end)
{
	while (*name && *text == *name) {
		text++;
		name++;
	}
	return *name == '\0' && (end ? *text == end : ends_word(*text));
}

static bool parse_number(const char *text, uint64_t *ret_value)
{
	uint64_t value = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*p - '0'), &value))
			return false;
	if (p == text)
		return false;
	for (const char *s = "KMG"; *s; s++)
		if (*p == *s) {
			uint64_t unit = UINT64_C(1024);

			for (; *s != 'K'; s--)
				unit *= 1024;
			if (__builtin_mul_overflow(value, unit, &value))
				return false;
			p++;
			break;
		}
	*ret_value = value;
	return ends_word(*p);
}

static bool parse_value(const struct option *o, const char *text)
{
	uint64_t value;

	if (o->names == NULL) {
		if (!parse_number(text, &value) || value < o->min ||
		    value > o->max)
			return false;
		*o->value = value;
		return true;
	}
	for (value = 0; value <= o->max; value++)
		if (is_name(text, o->names[value], '\0')) {
			*o->value = value;
			return true;
		}
	return false;
}

static bool parse_word(const char *word)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		const char *key = table[i].key;

		if (is_name(word, key, '=')) {
			while (*word++ != '=')
				;
			return parse_value(&table[i], word);
		}
	}
	return false;
}

bool options_parse(const char *cmdline, const char **ret_bad)
{
	while (*cmdline) {
		if (*cmdline == ' ') {
			cmdline++;
			continue;
		}
		if (!parse_word(cmdline)) {
			*ret_bad = cmdline;
			return false;
		}
		while (!ends_word(*cmdline))
			cmdline++;
	}
	return true;
}
