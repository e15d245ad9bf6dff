#include "cli/control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/cmd.h"

#define GOODBYE_MS 1000

struct control_client {
	struct control *control;
	struct control_client *next;
	ev_io readable;
	ev_io writable;
	enum control_wait wait;
	bool asked;    /* its request has come; what else it sends is ignored */
	bool answered; /* done is in out: close when that is empty */
	bool broken;   /* to be closed by whoever walks the list next */
	size_t in_bytes;
	char *out; /* owned */
	size_t out_bytes;
	char in[CONTROL_LINE_MAX];
};

struct control {
	struct ev_loop *loop;
	ev_io incoming;
	ev_timer reaper; /* zero delay: frees clients outside their callbacks */
	control_request *request;
	void *ctx;
	struct control_client *clients;
	unsigned int nr_clients;
};

static void free_client(struct control_client *k)
{
	ev_io_stop(k->control->loop, &k->readable);
	ev_io_stop(k->control->loop, &k->writable);
	close(k->readable.fd);
	free(k->out);
	free(k);
}

/* Callers up the stack may still hold k: it goes when the loop comes round. */
static void drop(struct control_client *k)
{
	k->broken = true;
	k->wait = WAIT_NOTHING;
	ev_io_stop(k->control->loop, &k->readable);
	ev_io_stop(k->control->loop, &k->writable);
	ev_timer_start(k->control->loop, &k->control->reaper);
}

static void on_reap(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct control *c = timer->data;
	struct control_client **at = &c->clients, *k;

	(void)loop;
	(void)revents;
	while ((k = *at)) {
		if (k->broken) {
			*at = k->next;
			c->nr_clients--;
			free_client(k);
		} else {
			at = &k->next;
		}
	}
}

/* As much as the socket takes now. */
static void push_out(struct control_client *k)
{
	ssize_t n;

	while (k->out_bytes > 0) {
		n = send(k->writable.fd, k->out, k->out_bytes,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			ev_io_start(k->control->loop, &k->writable);
			return;
		}
		if (n < 0) {
			drop(k);
			return;
		}
		k->out_bytes -= (size_t)n;
		memmove(k->out, k->out + n, k->out_bytes);
	}
	ev_io_stop(k->control->loop, &k->writable);
	if (k->answered)
		drop(k);
}

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	(void)loop;
	(void)revents;
	push_out(io->data);
}

static void send_line(struct control_client *k, const json_t *object)
{
	char *line, *out;
	size_t bytes;

	if (k->broken)
		return;
	line = json_dumps(object, CONTROL_JSON_FLAGS);
	if (!line) {
		drop(k);
		return;
	}
	bytes = strlen(line);
	line[bytes++] = '\n'; /* in place of the NUL: a line is not a string */
	out = k->out_bytes + bytes > CONTROL_BACKLOG_MAX
		      ? NULL
		      : realloc(k->out, k->out_bytes + bytes);
	if (out) {
		memcpy(out + k->out_bytes, line, bytes);
		k->out = out;
		k->out_bytes += bytes;
		push_out(k);
	} else {
		drop(k);
	}
	free(line);
}

void control_wait_for(struct control_client *client, enum control_wait wait)
{
	client->wait = wait;
}

void control_done(struct control_client *client, int exit_status,
		  const char *error, json_t *result)
{
	json_t *done = json_pack("{s:s, s:b, s:i, s:s*, s:o*}", "event", "done",
				 "ok", error == NULL, "exit", exit_status,
				 "error", error, "result", result);

	client->wait = WAIT_NOTHING;
	client->answered = true;
	send_line(client, done);
	json_decref(done);
}

void control_done_all(struct control *c, enum control_wait wait,
		      int exit_status, const char *error, json_t *result)
{
	struct control_client *k;

	for (k = c->clients; k; k = k->next) {
		if (k->wait == wait)
			control_done(k, exit_status, error,
				     json_incref(result));
	}
	json_decref(result);
}

void control_progress_all(struct control *c, enum control_wait wait,
			  json_t *fields)
{
	struct control_client *k;

	json_object_set_new(fields, "event", json_string("progress"));
	for (k = c->clients; k; k = k->next) {
		if (k->wait == wait)
			send_line(k, fields);
	}
	json_decref(fields);
}

bool control_anyone(const struct control *c, enum control_wait wait)
{
	const struct control_client *k;

	for (k = c->clients; k; k = k->next) {
		if (k->wait == wait)
			return true;
	}
	return false;
}

static void on_line(struct control_client *k, size_t bytes)
{
	json_error_t error;
	json_t *request;
	const char *cmd;

	k->asked = true;
	request = json_loadb(k->in, bytes, JSON_REJECT_DUPLICATES, &error);
	cmd = json_string_value(json_object_get(request, "cmd"));
	if (cmd)
		k->control->request(k->control->ctx, k, cmd, request);
	else
		control_done(k, CLI_USAGE,
			     "malformed request: a JSON object with \"cmd\" "
			     "was expected",
			     NULL);
	json_decref(request);
}

/*
 * The end of what a client sends is not the end of its interest (it may have
 * shut down its half): once it has asked we find out by writing.
 */
static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct control_client *k = io->data;
	char ignored[4096];
	char *end;
	ssize_t n;

	(void)revents;
	if (k->asked)
		n = read(io->fd, ignored, sizeof(ignored));
	else
		n = read(io->fd, k->in + k->in_bytes,
			 sizeof(k->in) - k->in_bytes);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		ev_io_stop(loop, io);
		if (!k->asked || n < 0)
			drop(k);
		return;
	}
	if (k->asked)
		return;
	end = memchr(k->in + k->in_bytes, '\n', (size_t)n);
	k->in_bytes += (size_t)n;
	if (end)
		on_line(k, (size_t)(end - k->in));
	else if (k->in_bytes == sizeof(k->in))
		on_line(k, 0); /* too long: as malformed as no line at all */
}

static const char too_many[] = "{\"event\":\"done\",\"ok\":false,\"exit\":1,"
			       "\"error\":\"too many clients, try again\"}\n";

static void on_incoming(struct ev_loop *loop, ev_io *io, int revents)
{
	struct control *c = io->data;
	struct control_client *k;
	int fd;

	(void)revents;
	fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	k = c->nr_clients < CONTROL_CLIENTS_MAX ? calloc(1, sizeof(*k)) : NULL;
	if (!k) {
		send(fd, too_many, strlen(too_many), MSG_NOSIGNAL);
		close(fd);
		return;
	}
	k->control = c;
	k->next = c->clients;
	c->clients = k;
	c->nr_clients++;
	ev_io_init(&k->readable, on_readable, fd, EV_READ);
	ev_io_init(&k->writable, on_writable, fd, EV_WRITE);
	k->readable.data = k->writable.data = k;
	ev_io_start(loop, &k->readable);
}

int control_new(struct ev_loop *loop, int listen_fd, control_request *request,
		void *ctx, struct control **ret_control)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->loop = loop;
	c->request = request;
	c->ctx = ctx;
	ev_io_init(&c->incoming, on_incoming, listen_fd, EV_READ);
	c->incoming.data = c;
	ev_io_start(loop, &c->incoming);
	ev_timer_init(&c->reaper, on_reap, 0, 0);
	c->reaper.data = c;
	*ret_control = c;
	return 0;
}

/* The last words of a process that is about to end. */
static void say_goodbye(struct control_client *k)
{
	struct pollfd pfd = { .fd = k->writable.fd, .events = POLLOUT };

	while (!k->broken && k->out_bytes > 0 && poll(&pfd, 1, GOODBYE_MS) == 1)
		push_out(k);
}

void control_free(struct control *c)
{
	struct control_client *k;

	if (!c)
		return;
	while ((k = c->clients)) {
		c->clients = k->next;
		say_goodbye(k);
		free_client(k);
	}
	ev_io_stop(c->loop, &c->incoming);
	ev_timer_stop(c->loop, &c->reaper);
	free(c);
}
