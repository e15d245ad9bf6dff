/* tests/bench/send_ways.h: the ways of the kernel to send memory over TCP. */
#ifndef TESTS_BENCH_SEND_WAYS_H
#define TESTS_BENCH_SEND_WAYS_H

#include <stddef.h>
#include <stdint.h>

/* All of it, in pieces of at most 1 MiB. -errno. Any thread. */
typedef int send_way(int fd, const uint8_t *data, size_t bytes);

/* "send", "zerocopy", "uring", "uring-zc" or "uring-zc-fixed"; NULL: none of these. */
send_way *send_way_named(const char *name);

#endif
