/*
 * migrate/pending.h: bitmaps of pending pages as PENDING messages.
 *
 * Sent in pieces of PIECE_BYTES; pieces without a set bit are left out. A piece
 * that is received is or-ed into the bitmap. Any thread.
 */
#ifndef MIGRATE_PENDING_H
#define MIGRATE_PENDING_H

#include <stdint.h>

#include "migrate/link.h"
#include "proto/control.pb-c.h"

int mig_pending_send(struct mig_link *l, const uint64_t *map, uint64_t pages);
/* -EBADMSG when it reaches beyond pages. */
int mig_pending_decode(const Vmmd__Pending *msg, uint64_t *map, uint64_t pages);

#endif
