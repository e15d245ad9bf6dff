#include "migrate/net_local.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static bool is_same_host(const struct sockaddr_storage *a,
			 const struct sockaddr_storage *b)
{
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;

	if (a->ss_family != b->ss_family)
		return false;
	if (a->ss_family == AF_INET)
		return a4->sin_addr.s_addr == b4->sin_addr.s_addr;
	return a->ss_family == AF_INET6 &&
	       memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr)) ==
		       0;
}

/* What is sent to an address of this host has it as its own address, too. */
static bool is_local(int fd)
{
	struct sockaddr_storage own, peer;
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer);

	return getsockname(fd, (struct sockaddr *)&own, &own_len) == 0 &&
	       getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 &&
	       is_same_host(&own, &peer);
}

/* A datagram socket asks the routes and sends nothing (connect(2)). */
static bool is_local_address(const struct sockaddr *to, socklen_t bytes)
{
	int fd = socket(to->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ret;

	if (fd < 0)
		return false;
	ret = connect(fd, to, bytes) == 0 && is_local(fd);
	close(fd);
	return ret;
}

void mig_net_local_choose(int fd, const struct sockaddr *to, socklen_t bytes)
{
	static const char reno[] = "reno";

	if (is_local_address(to, bytes))
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, reno,
			   sizeof(reno) - 1);
}
