/*
 * migrate/net.h: TCP sockets the way migrations use them.
 *
 * Sockets are blocking, with TCP_NODELAY, and give up on a silent peer after
 * MIG_PEER_TIMEOUT_S (TCP_USER_TIMEOUT, and as send timeout).
 * Threads: any. Errors: -errno; -ECONNRESET for an end of file in mid-read.
 */
#ifndef MIGRATE_NET_H
#define MIGRATE_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define MIG_PEER_TIMEOUT_S 10

/* tcp://ADDR:PORT, ADDR a name, an IPv4 address or an [IPv6 address]. */
struct mig_addr {
	char host[256];
	char port[16];
};
int mig_addr_parse(const char *uri, struct mig_addr *ret_addr); /* -EINVAL */

/* Tries every address the name has; net_local.h. *err: one line, to be freed. */
int mig_net_connect(const struct mig_addr *addr, int *ret_fd, char **err);
/* *ret_port: what was bound, also for port 0. */
int mig_net_listen(const struct mig_addr *addr, int *ret_fd, uint16_t *ret_port,
		   char **err);
/* What every connected socket gets, accepted ones too. */
int mig_net_setup(int fd);

int mig_net_read(int fd, void *buf, size_t bytes);
int mig_net_write(int fd, const void *buf, size_t bytes);
/* These consume iov. */
int mig_net_readv(int fd, struct iovec *iov, size_t nr);
int mig_net_writev(int fd, struct iovec *iov, size_t nr);

#endif
