#include "migrate/dest_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/net.h"

/*
 * Strangers may connect and say nothing: each has this long for its hello, and
 * when there are too many the oldest goes.
 */
#define HELLO_TIMEOUT_MS   2000
#define VISITORS_MAX       64
#define CHANNEL_TIMEOUT_MS 10000
#define ACCEPT_RETRY_MS    100

/* A connection that has not introduced itself yet. */
struct visitor {
	int fd;
	uint64_t since_us;
	size_t got_bytes;
	uint8_t hello[PROTO_HELLO_BYTES];
};

/* Acceptor thread only. */
struct lobby {
	struct visitor visitors[VISITORS_MAX]; /* oldest first */
	size_t nr;
};

/*
 * A control connection goes to the destination thread if that waits for one: a
 * first one in MIG_SETUP, a rejoin or an abort of the same session after READY.
 */
static bool offer_control(struct mig_dest *d, const struct proto_hello *h,
			  int fd)
{
	enum mig_phase phase = mig_phase(&d->phases);
	bool wanted;

	if (h->role == PROTO_ROLE_CONTROL)
		wanted = phase == MIG_SETUP && !d->met_source;
	else
		wanted = d->session && memcmp(d->session->id, h->session,
					      PROTO_SESSION_BYTES) == 0;
	if (!wanted || d->offered_fd >= 0)
		return false;
	d->offered_fd = fd;
	d->offered_role = h->role;
	memcpy(d->offered_id, h->session, PROTO_SESSION_BYTES);
	/* The old link may look alive to us: the peer knows better. */
	if (h->role != PROTO_ROLE_CONTROL)
		mig_session_break(d->session, -ECONNRESET,
				  "the source opened a new connection");
	return true;
}

static bool attach_channel(struct mig_dest *d, const struct proto_hello *h,
			   int fd)
{
	struct mig_session *s = d->session;
	int *slot;

	if (!s || memcmp(s->id, h->session, PROTO_SESSION_BYTES) != 0)
		return false;
	if (h->channel >=
	    (h->role == PROTO_ROLE_DATA ? s->channels : s->fault_channels))
		return false;
	slot = h->role == PROTO_ROLE_DATA ? &s->data_fds[h->channel]
					  : &s->fault_fds[h->channel];
	if (*slot >= 0)
		return false;
	mig_session_attach(s, slot, fd);
	return true;
}

/* Its hello is complete: it belongs to somebody now, or is shown the door. */
static void introduce(struct mig_dest *d, const struct visitor *v)
{
	struct proto_hello h;
	bool taken;

	if (proto_hello_decode(v->hello, &h) < 0) {
		close(v->fd);
		return;
	}
	pthread_mutex_lock(&d->lock);
	if (h.role == PROTO_ROLE_DATA || h.role == PROTO_ROLE_FAULT)
		taken = attach_channel(d, &h, v->fd);
	else
		taken = offer_control(d, &h, v->fd);
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (!taken)
		close(v->fd);
}

static void forget(struct lobby *l, size_t i)
{
	l->nr--;
	memmove(&l->visitors[i], &l->visitors[i + 1],
		(l->nr - i) * sizeof(l->visitors[0]));
}

static void let_in(struct lobby *l, int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) {
		/* Out of descriptors, say: it would be readable again at once. */
		poll(NULL, 0, ACCEPT_RETRY_MS);
		return;
	}
	if (mig_net_setup(fd) < 0) {
		close(fd);
		return;
	}
	if (l->nr == VISITORS_MAX) {
		close(l->visitors[0].fd);
		forget(l, 0);
	}
	l->visitors[l->nr++] = (struct visitor){ .fd = fd,
						 .since_us = mig_now_us() };
}

/* False when it is no visitor any more: introduced, gone, or too slow. */
static bool listen_to(struct mig_dest *d, struct visitor *v, bool readable)
{
	ssize_t n = 0;

	if (readable) {
		n = recv(v->fd, v->hello + v->got_bytes,
			 sizeof(v->hello) - v->got_bytes, MSG_DONTWAIT);
		if (n > 0)
			v->got_bytes += (size_t)n;
	}
	if (v->got_bytes == sizeof(v->hello)) {
		introduce(d, v);
		return false;
	}
	if ((readable && n == 0) ||
	    mig_now_us() - v->since_us > HELLO_TIMEOUT_MS * 1000) {
		close(v->fd);
		return false;
	}
	return true;
}

/* One wait and what came of it; false when the dest is being freed. */
static bool receive_visitors(struct mig_dest *d, struct lobby *l)
{
	struct pollfd fds[2 + VISITORS_MAX] = {
		{ .fd = d->wake_fd, .events = POLLIN },
		{ .fd = d->cfg.listen_fd, .events = POLLIN },
	};
	size_t i, nr = l->nr;

	for (i = 0; i < nr; i++)
		fds[2 + i] = (struct pollfd){ .fd = l->visitors[i].fd,
					      .events = POLLIN };
	if (poll(fds, 2 + nr, nr > 0 ? HELLO_TIMEOUT_MS / 4 : -1) < 0)
		return errno == EINTR;
	if (fds[0].revents)
		return false;
	/* Backwards, so that forgetting one does not move those to come. */
	for (i = nr; i-- > 0;) {
		if (!listen_to(d, &l->visitors[i], fds[2 + i].revents != 0))
			forget(l, i);
	}
	if (fds[1].revents & POLLIN)
		let_in(l, d->cfg.listen_fd);
	return true;
}

void *mig_dest_acceptor(void *dest)
{
	struct mig_dest *d = dest;
	struct lobby l = { .nr = 0 };

	pthread_setname_np(pthread_self(), "accept");
	while (receive_visitors(d, &l))
		;
	while (l.nr > 0)
		close(l.visitors[--l.nr].fd);
	return NULL;
}

int mig_dest_wait_offer(struct mig_dest *d, int timeout_ms, int *ret_fd,
			enum proto_role *ret_role,
			uint8_t ret_id[PROTO_SESSION_BYTES])
{
	struct timespec until =
		mig_deadline(CLOCK_MONOTONIC,
			     timeout_ms < 0 ? 0 : (uint64_t)timeout_ms * 1000);
	int ret = 0;

	pthread_mutex_lock(&d->lock);
	while (d->offered_fd < 0 && !d->ending && ret == 0) {
		if (timeout_ms < 0)
			pthread_cond_wait(&d->changed, &d->lock);
		else
			ret = -pthread_cond_timedwait(&d->changed, &d->lock,
						      &until);
	}
	if (d->ending)
		ret = -ECANCELED;
	if (ret == 0) {
		*ret_fd = d->offered_fd;
		*ret_role = d->offered_role;
		memcpy(ret_id, d->offered_id, PROTO_SESSION_BYTES);
		d->offered_fd = -1;
	}
	pthread_mutex_unlock(&d->lock);
	return ret;
}

static unsigned int count_missing(const struct mig_session *s)
{
	unsigned int i, nr = 0;

	for (i = 0; i < s->channels; i++)
		nr += s->data_fds[i] < 0;
	for (i = 0; i < s->fault_channels; i++)
		nr += s->fault_fds[i] < 0;
	return nr;
}

/* They are opened one after the other, and each has its time. */
int mig_dest_wait_channels(struct mig_dest *d)
{
	uint64_t since_us = mig_now_us();
	unsigned int nr, nr_before;

	pthread_mutex_lock(&d->lock);
	nr_before = count_missing(d->session);
	while ((nr = count_missing(d->session)) > 0 && mig_dest_may_wait(d) &&
	       mig_now_us() - since_us < CHANNEL_TIMEOUT_MS * 1000) {
		if (nr < nr_before)
			since_us = mig_now_us();
		nr_before = nr;
		mig_dest_wait(d);
	}
	pthread_mutex_unlock(&d->lock);
	if (nr == 0)
		return 0;
	return mig_session_broken(d->session) ? -ECONNRESET : -ETIMEDOUT;
}
