/*
 * cli/serial.h: where the guest's serial port or virtio console leads to.
 *
 * stdio: output to stdout, input from stdin (a terminal goes raw, Ctrl-A is the
 *        escape key).
 * file:  output is appended; there is no input but serial_type().
 * pty:   both ways; output is dropped while nobody has the slave open, as on a
 *        line without a terminal.
 * null:  output is dropped; input by serial_type().
 *
 * Owns:    the file descriptors it opened.
 * Threads: serial_output(): the thread of the device. Everything else: the loop's.
 */
#ifndef CLI_SERIAL_H
#define CLI_SERIAL_H

#include <ev.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/args.h"
#include "cli/terminal.h"

struct serial;
struct vm;

/* The guest's end. */
struct serial_port {
	const char *what; /* "serial" */
	size_t (*input)(struct vm *vm, const uint8_t *data, size_t bytes);
	void (*output_ready)(struct vm *vm);
};
extern const struct serial_port serial_port_uart;
extern const struct serial_port serial_port_console;

struct serial_ops {
	/* Somebody typed an escape sequence (stdio on a terminal). */
	void (*key)(void *ctx, enum terminal_key key);
	/* The guest's port has taken all input that there was. */
	void (*drained)(void *ctx);
};

int serial_new(struct ev_loop *loop, const struct serial_port *port,
	       const struct cli_serial_spec *spec, const struct serial_ops *ops,
	       void *ctx, struct serial **ret_serial, char **err);
/* The machine input goes to, from now on; borrowed. NULL: none. */
void serial_connect(struct serial *s, struct vm *vm);
/* vm_ops.serial_output, console_output: how many bytes were taken. Never blocks. */
size_t serial_output(struct serial *s, const uint8_t *data, size_t bytes);
/* Input from elsewhere. -ENOBUFS: the guest has not read enough of it yet. */
int serial_type(struct serial *s, const char *text, size_t bytes);
/* Is there input that the guest's port has not taken? */
bool serial_pending(const struct serial *s);
/* The slave's path; NULL unless a pty, or s is NULL. */
const char *serial_pty(const struct serial *s);
void serial_free(struct serial *s);

#endif
