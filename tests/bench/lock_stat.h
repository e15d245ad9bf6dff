/*
 * lock_stat.h: how long the kernel's locks were held, by its lock statistics.
 *
 * They need a kernel with CONFIG_LOCK_STAT and root; see the kernel's
 * Documentation/locking/lockstat.rst. A lock's name is what the kernel calls its
 * class. One thread.
 */
#ifndef BENCH_LOCK_STAT_H
#define BENCH_LOCK_STAT_H

#include <stdbool.h>

bool lock_stat_available(void);
/* From now on. False with errno when that could not be said. */
bool lock_stat_clear(void);
/*
 * Since then, by readers and writers of all locks of the class together, in
 * microseconds; 0 for a lock that nobody took. Negative with errno: cannot be read,
 * or lockdep has complained of something and counts no more (EOPNOTSUPP).
 */
double lock_stat_held_us(const char *name);

#endif
