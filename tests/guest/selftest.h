/*
 * selftest.h: prove that the instrument can fail.
 *
 * selftest=NAME does one wrong thing, on the first vCPU, once the guest is
 * ready. (Setting the TSC back for real is not open to every guest: there the
 * loop's memory of it is set forward.) Except for stall, which has to show as one, a GUEST-FAIL (or
 * GUEST-FAULT) of the matching kind must follow.
 */
#ifndef GUEST_SELFTEST_H
#define GUEST_SELFTEST_H

#include "cpu.h"

void selftest_run(struct cpu *c, uint64_t *seq);

#endif
