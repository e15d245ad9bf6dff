#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "migrate/clock.h"

#define MIB 1048576.0

static uint64_t number(const json_t *event, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(event, key));
}

void progress_show(void *ctx, const json_t *event)
{
	const char *phase = json_string_value(json_object_get(event, "phase"));
	uint64_t left = number(event, "left_bytes");
	uint64_t total = number(event, "total_bytes");
	uint64_t bytes = number(event, "bytes"), now_us = mig_now_us();
	uint64_t round = number(event, "round");
	struct progress *p = ctx;
	double rate = 0;

	if (!isatty(STDERR_FILENO))
		return;
	if (p->last_us && bytes >= p->last_bytes && now_us > p->last_us)
		rate = (double)(bytes - p->last_bytes) / MIB * 1e6 /
		       (double)(now_us - p->last_us);
	p->last_us = now_us;
	p->last_bytes = bytes;
	fprintf(stderr, "\r\033[K%s", phase ? phase : "");
	if (round > 0)
		fprintf(stderr, " round %llu", (unsigned long long)round);
	if (total > 0 && left <= total)
		fprintf(stderr, " %3.0f%%, %.1f MiB left",
			100.0 * (double)(total - left) / (double)total,
			(double)left / MIB);
	fprintf(stderr, ", %.1f MiB/s", rate);
	fflush(stderr);
}

void progress_end(void)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
}
