/*
 * console.h: the serial port (16550 at 0x3f8), line by line.
 *
 * Every line ends in " sum=" and the CRC-32 (zlib's) of what stands before it,
 * as 8 hex digits, so that a reader can tell a garbled or doubled line.
 *
 * A byte sent costs an exit, some 75 us where exits are dear, so lines are
 * queued and the first vCPU sends a little in each turn of its loop: its stall
 * figure then stays that of one exit.
 */
#ifndef GUEST_CONSOLE_H
#define GUEST_CONSOLE_H

#include <stdbool.h>
#include <stdint.h>

#define LINE_BYTES 400

struct line {
	uint32_t len;
	char text[LINE_BYTES];
};

void line_start(struct line *l, const char *text);
void line_str(struct line *l, const char *text);
/* " key=123", " key=0x7b", " key=text" */
void line_dec(struct line *l, const char *key, uint64_t value);
void line_hex(struct line *l, const char *key, uint64_t value);
void line_key(struct line *l, const char *key, const char *text);
/* Adds the sum and queues it; dropped when the queue is full. Any vCPU. */
void line_send(struct line *l);

void console_init(void);
/* The first vCPU: sends what one exit can; true while there is more. */
bool console_pump(void);
/* The first vCPU: sends everything. */
void console_flush(void);
/* A byte typed, or -1. The first vCPU. */
int console_getc(void);

/* CPL 0, on the way down: sends at once, past the queue. */
void console_emergency(struct line *l);

#endif
