/*
 * migrate/link.h: the control connection of a session.
 *
 * A reader thread takes frames off the socket, answers for liveness (a PING
 * every second; a peer that is silent for MIG_PEER_TIMEOUT_S is lost) and queues
 * messages for the one thread that runs the phases.
 *
 * Owns:    the socket and the reader thread.
 * Threads: send and wake: any. recv: one thread.
 * Life:    new, free. After an error nothing more is received, but send still
 *          tries, so that a side that gives up can say why.
 * Errors:  -errno; the first one sticks.
 */
#ifndef MIGRATE_LINK_H
#define MIGRATE_LINK_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire.h"

struct mig_link;

/* Nobody may make us hold more before he has said what he wants. */
#define MIG_LINK_SETUP_MAX (256u << 10)

/*
 * Takes fd, also on failure. body_max: the longest message to take, UINT32_MAX
 * for what the types allow. lost: at most once, with the first error and its
 * sentence, on the thread that met it.
 */
typedef void mig_link_lost(void *ctx, int err, const char *why);
int mig_link_new(int fd, uint32_t body_max, mig_link_lost *lost, void *ctx,
		 struct mig_link **ret_link);
void mig_link_free(struct mig_link *l); /* NULL is fine */

int mig_link_send(struct mig_link *l, enum proto_type type,
		  const ProtobufCMessage *msg);
/*
 * The next message, which must be of this type; unpacked, to be freed with
 * protobuf_c_message_free_unpacked(). -ECANCELED: the peer sent CANCEL, its
 * reason went to lost(). -EPROTO: something else came.
 */
int mig_link_recv(struct mig_link *l, enum proto_type type,
		  ProtobufCMessage **ret_msg);
/* SETUP, within timeout_s (-ETIMEDOUT); from then on any length is taken. */
int mig_link_recv_setup(struct mig_link *l, int timeout_s,
			ProtobufCMessage **ret_msg);
/* The same without caring which: *ret_type says. */
int mig_link_recv_any(struct mig_link *l, enum proto_type *ret_type,
		      ProtobufCMessage **ret_msg);
/* Makes recv fail with err (unless it has failed already). */
void mig_link_wake(struct mig_link *l, int err, const char *why);
/*
 * After an error: a CANCEL that came or comes within timeout_ms says better than
 * we can why. Its reason into ret_why and true, or false.
 */
bool mig_link_last_word(struct mig_link *l, int timeout_ms, char *ret_why,
			size_t bytes);
/*
 * Asks the peer's reader thread for a word and waits for it, at most a second
 * (then *ret_us says so): the path to the peer and its scheduler as they are now.
 * One thread.
 */
int mig_link_rtt(struct mig_link *l, uint64_t *ret_us);
/* Shuts the socket both ways, without a word to the peer. Any thread. */
void mig_link_shut(struct mig_link *l);

#endif
