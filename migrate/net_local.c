#include "migrate/net_local.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <unistd.h>

static bool is_same_host(const struct sockaddr_storage *own,
			 const struct sockaddr_storage *peer)
{
	const struct sockaddr_in *o4 = (const void *)own;
	const struct sockaddr_in *p4 = (const void *)peer;
	const struct sockaddr_in6 *o6 = (const void *)own;
	const struct sockaddr_in6 *p6 = (const void *)peer;

	if (own->ss_family != peer->ss_family)
		return false;
	if (own->ss_family == AF_INET)
		return o4->sin_addr.s_addr == p4->sin_addr.s_addr ||
		       ntohl(p4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return own->ss_family == AF_INET6 &&
	       IN6_ARE_ADDR_EQUAL(&o6->sin6_addr, &p6->sin6_addr);
}

/*
 * What is sent to an address of this host has it as its own address, too; but for all of
 * 127/8 that is 127.0.0.1. (And for a second address of one subnet it is the first: such
 * a connection is taken for one to elsewhere.)
 */
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
