#include "migrate/net.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/net_local.h"
#include "migrate/say.h"

#define CONNECT_TIMEOUT_MS 5000
#define LISTEN_BACKLOG     32
#define IOV_BATCH          1024 /* IOV_MAX */

int mig_addr_parse(const char *uri, struct mig_addr *ret_addr)
{
	const char *host, *host_end, *colon;
	struct mig_addr a;

	if (strncmp(uri, "tcp://", 6) != 0)
		return -EINVAL;
	host = uri + 6;
	colon = strrchr(host, ':');
	if (!colon || colon == host)
		return -EINVAL;
	host_end = colon;
	if (*host == '[') {
		host++;
		host_end--;
		if (host_end <= host || *host_end != ']')
			return -EINVAL;
	}
	if ((size_t)(host_end - host) >= sizeof(a.host) ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) ||
	    strlen(colon + 1) == 0 || strlen(colon + 1) > 5 ||
	    atoi(colon + 1) > 65535)
		return -EINVAL;
	memset(&a, 0, sizeof(a));
	memcpy(a.host, host, (size_t)(host_end - host));
	memcpy(a.port, colon + 1, strlen(colon + 1));
	*ret_addr = a;
	return 0;
}

static int resolve(const struct mig_addr *addr, int flags,
		   struct addrinfo **ret, char **err)
{
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = flags | AI_NUMERICSERV,
	};
	int r = getaddrinfo(addr->host, addr->port, &hints, ret);

	if (r != 0)
		return mig_say(err, -ENOENT, "cannot resolve '%s': %s",
			       addr->host, gai_strerror(r));
	return 0;
}

int mig_net_setup(int fd)
{
	struct timeval send_timeout = { .tv_sec = MIG_PEER_TIMEOUT_S };
	unsigned int user_timeout_ms = MIG_PEER_TIMEOUT_S * 1000;
	int one = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms,
		       sizeof(user_timeout_ms)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_timeout,
		       sizeof(send_timeout)) < 0)
		return -errno;
	return 0;
}

/* connect() with a time limit of our own: the kernel's is minutes. */
static int connect_one(const struct addrinfo *ai, int *ret_fd)
{
	struct timeval tv = { .tv_sec = CONNECT_TIMEOUT_MS / 1000 };
	int fd, ret;

	fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC,
		    ai->ai_protocol);
	if (fd < 0)
		return -errno;
	mig_net_local_choose(fd, ai->ai_addr, ai->ai_addrlen);
	/* SO_SNDTIMEO bounds connect too (socket(7)). */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
		ret = errno == EINPROGRESS ? -ETIMEDOUT : -errno;
		goto close_fd;
	}
	ret = mig_net_setup(fd);
	if (ret < 0)
		goto close_fd;
	*ret_fd = fd;
	return 0;
close_fd:
	close(fd);
	return ret;
}

int mig_net_connect(const struct mig_addr *addr, int *ret_fd, char **err)
{
	struct addrinfo *list, *ai;
	int ret;

	ret = resolve(addr, 0, &list, err);
	if (ret < 0)
		return ret;
	ret = -EADDRNOTAVAIL;
	for (ai = list; ai; ai = ai->ai_next) {
		ret = connect_one(ai, ret_fd);
		if (ret == 0)
			break;
	}
	freeaddrinfo(list);
	if (ret < 0)
		mig_say(err, ret, "cannot connect to %s port %s: %s",
			addr->host, addr->port, strerror(-ret));
	return ret;
}

static int listen_one(const struct addrinfo *ai, int *ret_fd,
		      uint16_t *ret_port)
{
	struct sockaddr_storage bound;
	socklen_t len = sizeof(bound);
	int one = 1;
	int fd, ret;

	fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC,
		    ai->ai_protocol);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 ||
	    listen(fd, LISTEN_BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&bound, &len) < 0) {
		ret = -errno;
		close(fd);
		return ret;
	}
	*ret_port = ntohs(bound.ss_family == AF_INET6
				  ? ((struct sockaddr_in6 *)&bound)->sin6_port
				  : ((struct sockaddr_in *)&bound)->sin_port);
	*ret_fd = fd;
	return 0;
}

int mig_net_listen(const struct mig_addr *addr, int *ret_fd, uint16_t *ret_port,
		   char **err)
{
	struct addrinfo *list, *ai;
	int ret;

	ret = resolve(addr, AI_PASSIVE, &list, err);
	if (ret < 0)
		return ret;
	ret = -EADDRNOTAVAIL;
	for (ai = list; ai; ai = ai->ai_next) {
		ret = listen_one(ai, ret_fd, ret_port);
		if (ret == 0)
			break;
	}
	freeaddrinfo(list);
	if (ret < 0)
		mig_say(err, ret, "cannot listen on %s port %s: %s", addr->host,
			addr->port, strerror(-ret));
	return ret;
}

/* Drop the first n bytes of what iov describes. */
static void advance(struct iovec **iov, size_t *nr, size_t n)
{
	while (*nr > 0 && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*nr)--;
	}
	if (n > 0) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

static int read_all(int fd, struct iovec *iov, size_t nr, int flags)
{
	while (nr > 0) {
		struct msghdr m = {
			.msg_iov = iov,
			.msg_iovlen = nr < IOV_BATCH ? nr : IOV_BATCH,
		};
		ssize_t n = recvmsg(fd, &m, flags);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ECONNRESET;
		advance(&iov, &nr, (size_t)n);
	}
	return 0;
}

/*
 * Waiting inside the kernel costs less than coming back for each piece. Not where the
 * socket never holds much (flight.h): then the thread runs for each piece all the same,
 * and a postcopy took a fifth longer.
 */
int mig_net_readv(int fd, struct iovec *iov, size_t nr)
{
	return read_all(fd, iov, nr, MSG_WAITALL);
}

int mig_net_writev(int fd, struct iovec *iov, size_t nr)
{
	while (nr > 0) {
		struct msghdr m = {
			.msg_iov = iov,
			.msg_iovlen = nr < IOV_BATCH ? nr : IOV_BATCH,
		};
		ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		advance(&iov, &nr, (size_t)n);
	}
	return 0;
}

int mig_net_read(int fd, void *buf, size_t bytes)
{
	struct iovec iov = { .iov_base = buf, .iov_len = bytes };

	return bytes ? read_all(fd, &iov, 1, 0) : 0;
}

int mig_net_write(int fd, const void *buf, size_t bytes)
{
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = bytes };

	return bytes ? mig_net_writev(fd, &iov, 1) : 0;
}
