/*
 * migrate/dest_internal.h: what the files of the destination share.
 *
 * dest.c	the phases, mirrored from the source
 * dest_accept.c	the listener: hellos, and who they belong to
 * dest_setup.c	SETUP judged, the machine built
 * dest_channel.c	pages off the wire and into place
 */
#ifndef MIGRATE_DEST_INTERNAL_H
#define MIGRATE_DEST_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrate/bitmap.h"
#include "migrate/dest.h"
#include "migrate/fill.h"
#include "migrate/phase.h"
#include "migrate/session.h"
#include "proto/control.pb-c.h"

struct mig_dest;

/* One thread per data socket, and one for the fault socket. */
struct mig_receiver {
	struct mig_dest *d;
	unsigned int channel; /* PROTO_CHANNELS_MAX: the fault channel */
	int fd;               /* the session's */
	pthread_t thread;
	bool started;
};

struct mig_dest {
	/* Set by mig_dest_start(), constant after: any thread. */
	struct mig_dest_config cfg;
	const struct mig_dest_ops *ops;
	void *ctx;
	int wake_fd; /* eventfd: the acceptor looks whether it shall end */
	pthread_t acceptor, thread;
	uint64_t begin_us;

	/* Under lock; changed is signalled for all of it. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool ending;
	int offered_fd; /* a control connection for the thread, or -1 */
	enum proto_role offered_role;
	uint8_t offered_id[PROTO_SESSION_BYTES];
	struct mig_session *session;
	uint64_t barriers[PROTO_CHANNELS_MAX]; /* last one seen on each */
	char error[MIG_ERROR_BYTES];
	struct mig_stats stats;
	struct mig_guest *guest;
	bool handed_over; /* the guest is the caller's */
	bool guest_runs;  /* so it may be handed over */

	/* Written by mig_phase_step() on the destination thread; read by any. */
	struct mig_phases phases;

	/* Destination thread. */
	bool paused_at_source; /* do not let it run after the token */
	uint64_t ram_pages;    /* constant from the first channel on */
	struct mig_receiver receivers[PROTO_CHANNELS_MAX + 1];

	/* Set before READY is sent, then constant; NULL: pages go to RAM. */
	struct mig_fill *_Atomic fill;

	/*
	 * Atomic bitmaps, precopy only. received: has been given data, so zeros
	 * must be written over it. suspect: its sum was wrong, and no good copy
	 * has come since.
	 */
	uint64_t *received;
	uint64_t *suspect;

	/*
	 * The fault socket for requests, -1 while there is none; want_lock also
	 * keeps requests of several threads apart.
	 */
	pthread_mutex_t want_lock;
	int want_fd;

	_Atomic uint64_t bytes; /* all channels */
	_Atomic uint64_t pages;
	_Atomic uint64_t pages_zero;
};

/* dest.c; the first reason is the one people see. Any thread. */
void mig_dest_say(struct mig_dest *d, const char *why);

/* dest_accept.c */
void *mig_dest_acceptor(void *dest);
/*
 * A control connection; -ECANCELED when the dest is being freed, -ETIMEDOUT
 * after timeout_ms (< 0: none).
 */
int mig_dest_wait_offer(struct mig_dest *d, int timeout_ms, int *ret_fd,
			enum proto_role *ret_role,
			uint8_t ret_id[PROTO_SESSION_BYTES]);
/* Until all data and fault connections of the session have come. */
int mig_dest_wait_channels(struct mig_dest *d);

/* dest_setup.c: builds the guest or answers with every reason. */
int mig_dest_agree(struct mig_dest *d, const Vmmd__Setup *setup);

/* dest_channel.c */
int mig_dest_start_receivers(struct mig_dest *d);
/* The session is broken or over. */
void mig_dest_stop_receivers(struct mig_dest *d);
/* Ask the source for page, on the fault thread. */
void mig_dest_want(void *dest, uint64_t page);

#endif
