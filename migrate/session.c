#include "migrate/session.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/control.pb-c.h"

static void on_link_lost(void *ctx, int err, const char *why)
{
	mig_session_break(ctx, err, "%s", why);
}

int mig_session_new(const uint8_t id[PROTO_SESSION_BYTES], int control_fd,
		    unsigned int channels, unsigned int fault_channels,
		    void (*on_broken)(void *ctx), void *ctx,
		    struct mig_session **ret_session)
{
	struct mig_session *s;
	unsigned int i;
	int ret;

	s = calloc(1, sizeof(*s));
	if (!s) {
		close(control_fd);
		return -ENOMEM;
	}
	memcpy(s->id, id, PROTO_SESSION_BYTES);
	s->channels = channels;
	s->fault_channels = fault_channels;
	s->on_broken = on_broken;
	s->ctx = ctx;
	for (i = 0; i < PROTO_CHANNELS_MAX; i++) {
		s->data_fds[i] = -1;
		s->fault_fds[i] = -1;
	}
	pthread_mutex_init(&s->lock, NULL);
	/* The reader may lose the link before we have stored it: hold it off. */
	pthread_mutex_lock(&s->lock);
	ret = mig_link_new(control_fd,
			   channels ? UINT32_MAX : MIG_LINK_SETUP_MAX,
			   on_link_lost, s, &s->link);
	pthread_mutex_unlock(&s->lock);
	if (ret < 0) {
		pthread_mutex_destroy(&s->lock);
		free(s);
		return ret;
	}
	*ret_session = s;
	return 0;
}

void mig_session_free(struct mig_session *s)
{
	unsigned int i;

	if (!s)
		return;
	mig_link_free(s->link);
	for (i = 0; i < PROTO_CHANNELS_MAX; i++) {
		if (s->data_fds[i] >= 0)
			close(s->data_fds[i]);
		if (s->fault_fds[i] >= 0)
			close(s->fault_fds[i]);
	}
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void mig_session_attach(struct mig_session *s, int *slot, int fd)
{
	pthread_mutex_lock(&s->lock);
	*slot = fd;
	if (s->err != 0)
		shutdown(fd, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
}

static void shut_pages(struct mig_session *s)
{
	unsigned int i;

	for (i = 0; i < PROTO_CHANNELS_MAX; i++) {
		if (s->data_fds[i] >= 0)
			shutdown(s->data_fds[i], SHUT_RDWR);
		if (s->fault_fds[i] >= 0)
			shutdown(s->fault_fds[i], SHUT_RDWR);
	}
}

void mig_session_break(struct mig_session *s, int err, const char *fmt, ...)
{
	char why[sizeof(s->why)];
	bool first;
	va_list ap;

	pthread_mutex_lock(&s->lock);
	first = s->err == 0;
	if (first) {
		va_start(ap, fmt);
		vsnprintf(s->why, sizeof(s->why), fmt, ap);
		va_end(ap);
		s->err = err;
	}
	memcpy(why, s->why, sizeof(why));
	atomic_store(&s->broken, true);
	shut_pages(s);
	pthread_mutex_unlock(&s->lock);
	/* Outside the lock: these call back. */
	mig_link_wake(s->link, err, why);
	if (first && s->on_broken)
		s->on_broken(s->ctx);
}

void mig_session_cut(struct mig_session *s)
{
	mig_session_break(s, -ECONNRESET, "connection to the peer lost: cut");
	mig_link_shut(s->link);
}

bool mig_session_broken(const struct mig_session *s)
{
	return atomic_load(&s->broken);
}

int mig_session_error(struct mig_session *s, char *ret_why, size_t bytes)
{
	int err;

	pthread_mutex_lock(&s->lock);
	err = s->err;
	snprintf(ret_why, bytes, "%s", s->why);
	pthread_mutex_unlock(&s->lock);
	return err;
}

void mig_session_say_cancel(struct mig_session *s, const char *reason)
{
	Vmmd__Cancel cancel = VMMD__CANCEL__INIT;
	char text[1024]; /* what fits into a CANCEL */

	snprintf(text, sizeof(text), "%s", reason);
	cancel.reason = text;
	mig_link_send(s->link, PROTO_CANCEL, &cancel.base);
}
