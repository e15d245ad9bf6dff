/*
 * cli/detach.h: the two halves of a process that goes to the background.
 *
 * The half that stays waits on a pipe until the other reports that the guest is
 * ready, or why not, and prints it.
 * Threads: before any other thread exists.
 */
#ifndef CLI_DETACH_H
#define CLI_DETACH_H

#include <jansson.h>
#include <stdbool.h>

/*
 * Forks. In the half that stays: waits, prints, and returns true with
 * *ret_exit. In the other: false with *ret_ready_fd; a session of its own, fds
 * 0 to 2 on /dev/null, and no other file of whoever started us.
 */
bool detach(const char *name, bool json, int *ret_ready_fd, int *ret_exit);
/*
 * Tells the half that stays, once, and closes the pipe. error NULL: ready, and
 * text is the line for people. result is borrowed.
 */
void detach_report(int ready_fd, int exit_status, const char *error,
		   const char *text, json_t *result);

#endif
