/* options.h: the command line. README.md says what each key means. */
#ifndef GUEST_OPTIONS_H
#define GUEST_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "power.h"

enum work {
	WORK_IDLE,
	WORK_FILL,
	WORK_DIRTY,
	WORK_SPARSE,
	WORK_READ,
	WORK_TOUCH,
	WORK_DISK,
	WORK_DISKONLY,
	NR_WORKS
};

enum selftest {
	SELFTEST_NONE,
	SELFTEST_FLIP,
	SELFTEST_STALE,
	SELFTEST_ALIEN,
	SELFTEST_ZERO,
	SELFTEST_RECORD,
	SELFTEST_TSC,
	SELFTEST_KVMCLOCK,
	SELFTEST_MIRROR,
	SELFTEST_REGISTERS,
	SELFTEST_STALL,
	SELFTEST_FAULT,
	NR_SELFTESTS
};

struct options {
	uint64_t cpus; /* 0: all there are */
	uint64_t mem;
	uint64_t ws; /* 0: all of mem */
	uint64_t rate;
	uint64_t seed;
	uint64_t zero;
	uint64_t hb;
	uint64_t hz;
	uint64_t time;
	uint64_t verify;
	uint64_t irq;
	uint64_t halt;
	uint64_t light;
	uint64_t disk; /* bytes of it; 0: all */
	uint64_t prefilled;
	uint64_t work;
	uint64_t exit;
	uint64_t selftest;
};
extern struct options options;
extern const char *const work_names[NR_WORKS];

/* False: *ret_bad is the first word that makes no sense, not terminated. */
bool options_parse(const char *cmdline, const char **ret_bad);

#endif
