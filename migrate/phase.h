/*
 * migrate/phase.h: the phases of a migration and the legal moves between them.
 *
 * One table for both ends; docs/protocol.md prints it. phase.c is the only
 * writer of a phase: mig_phase_step() on the thread that runs the migration.
 */
#ifndef MIGRATE_PHASE_H
#define MIGRATE_PHASE_H

#include <stdbool.h>

enum mig_phase {
	MIG_REFUSED_MOVE, /* never a phase: an empty cell of the table */
	MIG_SETUP,
	MIG_PRECOPY,
	MIG_SWITCHOVER, /* guest stopped; no token yet */
	MIG_COMMIT,     /* token sent, or (receiver) ready for it */
	MIG_POSTCOPY,   /* receiver runs the guest, pages may be missing */
	MIG_PAUSED,     /* peer lost after the token: waits for --resume */
	MIG_COMPLETE,
	MIG_FAILED,    /* guest goes on at the source, or never left it */
	MIG_CANCELLED, /* the same, by request */
	MIG_NR_PHASES
};

enum mig_event {
	ON_AGREED,    /* setup accepted by both */
	ON_STOPPED,   /* vCPUs parked for the switch */
	ON_REVIVED,   /* too much was left: the guest runs on, another round */
	ON_TOKEN,     /* source: about to write it; receiver: ready for it */
	ON_RUNNING,   /* receiver's vCPUs started */
	ON_DRAINED,   /* receiver said it has every page */
	ON_LOST,      /* link, peer, or our own error */
	ON_REJOINED,  /* --resume found the session again */
	ON_NEVER_RAN, /* receiver proved that it never ran and never will */
	ON_CANCEL,
	MIG_NR_EVENTS
};

struct mig_phases {
	_Atomic enum mig_phase phase;
};

/* -EPROTO for an illegal move, and then nothing changes. */
int mig_phase_step(struct mig_phases *p, enum mig_event ev);
enum mig_phase mig_phase(const struct mig_phases *p); /* any thread */
const char *mig_phase_name(enum mig_phase phase);
/* Complete, failed or cancelled: nothing follows. */
bool mig_phase_is_end(enum mig_phase phase);

#endif
