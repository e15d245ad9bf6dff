#include "cli/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/cmd.h"
#include "cli/control.h"
#include "cli/log.h"
#include "cli/rundir.h"

static int send_request(int fd, const json_t *request)
{
	char *line = json_dumps(request, CONTROL_JSON_FLAGS);
	size_t bytes, sent = 0;
	ssize_t n = 0;

	if (!line)
		return -ENOMEM;
	bytes = strlen(line);
	line[bytes++] = '\n';
	while (sent < bytes) {
		n = send(fd, line + sent, bytes - sent, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			break;
		sent += n > 0 ? (size_t)n : 0;
	}
	n = sent < bytes ? -errno : 0;
	free(line);
	return (int)n;
}

/* What is in a done line. -EBADMSG: not one of ours. */
static int take_done(const json_t *done, struct client_answer *a)
{
	const json_t *status = json_object_get(done, "exit");
	const json_t *error = json_object_get(done, "error");

	if (!json_is_integer(status))
		return -EBADMSG;
	a->exit_status = (int)json_integer_value(status);
	if (json_is_string(error))
		a->error = strdup(json_string_value(error));
	a->result = json_incref(json_object_get(done, "result"));
	return 0;
}

/* Lines until done: 0; -ENOTCONN when they end before, -EBADMSG. */
static int read_answer(FILE *in, client_progress *progress, void *ctx,
		       struct client_answer *a)
{
	const char *event;
	char *line = NULL;
	size_t size = 0;
	json_t *object;
	int ret = 1;
	ssize_t n;

	while (ret == 1) {
		n = getline(&line, &size, in);
		if (n <= 0) {
			ret = errno == EAGAIN ? -ETIMEDOUT : -ENOTCONN;
			break;
		}
		object = json_loadb(line, (size_t)n, 0, NULL);
		event = json_string_value(json_object_get(object, "event"));
		if (event && strcmp(event, "done") == 0)
			ret = take_done(object, a);
		else if (!event || strcmp(event, "progress") != 0)
			ret = -EBADMSG;
		else if (progress)
			progress(ctx, object);
		json_decref(object);
	}
	free(line);
	return ret;
}

static int connect_to(const char *name, int timeout_ms, int *ret_fd, char **err)
{
	char path[PATH_MAX];
	int dir_fd, ret;

	ret = rundir_open(false, &dir_fd, err);
	if (ret == 0) {
		ret = cli_name_ok(name)
			      ? rundir_connect(dir_fd, name, timeout_ms, ret_fd)
			      : -ENOENT;
		close(dir_fd);
	}
	if (ret == -ENOENT && rundir_path(path) == 0) {
		free(*err);
		*err = cli_line("no guest named '%s' in %s (vmmd list shows "
				"them)",
				name, path);
	} else if (ret < 0 && !*err) {
		*err = cli_line("cannot reach guest '%s': %s", name,
				strerror(-ret));
	}
	return ret;
}

static char *explain(const char *name, int ret)
{
	switch (ret) {
	case -ENOTCONN:
		return cli_line("the process of guest '%s' ended without an "
				"answer",
				name);
	case -ETIMEDOUT:
		return cli_line("the process of guest '%s' does not answer",
				name);
	case -EBADMSG:
		return cli_line("the process of guest '%s' gave an answer "
				"that makes no sense; is it another version?",
				name);
	default:
		return cli_line("guest '%s': %s", name, strerror(-ret));
	}
}

void client_ask(const char *name, json_t *request, int timeout_ms,
		client_progress *progress, void *ctx,
		struct client_answer *ret_answer)
{
	struct client_answer a = { .exit_status = CLI_FAILED };
	FILE *in;
	int fd, ret;

	ret = connect_to(name, timeout_ms, &fd, &a.error);
	if (ret < 0)
		goto out;
	ret = send_request(fd, request);
	in = ret == 0 ? fdopen(fd, "r") : NULL;
	if (in) {
		ret = read_answer(in, progress, ctx, &a);
		fclose(in);
	} else {
		ret = ret < 0 ? ret : -errno;
		close(fd);
	}
	a.ended = ret == -ENOTCONN || ret == -ECONNRESET || ret == -EPIPE;
	if (ret < 0)
		a.error = explain(name, a.ended ? -ENOTCONN : ret);
out:
	json_decref(request);
	*ret_answer = a;
}

void client_answer_fini(struct client_answer *a)
{
	free(a->error);
	json_decref(a->result);
}

void client_print_json(json_t *object)
{
	json_dumpf(object, stdout, CONTROL_JSON_FLAGS);
	putchar('\n');
	fflush(stdout);
	json_decref(object);
}

int client_report(struct client_answer *a, bool json)
{
	int status = a->exit_status;

	if (a->error)
		cli_log("%s", a->error);
	if (json && a->result)
		client_print_json(json_incref(a->result));
	else if (json)
		client_print_json(json_pack("{s:s, s:s*}", "result",
					    a->error ? "failed" : "done",
					    "error", a->error));
	client_answer_fini(a);
	return status;
}

int client_fail(bool json, const char *format, ...)
{
	char line[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	cli_log("%s", line);
	if (json)
		client_print_json(json_pack("{s:s, s:s}", "result", "failed",
					    "error", line));
	return CLI_FAILED;
}
