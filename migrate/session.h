/*
 * migrate/session.h: the connections of one migration, and how they end.
 *
 * A session holds the control link, and up to PROTO_CHANNELS_MAX data sockets and
 * as many fault sockets. Whoever meets trouble breaks the session: the first reason
 * sticks, the data and fault sockets are shut so that every thread in one of
 * them wakes, and the thread that runs the phases wakes in its recv. The link
 * itself stays open for a last word.
 *
 * Threads: break, cut, broken: any. The rest: the thread that runs the phases.
 * Life:    new, (the channel threads come and go), free. All threads that use
 *          its sockets are joined before free.
 */
#ifndef MIGRATE_SESSION_H
#define MIGRATE_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/link.h"
#include "proto/wire.h"

struct mig_session {
	/* Constant once the session is in use. */
	uint8_t id[PROTO_SESSION_BYTES];
	struct mig_link *link;
	void (*on_broken)(void *ctx);
	void *ctx;
	unsigned int channels;
	unsigned int fault_channels;
	int data_fds[PROTO_CHANNELS_MAX];  /* -1: not connected */
	int fault_fds[PROTO_CHANNELS_MAX]; /* likewise */
	/* Under lock. */
	pthread_mutex_t lock;
	int err;
	char why[512];
	/* Any thread. */
	atomic_bool broken;
};

/*
 * Takes control_fd, also on failure. channels 0: neither number is known before
 * SETUP, and until then only short messages are taken. on_broken (may be NULL): at the first break,
 * on the thread that broke it.
 */
int mig_session_new(const uint8_t id[PROTO_SESSION_BYTES], int control_fd,
		    unsigned int channels, unsigned int fault_channels,
		    void (*on_broken)(void *ctx), void *ctx,
		    struct mig_session **ret_session);
void mig_session_free(struct mig_session *s); /* NULL is fine */

/* Put fd into one of the slots above; shut at once when already broken. */
void mig_session_attach(struct mig_session *s, int *slot, int fd);

/* err: -errno. The first call decides what mig_session_error() says. */
void mig_session_break(struct mig_session *s, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* As if the network had gone: also the link is shut, without a word. */
void mig_session_cut(struct mig_session *s);
bool mig_session_broken(const struct mig_session *s);
/* 0 when whole; else the first error. */
int mig_session_error(struct mig_session *s, char *ret_why, size_t bytes);

/* Tell the peer why we give up; best effort. */
void mig_session_say_cancel(struct mig_session *s, const char *reason);

#endif
