/* tests/lab/linux/load/load.c: which work, and what all of it has in common. */
#include "load.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
	int fd;
	uint64_t rounds;
	uint64_t bytes;
} report = { .fd = -1 };

/* splitmix64: neighbouring seeds give unlike words. */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

uint64_t load_random(void)
{
	static uint64_t state;

	if (!state)
		state = (uint64_t)getpid() << 32;
	return mix(state++);
}

/* The first word names block and version, for whoever finds it elsewhere. */
static uint64_t word(uint64_t block, uint64_t version, size_t i)
{
	uint64_t first = block << 32 | (version & 0xffffffff);

	return i == 0 ? first : mix(first) + i;
}

void load_fill(void *to, size_t bytes, uint64_t block, uint64_t version)
{
	uint64_t *words = to;

	for (size_t i = 0; i < bytes / sizeof(*words); i++)
		words[i] = word(block, version, i);
}

void load_check(const void *data, size_t bytes, uint64_t block,
		uint64_t version, const char *where)
{
	const uint64_t *words = data;

	for (size_t i = 0; i < bytes / sizeof(*words); i++) {
		uint64_t good = word(block, version, i);

		if (words[i] != good)
			load_wrong("%s: block %llu version %llu: word %zu is "
				   "%#llx, not %#llx",
				   where, (unsigned long long)block,
				   (unsigned long long)version, i,
				   (unsigned long long)words[i],
				   (unsigned long long)good);
	}
}

void load_begin(const char *name)
{
	const char *directory = getenv("LOAD_DIR");
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", directory ? directory : "/tmp",
		 name);
	report.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (report.fd < 0) {
		perror(path);
		exit(1);
	}
}

/* Always as long, so that a reader never sees the end of an older one. */
static void write_report(const char *line)
{
	char padded[256];
	int length = snprintf(padded, sizeof(padded), "%-200s\n", line);

	if (pwrite(report.fd, padded, (size_t)length, 0) != length)
		abort();
}

void load_round(uint64_t bytes)
{
	char line[80];

	report.rounds++;
	report.bytes += bytes;
	snprintf(line, sizeof(line), "rounds=%llu bytes=%llu",
		 (unsigned long long)report.rounds,
		 (unsigned long long)report.bytes);
	write_report(line);
}

void load_wrong(const char *format, ...)
{
	char line[200] = "WRONG ";
	va_list ap;

	va_start(ap, format);
	vsnprintf(line + 6, sizeof(line) - 6, format, ap);
	va_end(ap);
	fprintf(stderr, "%s\n", line);
	write_report(line);
	exit(1);
}

void *load_memory(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		load_wrong("no %zu bytes of memory", bytes);
	return p;
}

static const struct {
	const char *name;
	const char *arguments;
	int (*main)(int argc, char **argv);
} kinds[] = {
	{ "mem", "NAME MIB", load_mem },
	{ "disk", "NAME DIRECTORY MIB", load_disk },
	{ "serve", "NAME PORT", load_serve },
	{ "talk", "NAME ADDRESS PORT", load_talk },
	{ "direct", "NAME DEVICE MIB", load_direct },
	{ "clock", "NAME PORT", load_clock },
	{ "offset", "NAME ADDRESS PORT", load_offset },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (argc > 2 && strcmp(argv[1], kinds[i].name) == 0) {
			load_begin(argv[2]);
			kinds[i].main(argc - 2, argv + 2);
		}
	}
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		fprintf(stderr, "load %s %s\n", kinds[i].name,
			kinds[i].arguments);
	return 2;
}
