/*
 * migrate/faultpoint.h: die, cut or stall at a named point, for tests.
 *
 * Only in builds with VMMD_FAULT_POINTS (cmake -DVMMD_FAULT_POINTS=ON). The
 * environment variable VMMD_FAULT holds POINT:ACTION; ACTION is
 *
 *	kill	SIGKILL this process
 *	cut	break every connection of the session
 *	stall	sleep for 5 s
 *
 * Each fires once. Points, in order: setup, agreed, ram, round1, hot, look, round2,
 * mark, stopped, unlocked, state-sent, locked, ready, before-token, after-token,
 * before-running, running, postcopy, block, drained; both ends pass those that concern them.
 * disk-marks:lose is no point in time: disk reads are not marked as dirty
 * (vmm/virtio_blk_request.c), which a test has to notice.
 */
#ifndef MIGRATE_FAULTPOINT_H
#define MIGRATE_FAULTPOINT_H

struct mig_session;

#ifdef VMMD_FAULT_POINTS
void mig_fault_point(struct mig_session *s, const char *point);
#else
static inline void mig_fault_point(struct mig_session *s, const char *point)
{
	(void)s;
	(void)point;
}
#endif

#endif
