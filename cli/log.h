/*
 * cli/log.h: lines for people on stderr, or in a detached daemon's log file.
 *
 * "vmmd: ..." from a command, "vmmd[NAME]: ..." from the process of a guest. A
 * message with several lines is prefixed line by line; each line is one write().
 * Threads: init while there is one thread; cli_log: any.
 */
#ifndef CLI_LOG_H
#define CLI_LOG_H

#include <stdarg.h>

/* name: of the guest whose process this is; borrowed for good. */
void cli_log_init(const char *name);
/* Where lines go from now on; borrowed. 2 until somebody says otherwise. */
void cli_log_to(int fd);

__attribute__((format(printf, 1, 2))) void cli_log(const char *format, ...);
/* A formatted string to be freed; NULL only when there is no memory. */
__attribute__((format(printf, 1, 2))) char *cli_line(const char *format, ...);

#endif
