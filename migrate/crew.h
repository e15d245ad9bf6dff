/*
 * migrate/crew.h: a fixed set of threads that do one job at a time together.
 *
 * Life:    start, (run, wait_us*, wait)*, free. Between jobs the threads sleep.
 * Threads: all calls by one thread. The job runs once on each member, with its
 *          index; what it returns is collected by wait (the first error).
 */
#ifndef MIGRATE_CREW_H
#define MIGRATE_CREW_H

#include <stdbool.h>
#include <stdint.h>

struct mig_crew;

typedef int mig_job(void *ctx, unsigned int member);

/* name: of the threads, "name/N". */
int mig_crew_start(const char *name, unsigned int members,
		   struct mig_crew **ret_crew);
void mig_crew_run(struct mig_crew *c, mig_job *job, void *ctx);
/* Until every member is through with the job. 0 or the first -errno. */
int mig_crew_wait(struct mig_crew *c);
/* Waits no longer than that: is every member through with it? */
bool mig_crew_wait_us(struct mig_crew *c, uint64_t us);
/* For the pause only: see vmm/urgent.h. */
void mig_crew_urgent(struct mig_crew *c, bool urgent);
/* No job may be under way. NULL is fine. */
void mig_crew_free(struct mig_crew *c);

#endif
