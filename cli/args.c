#include "cli/args.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Digits from text up to *ret_end; at least one of them. */
static int take_digits(const char *text, uint64_t *ret_value,
		       const char **ret_end)
{
	uint64_t value = 0;
	const char *at;

	for (at = text; isdigit((unsigned char)*at); at++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, *at - '0', &value))
			return -EINVAL;
	}
	if (at == text)
		return -EINVAL;
	*ret_value = value;
	*ret_end = at;
	return 0;
}

int cli_parse_u64(const char *text, uint64_t min, uint64_t max,
		  uint64_t *ret_value)
{
	const char *end;
	uint64_t value;

	if (take_digits(text, &value, &end) < 0 || *end != '\0')
		return -EINVAL;
	if (value < min || value > max)
		return -EINVAL;
	*ret_value = value;
	return 0;
}

int cli_parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	unsigned int shift = 0;
	const char *end, *unit;
	uint64_t value;

	if (take_digits(text, &value, &end) < 0)
		return -EINVAL;
	if (*end != '\0') {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || end[1] != '\0')
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (value > UINT64_MAX >> shift)
		return -EINVAL;
	*ret_bytes = value << shift;
	return 0;
}

bool cli_name_ok(const char *name)
{
	size_t bytes = strlen(name);

	if (bytes == 0 || bytes > CLI_NAME_MAX)
		return false;
	if (name[0] == '.' || name[0] == '-')
		return false;
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			    "abcdefghijklmnopqrstuvwxyz"
			    "0123456789_.-") == bytes;
}

int cli_parse_serial(const char *text, struct cli_serial_spec *ret_spec)
{
	struct cli_serial_spec spec = { 0 };

	if (strcmp(text, "null") == 0)
		spec.kind = CLI_SERIAL_NULL;
	else if (strcmp(text, "stdio") == 0)
		spec.kind = CLI_SERIAL_STDIO;
	else if (strcmp(text, "pty") == 0)
		spec.kind = CLI_SERIAL_PTY;
	else if (strncmp(text, "file:", 5) == 0 && text[5] != '\0')
		spec = (struct cli_serial_spec){ CLI_SERIAL_FILE, text + 5 };
	else
		return -EINVAL;
	*ret_spec = spec;
	return 0;
}

char *cli_absolute(const char *path)
{
	char cwd[PATH_MAX];
	char *absolute;

	if (path[0] == '\0')
		return NULL;
	if (path[0] == '/')
		return strdup(path);
	if (!getcwd(cwd, sizeof(cwd)) ||
	    asprintf(&absolute, "%s/%s", cwd, path) < 0)
		return NULL;
	return absolute;
}

char *cli_guest_path(const char *text, size_t bytes_max)
{
	char *path = cli_absolute(text);
	const unsigned char *p = (const unsigned char *)path;

	while (p && *p >= ' ' && *p != 0x7f)
		p++;
	if (path && (*p != '\0' || strlen(path) >= bytes_max)) {
		free(path);
		return NULL;
	}
	return path;
}
