/*
 * migrate/waits.h: pages that somebody waits for, and what waiting has cost.
 *
 * Each wait is taken apart: the request, until the page was asked for; the wire,
 * until it was here; placing it, until who waits was woken.
 *
 * Threads: add, asked, has, end: under the caller's lock. read: any.
 */
#ifndef MIGRATE_WAITS_H
#define MIGRATE_WAITS_H

#include <stddef.h>

#include "migrate/latency.h"

struct mig_wait {
	uint64_t page;
	int cpu;           /* < 0: not a vCPU */
	uint64_t since_us; /* 0: not a fault, so not to be measured */
	uint64_t asked_us; /* 0: not yet */
};

/* All zero is empty. */
struct mig_waits {
	struct mig_wait *list; /* owned */
	size_t nr;
	size_t max;
	struct mig_histogram all, request, wire, place;
	_Atomic uint64_t blocked_us[VM_CPUS_MAX];
	_Atomic uint64_t others_us;
};

void mig_waits_fini(struct mig_waits *w);
/* Each cpu at most once for a page. Where there is no room it is not known of. */
void mig_waits_add(struct mig_waits *w, uint64_t page, uint64_t since_us,
		   int cpu);
/* Those who wait for page have asked for it. */
void mig_waits_asked(struct mig_waits *w, uint64_t page);
/* Somebody waits for one of them. */
bool mig_waits_has(const struct mig_waits *w, uint64_t page, uint64_t nr);
/* [page, +nr) were here at arrived_us and are in place now. */
void mig_waits_end(struct mig_waits *w, uint64_t page, uint64_t nr,
		   uint64_t arrived_us);
/* Waits that have ended; nr_cpus is the caller's. */
void mig_waits_read(const struct mig_waits *w, struct mig_faults *ret_faults);

#endif
