#include "cli/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#define ESCAPE_KEY 1 /* Ctrl-A */

static struct termios saved;
static volatile sig_atomic_t is_raw;
static bool escaped; /* the last byte typed was the escape key */

void terminal_restore(void)
{
	if (is_raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	is_raw = 0;
}

/* SA_RESETHAND: raising again does what would have happened without us. */
static void on_crash(int sig)
{
	terminal_restore();
	raise(sig);
}

static void watch_crashes(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGABRT,
				       SIGFPE,  SIGILL, SIGQUIT };
	struct sigaction action = { .sa_handler = on_crash,
				    .sa_flags = SA_RESETHAND | SA_NODEFER };
	size_t i;

	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaction(signals[i], &action, NULL);
}

int terminal_raw(void)
{
	struct termios raw;

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved) < 0)
		return -ENOTTY;
	if (tcgetpgrp(STDIN_FILENO) != getpgrp())
		return -EPERM;
	raw = saved;
	cfmakeraw(&raw);
	raw.c_oflag = saved.c_oflag; /* our own lines still want their CR */
	atexit(terminal_restore);
	watch_crashes();
	is_raw = 1;
	return tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0 ? -errno : 0;
}

enum terminal_key terminal_filter(char *typed, size_t *bytes)
{
	enum terminal_key key = TERMINAL_NONE;
	size_t i, kept = 0;

	for (i = 0; i < *bytes; i++) {
		if (!escaped && typed[i] == ESCAPE_KEY) {
			escaped = true;
			continue;
		}
		if (escaped && typed[i] == 'x')
			key = TERMINAL_STOP;
		else if (escaped && typed[i] == 'h')
			key = TERMINAL_HELP;
		else if (escaped && typed[i] == 'a')
			typed[kept++] = ESCAPE_KEY;
		else
			typed[kept++] = typed[i];
		escaped = false;
	}
	*bytes = kept;
	return key;
}
