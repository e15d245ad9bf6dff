/*
 * Tests of migrate/net_local.c: which congestion control a connection gets, in a network
 * namespace of our own. Beyond a TUN device there is a mirror: it sends each packet
 * back with its addresses exchanged, so that connecting to 10.1.1.2, which nobody
 * has, reaches a listener on 10.1.1.1, by way of a network.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/net.h"

#define CC_BYTES 16 /* TCP_CA_NAME_MAX, linux/include/net/tcp.h */

struct mirror {
	int tun;
	atomic_bool quit;
	pthread_t thread;
};

static struct mirror the_mirror;

static void set_address(struct ifreq *ifr, const char *address)
{
	struct sockaddr_in in = { .sin_family = AF_INET };

	assert_int_equal(inet_pton(AF_INET, address, &in.sin_addr), 1);
	memcpy(&ifr->ifr_addr, &in, sizeof(in));
}

static void bring_up(const char *name, const char *address)
{
	struct ifreq ifr = { .ifr_flags = 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (address) {
		set_address(&ifr, address);
		assert_int_equal(ioctl(fd, SIOCSIFADDR, &ifr), 0);
		set_address(&ifr, "255.255.255.0");
		assert_int_equal(ioctl(fd, SIOCSIFNETMASK, &ifr), 0);
	}
	ifr.ifr_flags = IFF_UP;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

/* Sums stay right: they do not depend on the order of what is added. */
static void *reflect(void *arg)
{
	struct mirror *m = arg;
	struct pollfd p = { .fd = m->tun, .events = POLLIN };
	uint8_t packet[2048];

	while (!atomic_load(&m->quit)) {
		struct iphdr ip;
		ssize_t n;
		uint32_t from;

		if (poll(&p, 1, 10) != 1)
			continue;
		n = read(m->tun, packet, sizeof(packet));
		if (n < (ssize_t)sizeof(ip) || packet[0] >> 4 != 4)
			continue; /* IPv6 speaks by itself */
		memcpy(&ip, packet, sizeof(ip));
		from = ip.saddr;
		ip.saddr = ip.daddr;
		ip.daddr = from;
		memcpy(packet, &ip, sizeof(ip));
		if (write(m->tun, packet, (size_t)n) != n)
			continue; /* TCP sends it again */
	}
	return NULL;
}

/* A network of our own with a TUN device in it. */
static bool open_tun(int *ret_tun)
{
	struct ifreq ifr = { .ifr_name = "mirror",
			     .ifr_flags = IFF_TUN | IFF_NO_PI };

	if (unshare(CLONE_NEWNET) < 0)
		return false;
	*ret_tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	return *ret_tun >= 0 && ioctl(*ret_tun, TUNSETIFF, &ifr) == 0;
}

static int open_world(void **state)
{
	struct mirror *m = &the_mirror;

	bring_up("lo", NULL);
	bring_up("mirror", "10.1.1.1");
	assert_int_equal(pthread_create(&m->thread, NULL, reflect, m), 0);
	*state = m;
	return 0;
}

static int close_world(void **state)
{
	struct mirror *m = *state;

	atomic_store(&m->quit, true);
	pthread_join(m->thread, NULL);
	close(m->tun);
	return 0;
}

static int open_listener(const char *host, uint16_t *ret_port)
{
	struct mig_addr addr = { .port = "0" };
	int fd;

	snprintf(addr.host, sizeof(addr.host), "%s", host);
	if (mig_net_listen(&addr, &fd, ret_port, NULL) < 0)
		return -1;
	return fd;
}

static void congestion_of(int fd, char cc[CC_BYTES])
{
	socklen_t len = CC_BYTES;

	memset(cc, 0, CC_BYTES);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cc, &len),
			 0);
}

/* Of a connection to a listener on `at` by way of `by`. */
static void connect_by(const char *at, const char *by, char cc[CC_BYTES])
{
	struct mig_addr addr;
	uint16_t port;
	int listener = open_listener(at, &port), near, far;
	char got = 0;

	assert_true(listener >= 0);
	snprintf(addr.host, sizeof(addr.host), "%s", by);
	snprintf(addr.port, sizeof(addr.port), "%u", port);
	assert_int_equal(mig_net_connect(&addr, &near, NULL), 0);
	far = accept(listener, NULL, NULL);
	assert_true(far >= 0);
	congestion_of(near, cc);
	assert_int_equal(mig_net_write(near, "x", 1), 0); /* it is a way */
	assert_int_equal(mig_net_read(far, &got, 1), 0);
	assert_int_equal(got, 'x');
	close(near);
	close(far);
	close(listener);
}

static void test_here_it_does_not_pace(void **state)
{
	char cc[CC_BYTES];

	(void)state;
	connect_by("127.0.0.1", "127.0.0.1", cc);
	assert_string_equal(cc, "reno");
	/* Where Debian puts a host's own name. */
	connect_by("127.0.1.1", "127.0.1.1", cc);
	assert_string_equal(cc, "reno");
	connect_by("10.1.1.1", "10.1.1.1", cc);
	assert_string_equal(cc, "reno");
}

static void test_here_by_ipv6(void **state)
{
	char cc[CC_BYTES];
	uint16_t port;
	int fd = open_listener("::1", &port);

	(void)state;
	if (fd < 0) {
		printf("SKIPPED: no IPv6 here\n");
		skip();
	}
	close(fd);
	connect_by("::1", "::1", cc);
	assert_string_equal(cc, "reno");
}

static void test_elsewhere_it_is_the_hosts(void **state)
{
	char hosts[CC_BYTES], cc[CC_BYTES];
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_true(fd >= 0);
	congestion_of(fd, hosts);
	close(fd);
	if (strcmp(hosts, "reno") == 0) {
		printf("SKIPPED: this host's own choice is reno\n");
		skip();
	}
	connect_by("10.1.1.1", "10.1.1.2", cc);
	assert_string_equal(cc, hosts);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_here_it_does_not_pace),
		cmocka_unit_test(test_here_by_ipv6),
		cmocka_unit_test(test_elsewhere_it_is_the_hosts),
	};

	if (!open_tun(&the_mirror.tun)) {
		printf("SKIPPED: no network of its own: %s\n", strerror(errno));
		return 77;
	}
	return cmocka_run_group_tests(tests, open_world, close_world);
}
