#include "cli/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *log_name;
static int log_fd = STDERR_FILENO;

void cli_log_init(const char *name)
{
	log_name = name;
}

void cli_log_to(int fd)
{
	log_fd = fd;
}

static void write_line(const char *text, size_t bytes)
{
	char line[2048];
	int used;

	if (log_name)
		used = snprintf(line, sizeof(line), "vmmd[%s]: %.*s\n",
				log_name, (int)bytes, text);
	else
		used = snprintf(line, sizeof(line), "vmmd: %.*s\n", (int)bytes,
				text);
	if (used >= (int)sizeof(line)) {
		used = sizeof(line) - 1;
		line[used - 1] = '\n';
	}
	/* Nowhere is left to complain about a log that cannot be written. */
	if (write(log_fd, line, (size_t)used) < 0)
		return;
}

void cli_log(const char *format, ...)
{
	char text[4096];
	const char *at, *end;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (at = text; *at != '\0'; at = *end == '\0' ? end : end + 1) {
		end = strchrnul(at, '\n');
		if (end > at)
			write_line(at, (size_t)(end - at));
	}
}

char *cli_line(const char *format, ...)
{
	char *line = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&line, format, args) < 0)
		line = NULL;
	va_end(args);
	return line;
}
