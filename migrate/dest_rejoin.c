#include "migrate/dest_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "migrate/pending.h"

/*
 * After COMPLETE a source that lost the link may come back to hear it again;
 * by then the guest is whole, so the wait costs a listening socket.
 */
#define LINGER_MS 30000

static int new_session(struct mig_dest *d, int fd)
{
	struct mig_session *old = d->session, *session;
	int ret;

	ret = mig_session_new(old->id, fd, old->channels, old->fault_channels,
			      mig_dest_on_broken, d, &session);
	if (ret < 0)
		return ret;
	mig_dest_publish_session(d, session);
	mig_session_free(old);
	return 0;
}

/*
 * The source asks whether the guest ran. It did not, and since it has been
 * discarded it never will. Told as often as asked, until BYE.
 */
static int promise_never_ran(struct mig_dest *d, int fd)
{
	Vmmd__RejoinReply reply = VMMD__REJOIN_REPLY__INIT;
	ProtobufCMessage *msg;
	int ret;

	ret = new_session(d, fd);
	if (ret < 0)
		return ret;
	reply.never_ran = true;
	ret = mig_link_send(d->session->link, PROTO_REJOIN_REPLY, &reply.base);
	if (ret == 0)
		ret = mig_link_recv(d->session->link, PROTO_BYE, &msg);
	if (ret == 0)
		protobuf_c_message_free_unpacked(msg, NULL);
	return ret;
}

/* What is missing here is the truth about what is still to be sent. */
static int rejoin(struct mig_dest *d, int fd)
{
	struct mig_fill *fill = atomic_load(&d->fill);
	Vmmd__RejoinReply reply = VMMD__REJOIN_REPLY__INIT;
	uint64_t *map;
	int ret;

	ret = new_session(d, fd);
	if (ret < 0)
		return ret;
	map = bitmap_new(d->ram_pages);
	if (!map)
		return -ENOMEM;
	if (fill)
		mig_fill_pending_or(fill, map);
	reply.pending_pages = bitmap_count(map, d->ram_pages);
	ret = mig_link_send(d->session->link, PROTO_REJOIN_REPLY, &reply.base);
	if (ret == 0)
		ret = mig_pending_send(d->session->link, map, d->ram_pages);
	bitmap_free(map, d->ram_pages);
	if (ret == 0)
		ret = mig_dest_use_channels(d);
	if (ret == 0)
		ret = mig_dest_step(d, ON_REJOINED);
	if (ret == 0 && fill)
		mig_fill_want_again(fill);
	return ret;
}

/* The guest runs here. True when the migration has come to its end. */
static bool paused_running(struct mig_dest *d, int fd, enum proto_role role)
{
	int ret;

	if (role != PROTO_ROLE_REJOIN) {
		close(fd);
		return false;
	}
	ret = rejoin(d, fd);
	if (ret == 0)
		ret = mig_dest_await_end(d);
	mig_dest_quiet(d, ret);
	if (ret == 0)
		mig_dest_complete(d);
	else if (mig_phase(&d->phases) == MIG_POSTCOPY)
		mig_dest_step(d, ON_LOST);
	return ret == 0;
}

/* It waits for a token. True when it is clear that none can come any more. */
static bool paused_ready(struct mig_dest *d, int fd, enum proto_role role)
{
	int ret = 0;

	if (role == PROTO_ROLE_CONTROL) {
		close(fd);
		return false;
	}
	/* First of all: with it go the locks that the source waits for. */
	mig_dest_discard(d);
	if (role == PROTO_ROLE_ABORT)
		close(fd);
	else
		ret = promise_never_ran(d, fd);
	mig_dest_quiet(d, ret);
	if (ret < 0)
		return false;
	mig_dest_say(d, "the source took the guest back");
	mig_dest_step(d, ON_NEVER_RAN);
	return true;
}

/*
 * The link was lost after READY. Returns when the migration has ended one way or
 * the other, or the dest is being freed.
 */
void mig_dest_stay_paused(struct mig_dest *d)
{
	uint8_t id[PROTO_SESSION_BYTES];
	enum proto_role role;
	bool ended = false;
	int fd, ret;

	while (!ended) {
		bool whole = d->guest_runs && mig_dest_pending_pages(d) == 0;

		/* Or our link goes on saying that we live, and he waits for more. */
		mig_link_shut(d->session->link);
		ret = mig_dest_wait_offer(d, whole ? LINGER_MS : -1, &fd, &role,
					  id);
		if (ret == -ETIMEDOUT) {
			mig_dest_step(d, ON_REJOINED);
			mig_dest_complete(d);
			return;
		}
		if (ret < 0)
			return;
		ended = d->guest_runs ? paused_running(d, fd, role)
				      : paused_ready(d, fd, role);
	}
}
