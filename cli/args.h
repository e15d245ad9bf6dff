/*
 * cli/args.h: text that people type, into checked values.
 *
 * Strict: no sign, no blanks, no trailing junk, no overflow.
 * Threads: any; nothing here keeps state.
 * Errors:  -EINVAL, and then nothing was written. Who asked knows the name of
 *          the option and words the complaint.
 */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decimal digits, min..max. */
int cli_parse_u64(const char *text, uint64_t min, uint64_t max,
		  uint64_t *ret_value);
/* Digits and one of K, M, G, T (powers of 1024; small letters too) or none. */
int cli_parse_size(const char *text, uint64_t *ret_bytes);

#define CLI_NAME_MAX 64
/* [A-Za-z0-9_.-]{1,64}, not starting with '.' or '-': it becomes a file name. */
bool cli_name_ok(const char *name);

enum cli_serial_kind {
	CLI_SERIAL_NULL,
	CLI_SERIAL_STDIO,
	CLI_SERIAL_FILE,
	CLI_SERIAL_PTY,
};

struct cli_serial_spec {
	enum cli_serial_kind kind;
	const char *path; /* of a file: points into the text that was parsed */
};
/* stdio, file:PATH, pty or null. */
int cli_parse_serial(const char *text, struct cli_serial_spec *ret_spec);

/*
 * The path as it is from everywhere, for a process that leaves our directory or
 * is another's; malloc'd. NULL: it is no path.
 */
char *cli_absolute(const char *path);
/*
 * The same for what belongs to a guest, and may go to a peer or into a snapshot:
 * NULL too when it has bytes_max bytes or more, or control characters in it.
 */
char *cli_guest_path(const char *text, size_t bytes_max);

#endif
