/*
 * cli/terminal.h: our own terminal in raw mode while a guest has it.
 *
 * It is put back on every way out: atexit, terminal_restore(), and the signals
 * that end a process with a crash.
 * Threads: the main one.
 */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>

/*
 * stdin becomes raw when it is a terminal and we are in its foreground.
 * -ENOTTY: it is none, read it as it is; -EPERM: a terminal that is not ours to
 * read now (a background job would be stopped by the first read).
 */
int terminal_raw(void);
void terminal_restore(void);

enum terminal_key { TERMINAL_NONE, TERMINAL_STOP, TERMINAL_HELP };

/*
 * Takes the escape sequences (Ctrl-A and a letter) out of what was typed, in
 * place; *bytes shrinks. Returns the last command found.
 */
enum terminal_key terminal_filter(char *typed, size_t *bytes);

#endif
