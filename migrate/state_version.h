/*
 * migrate/state_version.h: the version of every message in state.proto. Grows
 * when an older reader would misunderstand a message; new fields that it may
 * skip do not count. Private to migrate/state_*.c.
 */
#ifndef MIGRATE_STATE_VERSION_H
#define MIGRATE_STATE_VERSION_H

#define STATE_VERSION 1u

#endif
