/*
 * loop.h: what every vCPU does for ever, one page a turn.
 *
 * Each turn starts by looking at the clocks and at the vCPU's own registers, so
 * whatever a move does to them is seen within a microsecond of guest time; the
 * gap between the TSC readings of two turns is the stall that the guest felt.
 */
#ifndef GUEST_LOOP_H
#define GUEST_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "console.h"
#include "cpu.h"

void loop_init(struct cpu *c);
void loop_run(struct cpu *c) __attribute__((noreturn));

/*
 * Counts an error of this vCPU; the first few are told: "GUEST-FAIL what", more
 * keys, failure_end(). False: count only.
 */
bool failure_start(struct cpu *c, struct line *l, const char *what);
void failure_end(struct cpu *c, struct line *l);

#endif
