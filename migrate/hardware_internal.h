/* migrate/hardware_internal.h: what hardware.c and hardware_check.c share. */
#ifndef MIGRATE_HARDWARE_INTERNAL_H
#define MIGRATE_HARDWARE_INTERNAL_H

#include "migrate/hardware.h"

void mig_objectf(const struct mig_objector *o, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
