/*
 * migrate/flight.h: how much bulk data may be on its way in postcopy.
 *
 * A page that somebody waits for may be among the bulk already. Nothing overtakes
 * it there any more, so it comes when all that was sent before it has come: that
 * is bounded, by the receiver's TCP window, to two round trips' worth of data at
 * the bandwidth seen, or to MIG_FLIGHT_BYTES_MIN. One round trip's worth keeps the
 * path busy. The second lets the window grow by more than half from one look to the
 * next, for as long as the path has room, and so find a bandwidth that nobody has
 * seen yet. What the sender's socket holds before it is sent is bounded as well.
 *
 * Not bounded: what lies unread at the receiver after a precopy, in which the
 * kernel let its buffer grow; and what a receiver on Linux before 6.7 offers, which
 * may close a window for good that is clamped while it is closed (mended there by
 * commit 58d3aade20cd).
 *
 * Threads: one for each window. Errors: none; what the kernel refuses to tell or
 *          to do leaves the data as it is, unbounded.
 */
#ifndef MIGRATE_FLIGHT_H
#define MIGRATE_FLIGHT_H

#include <stdint.h>

#define MIG_FLIGHT_BYTES_MIN  (256u << 10)
#define MIG_FLIGHT_BYTES_MAX  (1u << 30) /* RFC 7323, 2.2: and no more */
#define MIG_FLIGHT_UNSENT_MAX (128u << 10)

/* Of one socket; all zero to begin with. */
struct mig_flight {
	uint64_t since_us; /* of the last look; 0: there was none yet */
	uint64_t bytes;    /* that came since */
	uint32_t rtt_us; /* the shortest that the kernel has seen; 0: unknown */
	uint32_t window_bytes; /* 0: not bounded */
};

/* What may be on its way when so much came in so long. */
uint32_t mig_flight_bytes(uint64_t bytes, uint64_t us, uint32_t rtt_us);
/* The receiver took so many bytes off fd at now_us (clock.h). */
void mig_flight_took(struct mig_flight *f, int fd, uint64_t bytes,
		     uint64_t now_us);
/* The sender's part. */
void mig_flight_bound_unsent(int fd);

#endif
