/*
 * migrate/net_local.h: connections that never leave this host.
 *
 * Which congestion control suits a network its owner decides (sysctl
 * net.ipv4.tcp_congestion_control). Within a host there is no network, and one that
 * paces (BBR) sets a timer for each few segments, which took a quarter of a precopy's
 * time. Reno does not pace, and every kernel has it, for everyone unless its owner has
 * taken it away. The end that connects sends the bulk; the other is left as it is.
 *
 * Threads: any. Errors: none; where the kernel refuses, the socket stays as it is.
 */
#ifndef MIGRATE_NET_LOCAL_H
#define MIGRATE_NET_LOCAL_H

#include <sys/socket.h>

/* Before connect(): a socket that has begun to pace does so for good. */
void mig_net_local_choose(int fd, const struct sockaddr *to, socklen_t bytes);

#endif
