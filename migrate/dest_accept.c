#include "migrate/dest_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "migrate/net.h"

/*
 * A stranger may connect and say nothing. It holds up the next hello for no
 * longer than this.
 */
#define HELLO_TIMEOUT_MS    2000
#define CHANNELS_TIMEOUT_MS 10000

static int read_hello(int fd, struct proto_hello *h)
{
	uint8_t buf[PROTO_HELLO_BYTES];
	struct timeval timeout = { .tv_sec = HELLO_TIMEOUT_MS / 1000 };
	struct timeval none = { 0 };
	int ret;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	ret = mig_net_read(fd, buf, sizeof(buf));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof(none));
	return ret < 0 ? ret : proto_hello_decode(buf, h);
}

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
		wanted = phase == MIG_SETUP && !d->session;
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
	if (h->role == PROTO_ROLE_DATA && h->channel >= s->channels)
		return false;
	slot = h->role == PROTO_ROLE_FAULT ? &s->fault_fd
					   : &s->data_fds[h->channel];
	if (*slot >= 0)
		return false;
	mig_session_attach(s, slot, fd);
	return true;
}

static void welcome(struct mig_dest *d, int fd)
{
	struct proto_hello h;
	bool taken;

	if (mig_net_setup(fd) < 0 || read_hello(fd, &h) < 0) {
		close(fd);
		return;
	}
	pthread_mutex_lock(&d->lock);
	if (h.role == PROTO_ROLE_DATA || h.role == PROTO_ROLE_FAULT)
		taken = attach_channel(d, &h, fd);
	else
		taken = offer_control(d, &h, fd);
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (!taken)
		close(fd);
}

void *mig_dest_acceptor(void *dest)
{
	struct mig_dest *d = dest;
	struct pollfd fds[2] = {
		{ .fd = d->cfg.listen_fd, .events = POLLIN },
		{ .fd = d->wake_fd, .events = POLLIN },
	};

	pthread_setname_np(pthread_self(), "accept");
	for (;;) {
		int fd;

		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[1].revents)
			return NULL;
		if (!(fds[0].revents & POLLIN))
			continue;
		fd = accept4(d->cfg.listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			welcome(d, fd);
	}
}

static void deadline(struct timespec *ts, int timeout_ms)
{
	clock_gettime(CLOCK_MONOTONIC, ts);
	ts->tv_sec += timeout_ms / 1000;
	ts->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (ts->tv_nsec >= 1000000000) {
		ts->tv_sec++;
		ts->tv_nsec -= 1000000000;
	}
}

int mig_dest_wait_offer(struct mig_dest *d, int timeout_ms, int *ret_fd,
			enum proto_role *ret_role,
			uint8_t ret_id[PROTO_SESSION_BYTES])
{
	struct timespec until;
	int ret = 0;

	deadline(&until, timeout_ms < 0 ? 0 : timeout_ms);
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

static bool all_there(const struct mig_session *s)
{
	unsigned int i;

	for (i = 0; i < s->channels; i++) {
		if (s->data_fds[i] < 0)
			return false;
	}
	return s->fault_fd >= 0;
}

int mig_dest_wait_channels(struct mig_dest *d)
{
	struct timespec until;
	int ret = 0;

	deadline(&until, CHANNELS_TIMEOUT_MS);
	pthread_mutex_lock(&d->lock);
	while (ret == 0 && !all_there(d->session)) {
		if (d->ending || mig_session_broken(d->session))
			ret = -ECONNRESET;
		else
			ret = -pthread_cond_timedwait(&d->changed, &d->lock,
						      &until);
	}
	pthread_mutex_unlock(&d->lock);
	return ret;
}
