#include "lock_stat.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PATH       "/proc/lock_stat"
#define DISABLED   "lock debugging disabled" /* after a complaint of lockdep's */
#define LINE_BYTES 1024

bool lock_stat_available(void)
{
	return access(PATH, R_OK | W_OK) == 0;
}

bool lock_stat_clear(void)
{
	FILE *f = fopen(PATH, "w");
	bool written;

	if (!f)
		return false;
	written = fputs("0", f) >= 0;
	return fclose(f) == 0 && written;
}

/*
 * A class has a line, or one for its writers and one for its readers: its name and
 * "-W:", "-R:" or ":", and twelve numbers of which the eleventh is holdtime-total.
 * Lines with the callers that had to wait follow; they have no such numbers.
 */
static double held_by_line(const char *line, const char *name)
{
	const char *found = strstr(line, name), *colon;
	double held_us;

	if (!found)
		return 0;
	colon = strchr(found, ':');
	if (!colon ||
	    sscanf(colon + 1, "%*f %*f %*f %*f %*f %*f %*f %*f %*f %*f %lf",
		   &held_us) != 1)
		return 0;
	return held_us;
}

double lock_stat_held_us(const char *name)
{
	char line[LINE_BYTES];
	double sum_us = 0;
	FILE *f = fopen(PATH, "r");

	if (!f)
		return -1;
	while (sum_us >= 0 && fgets(line, sizeof(line), f)) {
		if (strstr(line, DISABLED)) {
			errno = EOPNOTSUPP;
			sum_us = -1;
		} else {
			sum_us += held_by_line(line, name);
		}
	}
	if (ferror(f))
		sum_us = -1;
	fclose(f);
	return sum_us;
}
