/*
 * migrate/dest_internal.h: what the files of the destination share.
 *
 * dest.c	the thread: setup, token, endings
 * dest_switch.c	the source's pause: what stayed behind, state, READY
 * dest_rejoin.c	MIG_PAUSED: waiting for the source to come back
 * dest_accept.c	the listener: hellos, and who they belong to
 * dest_setup.c	SETUP judged, the machine built
 * dest_channel.c	the channels' threads: batches off the wire, marks, urgency
 * dest_pages.c	what they bring goes into place
 * dest_want.c	pages asked for
 */
#ifndef MIGRATE_DEST_INTERNAL_H
#define MIGRATE_DEST_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "migrate/block.h"
#include "migrate/dest.h"
#include "migrate/fill.h"
#include "migrate/flight.h"
#include "migrate/phase.h"
#include "migrate/session.h"
#include "proto/control.pb-c.h"
#include "proto/wire.h"
#include "vmm/bitmap.h"

struct mig_dest;

/* One thread per data socket, and one per fault socket. */
struct mig_receiver {
	struct mig_dest *d;
	unsigned int channel; /* PROTO_CHANNELS_MAX on: fault channels */
	int fd;               /* the session's */
	pthread_t thread;
	bool started;
	/* Written under d's urgent_lock. */
	atomic_bool awaited; /* the guest waits for what comes here */
	atomic_bool urgent;  /* the thread */
	unsigned int busy_batches;
	struct mig_flight flight; /* in postcopy */
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
	bool met_source; /* SETUP came: no other source is wanted */
	int offered_fd;  /* a control connection for the thread, or -1 */
	enum proto_role offered_role;
	uint8_t offered_id[PROTO_SESSION_BYTES];
	struct mig_session *session;
	uint64_t barriers[PROTO_CHANNELS_MAX]; /* last one seen on each */
	uint64_t marks[PROTO_CHANNELS_MAX];    /* likewise */
	uint64_t due_mark; /* MARKED, but for has_ram; 0: none */
	char error[MIG_ERROR_BYTES];
	struct mig_stats stats;
	struct mig_guest *guest;
	bool has_ram;      /* the guest's machine is whole */
	bool handed_over;  /* the guest is the caller's */
	bool guest_runs;   /* so it may be handed over */
	bool running_told; /* RUNNING was sent, so COMPLETE may follow */

	/* Written by mig_phase_step() on the destination thread; read by any. */
	struct mig_phases phases;

	/* Destination thread. */
	bool paused_at_source; /* do not let it run after the token */
	uint64_t ram_pages;    /* constant from the first channel on */
	struct mig_receiver receivers[2 * PROTO_CHANNELS_MAX];
	/* Lends priority; nothing is locked inside. */
	pthread_mutex_t urgent_lock;
	atomic_uint_least64_t awaited_us; /* since when receivers are */

	/*
	 * Set before READY is sent, then constant until the migration has
	 * ended; NULL: pages go to RAM.
	 * Written under doom_lock (taken inside lock), as is doomed: the session
	 * broke before READY, so this guest must never run.
	 */
	struct mig_fill *_Atomic fill;
	pthread_mutex_t doom_lock;
	bool doomed;

	/*
	 * Atomic bitmaps, precopy only. received: has been given data, so zeros
	 * must be written over it. suspect: its sum was wrong, and no good copy
	 * has come since.
	 */
	uint64_t *received;
	uint64_t *suspect;

	/*
	 * The fault sockets for requests, none after a break; the locks also
	 * keep requests of several threads apart.
	 */
	struct mig_asker {
		pthread_mutex_t lock;
		int fd; /* -1: none */
	} askers[PROTO_CHANNELS_MAX];
	atomic_uint nr_askers; /* set with the first fds, constant after */
	struct mig_block blocks[PROTO_CHANNELS_MAX]; /* postcopy; a channel's */

	_Atomic uint64_t bytes; /* all channels */
	_Atomic uint64_t pages;
	_Atomic uint64_t pages_zero;
};

/* dest.c; the first reason is the one people see. Any thread. */
void mig_dest_say(struct mig_dest *d, const char *why);
/* For want of a better reason. */
void mig_dest_say_errno(struct mig_dest *d, int ret);
/* The destination thread, from here on. */
int mig_dest_step(struct mig_dest *d, enum mig_event ev);
/* Under lock: waiting on changed makes sense; a short wait for it. */
bool mig_dest_may_wait(const struct mig_dest *d);
void mig_dest_wait(struct mig_dest *d);
void mig_dest_on_broken(void *ctx); /* of the session; any thread */
void mig_dest_publish_session(struct mig_dest *d, struct mig_session *session);
void mig_dest_publish_fill(struct mig_dest *d, struct mig_fill *fill);
/* Until all channels have come and are being read. */
int mig_dest_use_channels(struct mig_dest *d);
extern const struct mig_fill_ops mig_dest_fill_ops;
uint64_t mig_dest_pending_pages(struct mig_dest *d);
/* COMPLETE, when it is due, and BYE. */
int mig_dest_await_end(struct mig_dest *d);
/*
 * No thread uses the session after this. ret: why it ended, 0 for well. True
 * when the source itself said that it gave up.
 */
bool mig_dest_quiet(struct mig_dest *d, int ret);
/* Nothing of the guest may ever run here. */
void mig_dest_discard(struct mig_dest *d);
void mig_dest_complete(struct mig_dest *d);

/* dest_switch.c */
int mig_dest_switchover(struct mig_dest *d);
/* dest_rejoin.c: back when the migration has ended, or the dest is freed. */
void mig_dest_stay_paused(struct mig_dest *d);

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
/*
 * What the machine still lacks, while the first pages come: nothing is MARKED before,
 * but then what is due. The guest of a postcopy stops at once, so its machine has been
 * whole from the start.
 */
int mig_dest_add_ram(struct mig_dest *d);

/* dest_channel.c */
int mig_dest_send_marked(struct mig_dest *d, uint64_t mark);
int mig_dest_start_receivers(struct mig_dest *d);
/* What the data channels bring, until their barrier, the guest waits for: or not. */
void mig_dest_receivers_urgent(struct mig_dest *d, bool urgent);
/* The session is broken or over. */
void mig_dest_stop_receivers(struct mig_dest *d);

/* False: a channel of what was asked for. */
bool mig_dest_is_bulk(const struct mig_receiver *r);
/* The source's last word on this channel before the switch was read. */
bool mig_dest_saw_barrier(struct mig_receiver *r);

/* What a channel thread works with; too big for its stack. */
struct mig_inbox {
	struct proto_batch batch;
	uint8_t head[PROTO_BATCH_HEAD_MAX];
	struct iovec iov[PROTO_BATCH_PAGES_MAX];
	uint8_t *pages;         /* postcopy: what makes no block */
	struct proto_run ahead; /* memory is ready for these */
};

/*
 * dest_pages.c: what the batch in->batch brings, its pages still to be read. On the
 * receiver's own thread. -EBADMSG: damaged data.
 */
int mig_dest_take_data(struct mig_receiver *r, struct mig_inbox *in);
int mig_dest_take_zeros(struct mig_receiver *r, struct mig_inbox *in);
int mig_dest_take_ahead(struct mig_receiver *r, struct mig_inbox *in);
/* Before the next batch is read: pages are not kept for what may never come. */
int mig_dest_await_rest_of_block(const struct mig_receiver *r);

/* dest_want.c: asking the source for pages. init, fini: with the dest. */
void mig_dest_init_askers(struct mig_dest *d);
void mig_dest_fini_askers(struct mig_dest *d);
/* The destination thread: over the session's fault sockets, or not at all. */
void mig_dest_open_askers(struct mig_dest *d);
void mig_dest_close_askers(struct mig_dest *d);
/* Any thread. Between the two, or the request is lost. */
void mig_dest_want(void *dest, uint64_t page);

#endif
