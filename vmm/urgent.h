/*
 * vmm/urgent.h: threads that a pause waits for go ahead of others.
 *
 * A pause is a handful of hops between threads that sleep. On a host with more
 * work than cores each hop would wait for time slices, tens of milliseconds in
 * all, for work of one. Where the host allows it (CAP_SYS_NICE) these threads get
 * the lowest real-time priority meanwhile; where not, nothing changes. Nobody may
 * keep it while there is bulk work to do, and threads that an urgent one creates
 * are ordinary.
 */
#ifndef VMM_URGENT_H
#define VMM_URGENT_H

#include <pthread.h>
#include <stdbool.h>

/* Any thread, about any thread that has not been joined. */
void vm_thread_urgent(pthread_t thread, bool urgent);

#endif
