/*
 * migrate/complete_codec.h: COMPLETE, what waiting for pages cost the guest.
 *
 * Pure. The message borrows the stats and the parts.
 */
#ifndef MIGRATE_COMPLETE_CODEC_H
#define MIGRATE_COMPLETE_CODEC_H

#include "migrate/stats.h"
#include "proto/control.pb-c.h"

/* What the message points to. */
struct mig_faults_msg {
	Vmmd__Latency request, wire, place;
};

void mig_complete_fill(struct mig_stats *s, Vmmd__Complete *msg,
		       struct mig_faults_msg *parts);
/*
 * Figures for people, whatever they say; what an older receiver does not say is 0.
 * More vCPUs than there can be are left out.
 */
void mig_complete_read(const Vmmd__Complete *msg, struct mig_stats *s);

#endif
