/* report.h: heartbeats, and the commands that come in by the serial port. */
#ifndef GUEST_REPORT_H
#define GUEST_REPORT_H

#include <stdbool.h>

#include "cpu.h"

/* The first vCPU: "GUEST-START" and where the records are. */
void report_start(void);
/* The first vCPU, each turn of its loop. True: more to do at once. */
bool report_turn(struct cpu *c);

#endif
