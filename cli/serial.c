#include "cli/serial.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/log.h"
#include "vmm/vm.h"

#define INPUT_MAX      (64u << 10)
#define READ_BYTES     4096  /* from stdin or the pty at a time */
#define RETRY_S        0.002 /* a 16-byte FIFO that the guest has not read */
#define PAUSED_RETRY_S 0.2
#define PTY_POLL_S     0.2

struct serial {
	struct ev_loop *loop;
	const struct serial_port *port;
	enum cli_serial_kind kind;
	const struct serial_ops *ops;
	void *ctx;
	bool raw; /* stdin is a terminal in raw mode */
	/* Constant after serial_new(): any thread. */
	int in_fd;  /* -1: none */
	int out_fd; /* -1: none */
	bool own_out;
	bool block_guard; /* out_fd is blocking: poll before each write */
	char pty[64];

	atomic_bool lost_told; /* a failing file is complained of once */
	ev_async full;         /* the device's thread met a full sink */
	/* The loop's thread. */
	struct vm *vm;
	ev_io readable;
	ev_io writable;
	ev_timer retry;
	ev_timer pty_poll;
	bool output_waits; /* writable has fired while the guest was stopped */
	size_t in_bytes;
	char in[INPUT_MAX];
};

const struct serial_port serial_port_uart = {
	.what = "serial",
	.input = vm_serial_input,
	.output_ready = vm_serial_output_ready,
};

const struct serial_port serial_port_console = {
	.what = "console",
	.input = vm_console_input,
	.output_ready = vm_console_output_ready,
};

/* Nobody holds the slave: what is written would only fill a buffer. */
static bool pty_is_open(const struct serial *s)
{
	struct pollfd pfd = { .fd = s->out_fd, .events = POLLIN };

	return poll(&pfd, 1, 0) >= 0 && !(pfd.revents & POLLHUP);
}

static bool has_room(const struct serial *s)
{
	struct pollfd pfd = { .fd = s->out_fd, .events = POLLOUT };

	return !s->block_guard || poll(&pfd, 1, 0) == 1;
}

size_t serial_output(struct serial *s, const uint8_t *data, size_t bytes)
{
	ssize_t n;

	if (s->out_fd < 0 || (s->kind == CLI_SERIAL_PTY && !pty_is_open(s)))
		return bytes;
	if (!has_room(s)) {
		n = -1;
		errno = EAGAIN;
	} else {
		do {
			n = write(s->out_fd, data, bytes);
		} while (n < 0 && errno == EINTR);
	}
	if (n >= 0)
		return (size_t)n;
	if (errno == EAGAIN) {
		ev_async_send(s->loop, &s->full);
		return 0;
	}
	/* A full disk or a closed pipe must not stop the guest for good. */
	if (!atomic_exchange(&s->lost_told, true))
		cli_log("%s output is lost: %s", s->port->what,
			strerror(errno));
	return bytes;
}

static void want_retry(struct serial *s, double after_s)
{
	if (!ev_is_active(&s->retry)) {
		ev_timer_set(&s->retry, after_s, 0);
		ev_timer_start(s->loop, &s->retry);
	}
}

/*
 * Both directions touch the device's state, which is being saved while the guest
 * is stopped: they wait until it runs.
 */
static void pump(struct serial *s)
{
	size_t n;

	if (!s->vm)
		return;
	if (!vm_is_running(s->vm)) {
		if (s->in_bytes > 0 || s->output_waits)
			want_retry(s, PAUSED_RETRY_S);
		return;
	}
	if (s->output_waits) {
		s->output_waits = false;
		s->port->output_ready(s->vm);
	}
	if (s->in_bytes > 0) {
		n = s->port->input(s->vm, (uint8_t *)s->in, s->in_bytes);
		s->in_bytes -= n;
		memmove(s->in, s->in + n, s->in_bytes);
		if (s->in_bytes == 0)
			s->ops->drained(s->ctx);
	}
	if (s->in_bytes > 0)
		want_retry(s, RETRY_S);
	else if (s->in_fd >= 0 && s->kind == CLI_SERIAL_STDIO)
		ev_io_start(s->loop, &s->readable);
}

static void on_retry(struct ev_loop *loop, ev_timer *timer, int revents)
{
	(void)loop;
	(void)revents;
	pump(timer->data);
}

static void on_full(struct ev_loop *loop, ev_async *async, int revents)
{
	struct serial *s = async->data;

	(void)revents;
	ev_io_start(loop, &s->writable);
}

static void on_writable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct serial *s = io->data;

	(void)revents;
	ev_io_stop(loop, io);
	s->output_waits = true;
	pump(s);
}

static void on_readable(struct ev_loop *loop, ev_io *io, int revents)
{
	struct serial *s = io->data;
	enum terminal_key key = TERMINAL_NONE;
	size_t got;
	ssize_t n;

	(void)revents;
	n = read(io->fd, s->in + s->in_bytes,
		 INPUT_MAX - s->in_bytes < READ_BYTES ? INPUT_MAX - s->in_bytes
						      : READ_BYTES);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	ev_io_stop(loop, io); /* until the guest has taken it */
	if (n <= 0) {
		if (s->kind == CLI_SERIAL_STDIO)
			s->in_fd = -1; /* the end of input, not of the guest */
		return;
	}
	got = (size_t)n;
	if (s->raw)
		key = terminal_filter(s->in + s->in_bytes, &got);
	s->in_bytes += got;
	pump(s);
	if (key != TERMINAL_NONE)
		s->ops->key(s->ctx, key);
}

/* A hung-up master is always readable: watch it only while it is not. */
static void on_pty_poll(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct serial *s = timer->data;

	(void)revents;
	if (pty_is_open(s) && s->in_bytes == 0)
		ev_io_start(loop, &s->readable);
	else
		ev_io_stop(loop, &s->readable);
}

bool serial_pending(const struct serial *s)
{
	return s->in_bytes > 0;
}

int serial_type(struct serial *s, const char *text, size_t bytes)
{
	if (bytes > INPUT_MAX - s->in_bytes)
		return -ENOBUFS;
	memcpy(s->in + s->in_bytes, text, bytes);
	s->in_bytes += bytes;
	pump(s);
	return 0;
}

/*
 * O_NONBLOCK belongs to the open file, which stdout shares with whoever started
 * us. A pipe or terminal can be opened again for ourselves alone; what cannot
 * is asked for room before each write.
 */
static void open_stdout(struct serial *s)
{
	struct stat st;

	s->out_fd = STDOUT_FILENO;
	if (fstat(STDOUT_FILENO, &st) == 0 && S_ISREG(st.st_mode))
		return;
	s->out_fd = open("/proc/self/fd/1",
			 O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	s->own_out = s->out_fd >= 0;
	if (!s->own_out) {
		s->out_fd = STDOUT_FILENO;
		s->block_guard = true;
	}
}

static void open_stdio(struct serial *s)
{
	int ret;

	open_stdout(s);
	ret = terminal_raw();
	s->raw = ret == 0;
	if (ret == -EPERM)
		return;
	s->in_fd = STDIN_FILENO;
	if (s->raw)
		cli_log("the terminal is the guest's; Ctrl-A h for help");
}

static int open_file(struct serial *s, const char *path, char **err)
{
	struct stat st;

	/* O_NONBLOCK: a FIFO without a reader must not hang us. */
	s->out_fd = open(path,
			 O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_CLOEXEC,
			 0600);
	s->own_out = true;
	if (s->out_fd < 0) {
		*err = cli_line("%s file %s: %s", s->port->what, path,
				strerror(errno));
		return -EINVAL;
	}
	if (fstat(s->out_fd, &st) < 0 ||
	    !(S_ISREG(st.st_mode) || S_ISCHR(st.st_mode))) {
		*err = cli_line("%s file %s: not a regular file", s->port->what,
				path);
		return -EINVAL;
	}
	return 0;
}

static int open_pty(struct serial *s, char **err)
{
	struct termios raw;
	int slave;

	cfmakeraw(memset(&raw, 0, sizeof(raw)));
	if (openpty(&s->out_fd, &slave, NULL, &raw, NULL) < 0) {
		*err = cli_line("cannot open a pty: %s", strerror(errno));
		return -EIO;
	}
	s->own_out = true;
	s->in_fd = s->out_fd;
	fcntl(s->out_fd, F_SETFL, O_NONBLOCK);
	fcntl(s->out_fd, F_SETFD, FD_CLOEXEC);
	if (ttyname_r(slave, s->pty, sizeof(s->pty)) != 0)
		s->pty[0] = '\0';
	close(slave);
	return 0;
}

static void start_watchers(struct serial *s)
{
	ev_async_init(&s->full, on_full);
	ev_async_start(s->loop, &s->full);
	ev_init(&s->retry, on_retry);
	ev_io_init(&s->readable, on_readable, s->in_fd, EV_READ);
	ev_io_init(&s->writable, on_writable, s->out_fd, EV_WRITE);
	ev_timer_init(&s->pty_poll, on_pty_poll, 0, PTY_POLL_S);
	s->full.data = s->retry.data = s->readable.data = s->writable.data =
		s->pty_poll.data = s;
	if (s->kind == CLI_SERIAL_STDIO && s->in_fd >= 0)
		ev_io_start(s->loop, &s->readable);
	if (s->kind == CLI_SERIAL_PTY)
		ev_timer_start(s->loop, &s->pty_poll);
}

int serial_new(struct ev_loop *loop, const struct serial_port *port,
	       const struct cli_serial_spec *spec, const struct serial_ops *ops,
	       void *ctx, struct serial **ret_serial, char **err)
{
	struct serial *s = calloc(1, sizeof(*s));
	int ret = 0;

	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->port = port;
	s->kind = spec->kind;
	s->ops = ops;
	s->ctx = ctx;
	s->in_fd = s->out_fd = -1;
	if (spec->kind == CLI_SERIAL_STDIO)
		open_stdio(s);
	else if (spec->kind == CLI_SERIAL_FILE)
		ret = open_file(s, spec->path, err);
	else if (spec->kind == CLI_SERIAL_PTY)
		ret = open_pty(s, err);
	if (ret < 0) {
		if (s->out_fd >= 0)
			close(s->out_fd);
		free(s);
		return ret;
	}
	start_watchers(s);
	*ret_serial = s;
	return 0;
}

void serial_connect(struct serial *s, struct vm *vm)
{
	s->vm = vm;
	pump(s);
}

const char *serial_pty(const struct serial *s)
{
	return s && s->pty[0] ? s->pty : NULL;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	ev_async_stop(s->loop, &s->full);
	ev_timer_stop(s->loop, &s->retry);
	ev_timer_stop(s->loop, &s->pty_poll);
	ev_io_stop(s->loop, &s->readable);
	ev_io_stop(s->loop, &s->writable);
	terminal_restore();
	if (s->own_out)
		close(s->out_fd);
	free(s);
}
