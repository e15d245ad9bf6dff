/*
 * tests/lab/linux/load: what a guest does while it is moved: one static program,
 * one kind of work per process, everything it reads back verified.
 *
 * A process has a report, the file $LOAD_DIR/NAME (/tmp when not set): one line
 * "rounds=N bytes=N", or one that begins with WRONG and is the last. linux.py
 * reads them.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096

/* What fills the bytes of a block whose number and version these are. */
void load_fill(void *to, size_t bytes, uint64_t block, uint64_t version);

/* Ends the process with a report when the bytes are not those. */
void load_check(const void *data, size_t bytes, uint64_t block,
		uint64_t version, const char *where);

/* Opens the report. One per process, before anything else here. */
void load_begin(const char *name);

/* One more round, of so many bytes, was right. */
void load_round(uint64_t bytes);

/* Writes the report that ends all, and ends the process. */
_Noreturn void load_wrong(const char *format, ...)
	__attribute__((format(printf, 1, 2)));

/* Aligned for O_DIRECT, not yet touched. */
void *load_memory(size_t bytes);

uint64_t load_random(void);

/* The kinds of work: they return only when they were called wrongly. */
int load_mem(int argc, char **argv);
int load_disk(int argc, char **argv);
int load_serve(int argc, char **argv);
int load_talk(int argc, char **argv);
int load_direct(int argc, char **argv);
int load_clock(int argc, char **argv);
int load_offset(int argc, char **argv);

#endif
