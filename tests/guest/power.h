/* power.h: the ways for a machine to end. Any vCPU, any CPL; none returns. */
#ifndef GUEST_POWER_H
#define GUEST_POWER_H

enum power_exit { POWER_OFF, POWER_RESET, POWER_TRIPLE_FAULT };

void power_exit(enum power_exit how) __attribute__((noreturn));

#endif
