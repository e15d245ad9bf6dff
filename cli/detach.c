#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/control.h"
#include "cli/log.h"

/* What detach_report() wrote, or nothing when the process died before. */
static int print_report(const char *name, bool json, int fd)
{
	FILE *in = fdopen(fd, "r");
	json_t *report = in ? json_loadf(in, 0, NULL) : NULL;
	const char *error, *text;
	int status;

	if (in)
		fclose(in);
	if (!report) {
		cli_log("the process of guest '%s' died while it started",
			name);
		return CLI_FAILED;
	}
	status = (int)json_integer_value(json_object_get(report, "exit"));
	error = json_string_value(json_object_get(report, "error"));
	text = json_string_value(json_object_get(report, "text"));
	if (error)
		cli_log("%s", error);
	if (json)
		client_print_json(
			json_incref(json_object_get(report, "result")));
	else if (text)
		printf("%s: %s\n", name, text);
	json_decref(report);
	return status;
}

static void leave_the_terminal(int keep_fd)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int fd;

	setsid();
	/* Without a /dev/null the terminal's are closed all the same. */
	for (fd = 0; fd < 3; fd++) {
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
	}
	/* None of the others is ours: nothing has been opened yet. */
	syscall(SYS_close_range, 3, (unsigned int)keep_fd - 1, 0);
	syscall(SYS_close_range, (unsigned int)keep_fd + 1, ~0u, 0);
}

bool detach(const char *name, bool json, int *ret_ready_fd, int *ret_exit)
{
	int pipe_fds[2];
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		cli_log("cannot go to the background: %s", strerror(errno));
		*ret_exit = CLI_FAILED;
		return true;
	}
	if (pid == 0) {
		*ret_ready_fd = pipe_fds[1];
		leave_the_terminal(pipe_fds[1]);
		return false;
	}
	close(pipe_fds[1]);
	*ret_exit = print_report(name, json, pipe_fds[0]);
	return true;
}

void detach_report(int ready_fd, int exit_status, const char *error,
		   const char *text, json_t *result)
{
	json_t *report = json_pack("{s:i, s:s*, s:s*, s:O*}", "exit",
				   exit_status, "error", error, "text", text,
				   "result", result);

	/* If the half that stayed was killed, there is nobody to tell. */
	json_dumpfd(report, ready_fd, CONTROL_JSON_FLAGS);
	json_decref(report);
	close(ready_fd);
}
