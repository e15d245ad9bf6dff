#include "migrate/link.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/net.h"
#include "migrate/say.h"
#include "proto/control.pb-c.h"
#include "vmm/urgent.h"

/* The reader stops reading when this much waits: TCP holds the peer back. */
#define QUEUE_MAX       64
#define QUEUE_BYTES_MAX (8u << 20)
#define TICK_MS         1000
#define RTT_US_MAX      1000000

struct message {
	enum proto_type type;
	uint32_t bytes;
	ProtobufCMessage *msg; /* owned */
};

struct mig_link {
	/* Set by mig_link_new(), constant after. */
	int fd;
	mig_link_lost *lost;
	void *ctx;
	pthread_t thread;
	uint64_t pinged_us; /* reader only */
	/* Serialises frames on the socket. */
	pthread_mutex_t send_lock;
	/* Under lock. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct message queue[QUEUE_MAX];
	size_t first, nr;
	size_t queued_bytes;
	uint32_t body_max; /* of what may come now */
	bool ending;
	bool reader_ended; /* nothing more will come */
	int err;
	uint32_t asked, answered; /* numbers of mig_link_rtt()'s questions */
};

static const ProtobufCMessageDescriptor *const descriptors[PROTO_NR_TYPES] = {
	[PROTO_SETUP] = &vmmd__setup__descriptor,
	[PROTO_SETUP_REPLY] = &vmmd__setup_reply__descriptor,
	[PROTO_PENDING] = &vmmd__pending__descriptor,
	[PROTO_STATE] = &vmmd__state__descriptor,
	[PROTO_READY] = &vmmd__ready__descriptor,
	[PROTO_COMMIT] = &vmmd__commit__descriptor,
	[PROTO_RUNNING] = &vmmd__running__descriptor,
	[PROTO_COMPLETE] = &vmmd__complete__descriptor,
	[PROTO_BYE] = &vmmd__bye__descriptor,
	[PROTO_CANCEL] = &vmmd__cancel__descriptor,
	[PROTO_PING] = &vmmd__ping__descriptor,
	[PROTO_REJOIN_REPLY] = &vmmd__rejoin_reply__descriptor,
	[PROTO_URGENT] = &vmmd__urgent__descriptor,
	[PROTO_MARKED] = &vmmd__marked__descriptor,
};

static void fail(struct mig_link *l, int err, const char *why)
{
	bool first = false;

	pthread_mutex_lock(&l->lock);
	if (l->err == 0 && !l->ending) {
		l->err = err;
		first = true;
	}
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	if (first)
		l->lost(l->ctx, err, why);
}

static int ping(struct mig_link *l, uint32_t ask, uint32_t answer)
{
	Vmmd__Ping msg = VMMD__PING__INIT;

	msg.ask = ask;
	msg.answer = answer;
	return mig_link_send(l, PROTO_PING, &msg.base);
}

/* Whatever comes in: the peer counts our silence, not its own. */
static void ping_if_due(struct mig_link *l)
{
	uint64_t now_us = mig_now_us();

	if (now_us - l->pinged_us < TICK_MS * 1000u)
		return;
	l->pinged_us = now_us;
	ping(l, 0, 0);
}

static void on_ping(struct mig_link *l, const Vmmd__Ping *msg)
{
	if (msg->ask != 0)
		ping(l, 0, msg->ask);
	pthread_mutex_lock(&l->lock);
	if (msg->answer != 0 && msg->answer == l->asked) {
		l->answered = msg->answer;
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
}

static int wait_readable(struct mig_link *l)
{
	int silent;

	for (silent = 0; silent < MIG_PEER_TIMEOUT_S; silent++) {
		struct pollfd p = { .fd = l->fd, .events = POLLIN };
		int n;

		ping_if_due(l);
		n = poll(&p, 1, TICK_MS);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		/* Ticks, not time, add up: we may have been stopped too. */
	}
	return -ETIMEDOUT;
}

static int read_some(struct mig_link *l, uint8_t *buf, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n;
		int ret = wait_readable(l);

		if (ret < 0)
			return ret;
		n = recv(l->fd, buf, bytes, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ECONNRESET;
		buf += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int read_frame(struct mig_link *l, struct proto_frame *f)
{
	uint8_t header[PROTO_FRAME_BYTES];
	int ret;

	ret = read_some(l, header, sizeof(header));
	if (ret < 0)
		return ret;
	return proto_frame_decode(header, f);
}

static uint32_t body_limit(struct mig_link *l)
{
	uint32_t max;

	pthread_mutex_lock(&l->lock);
	max = l->body_max;
	pthread_mutex_unlock(&l->lock);
	return max;
}

/* *ret_msg stays NULL for a type that we may ignore. */
static int read_message(struct mig_link *l, struct proto_frame *f,
			ProtobufCMessage **ret_msg)
{
	uint8_t *body;
	int ret;

	ret = read_frame(l, f);
	if (ret < 0)
		return ret;
	if (f->bytes > body_limit(l))
		return -EMSGSIZE;
	body = malloc(f->bytes + 1);
	if (!body)
		return -ENOMEM;
	ret = read_some(l, body, f->bytes);
	if (ret == 0 && f->type < PROTO_NR_TYPES && descriptors[f->type]) {
		*ret_msg = protobuf_c_message_unpack(descriptors[f->type], NULL,
						     f->bytes, body);
		if (!*ret_msg)
			ret = -EBADMSG;
	}
	free(body);
	return ret;
}

/* False when the link is being freed. Takes msg. */
static bool enqueue(struct mig_link *l, const struct proto_frame *f,
		    ProtobufCMessage *msg)
{
	bool taken = false;

	pthread_mutex_lock(&l->lock);
	while (!l->ending &&
	       (l->nr == QUEUE_MAX ||
		(l->nr > 0 && l->queued_bytes + f->bytes > QUEUE_BYTES_MAX)))
		pthread_cond_wait(&l->changed, &l->lock);
	if (!l->ending) {
		l->queue[(l->first + l->nr) % QUEUE_MAX] = (struct message){
			.type = (enum proto_type)f->type,
			.bytes = f->bytes,
			.msg = msg,
		};
		l->queued_bytes += f->bytes;
		l->nr++;
		taken = true;
		pthread_cond_broadcast(&l->changed);
	}
	pthread_mutex_unlock(&l->lock);
	if (!taken)
		protobuf_c_message_free_unpacked(msg, NULL);
	return taken;
}

static void fail_read(struct mig_link *l, int ret, const struct proto_frame *f)
{
	char why[256];

	pthread_mutex_lock(&l->lock);
	l->reader_ended = true;
	pthread_mutex_unlock(&l->lock);
	switch (ret) {
	case -ETIMEDOUT:
		snprintf(why, sizeof(why), "the peer has been silent for %d s",
			 MIG_PEER_TIMEOUT_S);
		break;
	case -EBADMSG:
		snprintf(why, sizeof(why), "the peer sent garbage");
		break;
	case -EMSGSIZE:
		snprintf(why, sizeof(why),
			 "the peer sent a %s of %u bytes: too long",
			 proto_type_name(f->type), f->bytes);
		break;
	case -EOPNOTSUPP:
		snprintf(why, sizeof(why),
			 "the peer needs message type %u, which this version "
			 "does not know",
			 f->type);
		break;
	default:
		snprintf(why, sizeof(why), "connection to the peer lost: %s",
			 strerror(-ret));
	}
	fail(l, ret, why);
}

static void *reader(void *arg)
{
	struct mig_link *l = arg;

	pthread_setname_np(pthread_self(), "control");
	vm_thread_urgent(pthread_self(), true);
	for (;;) {
		ProtobufCMessage *msg = NULL;
		struct proto_frame f = { 0 };
		int ret = read_message(l, &f, &msg);

		if (ret < 0) {
			fail_read(l, ret, &f);
			return NULL;
		}
		if (!msg)
			continue;
		if (f.type == PROTO_PING) {
			on_ping(l, (Vmmd__Ping *)msg);
			protobuf_c_message_free_unpacked(msg, NULL);
			continue;
		}
		if (!enqueue(l, &f, msg))
			return NULL;
	}
}

int mig_link_new(int fd, uint32_t body_max, mig_link_lost *lost, void *ctx,
		 struct mig_link **ret_link)
{
	struct mig_link *l;
	int ret;

	l = calloc(1, sizeof(*l));
	if (!l) {
		ret = -ENOMEM;
		goto close_fd;
	}
	l->fd = fd;
	l->lost = lost;
	l->ctx = ctx;
	pthread_mutex_init(&l->send_lock, NULL);
	pthread_mutex_init(&l->lock, NULL);
	l->body_max = body_max;
	mig_cond_init(&l->changed);
	ret = -pthread_create(&l->thread, NULL, reader, l);
	if (ret < 0)
		goto free_l;
	*ret_link = l;
	return 0;
free_l:
	free(l);
close_fd:
	close(fd);
	return ret;
}

void mig_link_free(struct mig_link *l)
{
	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	l->ending = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	/* Wakes our reader; what was sent stays on its way. */
	shutdown(l->fd, SHUT_RDWR);
	pthread_join(l->thread, NULL);
	while (l->nr > 0) {
		protobuf_c_message_free_unpacked(l->queue[l->first].msg, NULL);
		l->first = (l->first + 1) % QUEUE_MAX;
		l->nr--;
	}
	close(l->fd);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	pthread_mutex_destroy(&l->send_lock);
	free(l);
}

/* PING and URGENT need not be understood; all else must be. */
int mig_link_send(struct mig_link *l, enum proto_type type,
		  const ProtobufCMessage *msg)
{
	size_t bytes = protobuf_c_message_get_packed_size(msg);
	struct proto_frame f = {
		.type = (uint16_t)type,
		.required = type != PROTO_PING && type != PROTO_URGENT,
		.bytes = (uint32_t)bytes,
	};
	uint8_t *buf;
	int ret;

	buf = malloc(PROTO_FRAME_BYTES + bytes);
	if (!buf)
		return -ENOMEM;
	proto_frame_encode(&f, buf);
	protobuf_c_message_pack(msg, buf + PROTO_FRAME_BYTES);
	pthread_mutex_lock(&l->send_lock);
	ret = mig_net_write(l->fd, buf, PROTO_FRAME_BYTES + bytes);
	pthread_mutex_unlock(&l->send_lock);
	free(buf);
	return ret;
}

int mig_link_rtt(struct mig_link *l, uint64_t *ret_us)
{
	uint64_t begin_us = mig_now_us();
	struct timespec until = mig_deadline(CLOCK_MONOTONIC, RTT_US_MAX);
	uint32_t ask;
	int ret;

	pthread_mutex_lock(&l->lock);
	ask = l->asked = l->asked == UINT32_MAX ? 1 : l->asked + 1;
	pthread_mutex_unlock(&l->lock);
	ret = ping(l, ask, 0);
	pthread_mutex_lock(&l->lock);
	while (ret == 0 && l->err == 0 && l->answered != ask)
		ret = -pthread_cond_timedwait(&l->changed, &l->lock, &until);
	if (l->err != 0)
		ret = l->err;
	pthread_mutex_unlock(&l->lock);
	if (ret < 0 && ret != -ETIMEDOUT)
		return ret;
	*ret_us = mig_now_us() - begin_us;
	return 0;
}

/* until: NULL for as long as it takes. */
static int take(struct mig_link *l, const struct timespec *until,
		struct message *ret_message)
{
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	while (ret == 0 && l->nr == 0 && l->err == 0)
		ret = until ? -pthread_cond_timedwait(&l->changed, &l->lock,
						      until)
			    : -pthread_cond_wait(&l->changed, &l->lock);
	/* What came before the trouble still counts: it may be the reason. */
	if (l->nr > 0) {
		*ret_message = l->queue[l->first];
		l->first = (l->first + 1) % QUEUE_MAX;
		l->nr--;
		l->queued_bytes -= ret_message->bytes;
		pthread_cond_broadcast(&l->changed);
		ret = 0;
	} else if (l->err != 0) {
		ret = l->err;
	}
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static void copy_reason(const ProtobufCMessage *cancel, char *ret_why,
			size_t bytes)
{
	const char *reason = ((const Vmmd__Cancel *)cancel)->reason;

	snprintf(ret_why, bytes, "%s",
		 reason[0] ? reason : "the peer gave up without a reason");
	mig_clean_text(ret_why);
}

static int recv_any(struct mig_link *l, const struct timespec *until,
		    enum proto_type *ret_type, ProtobufCMessage **ret_msg)
{
	struct message m = { 0 };
	char why[512];
	int ret;

	ret = take(l, until, &m);
	if (ret < 0)
		return ret;
	if (m.type == PROTO_CANCEL) {
		copy_reason(m.msg, why, sizeof(why));
		fail(l, -ECANCELED, why);
		protobuf_c_message_free_unpacked(m.msg, NULL);
		return -ECANCELED;
	}
	*ret_type = m.type;
	*ret_msg = m.msg;
	return 0;
}

int mig_link_recv_any(struct mig_link *l, enum proto_type *ret_type,
		      ProtobufCMessage **ret_msg)
{
	return recv_any(l, NULL, ret_type, ret_msg);
}

static int recv_typed(struct mig_link *l, const struct timespec *until,
		      enum proto_type type, ProtobufCMessage **ret_msg)
{
	enum proto_type got;
	char why[128];
	int ret;

	ret = recv_any(l, until, &got, ret_msg);
	if (ret < 0 || got == type)
		return ret;
	protobuf_c_message_free_unpacked(*ret_msg, NULL);
	*ret_msg = NULL;
	snprintf(why, sizeof(why), "the peer sent %s where %s was due",
		 proto_type_name(got), proto_type_name(type));
	fail(l, -EPROTO, why);
	return -EPROTO;
}

int mig_link_recv(struct mig_link *l, enum proto_type type,
		  ProtobufCMessage **ret_msg)
{
	return recv_typed(l, NULL, type, ret_msg);
}

int mig_link_recv_setup(struct mig_link *l, int timeout_s,
			ProtobufCMessage **ret_msg)
{
	struct timespec until = mig_deadline(CLOCK_MONOTONIC,
					     (uint64_t)timeout_s * 1000000);
	int ret;

	ret = recv_typed(l, &until, PROTO_SETUP, ret_msg);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&l->lock);
	l->body_max = UINT32_MAX;
	pthread_mutex_unlock(&l->lock);
	return 0;
}

static bool find_cancel(struct mig_link *l, char *ret_why, size_t bytes)
{
	size_t i;

	for (i = 0; i < l->nr; i++) {
		struct message *m = &l->queue[(l->first + i) % QUEUE_MAX];

		if (m->type != PROTO_CANCEL)
			continue;
		copy_reason(m->msg, ret_why, bytes);
		return true;
	}
	return false;
}

bool mig_link_last_word(struct mig_link *l, int timeout_ms, char *ret_why,
			size_t bytes)
{
	uint64_t end_us = mig_now_us() + (uint64_t)timeout_ms * 1000;
	const struct timespec tick = { .tv_nsec = 5000000 };
	bool found, ended;

	do {
		pthread_mutex_lock(&l->lock);
		found = find_cancel(l, ret_why, bytes);
		ended = l->reader_ended;
		pthread_mutex_unlock(&l->lock);
		if (found || ended)
			break;
		nanosleep(&tick, NULL);
	} while (mig_now_us() < end_us);
	return found;
}

void mig_link_wake(struct mig_link *l, int err, const char *why)
{
	fail(l, err, why);
}

void mig_link_shut(struct mig_link *l)
{
	shutdown(l->fd, SHUT_RDWR);
}
