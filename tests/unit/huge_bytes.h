/* tests/unit/huge_bytes.h: what of this process lies in transparent huge pages. */
#ifndef TESTS_UNIT_HUGE_BYTES_H
#define TESTS_UNIT_HUGE_BYTES_H

#include <stdint.h>
#include <stdio.h>

static inline uint64_t huge_bytes(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	unsigned long long kib = 0;
	char line[128];

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		sscanf(line, "AnonHugePages: %llu", &kib);
	fclose(f);
	return kib * 1024;
}

#endif
