#include "net_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ETHER_BYTES 14

static const uint8_t ether[ETHER_BYTES] = { 0xff,
					    0xff,
					    0xff,
					    0xff,
					    0xff,
					    0xff, /* to all */
					    0x02,
					    'w',
					    'i',
					    'r',
					    'e',
					    1,
					    NET_ETHERTYPE >> 8,
					    NET_ETHERTYPE & 0xff };

bool net_world(void)
{
	int fd;

	if (unshare(CLONE_NEWNET) < 0) {
		printf("SKIPPED: no network namespace: %s\n", strerror(errno));
		return false;
	}
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		printf("SKIPPED: /dev/net/tun: %s\n", strerror(errno));
		return false;
	}
	close(fd);
	return true;
}

/* IPv6 would speak by itself. */
static void silence(const char *tap)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6",
		 tap);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* a kernel without IPv6 */
	assert_int_equal(write(fd, "1", 1), 1);
	close(fd);
}

static int open_wire(const char *tap)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(ETH_P_ALL) };
	struct ifreq ifr = { .ifr_flags = 0 };
	int one = 1;
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", tap);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags |= IFF_UP;
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	/* A struct net_header without num_buffers before each frame. */
	assert_int_equal(
		setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)),
		0);
	/* Not what we send ourselves. */
	assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING,
				    &one, sizeof(one)),
			 0);
	ll.sll_ifindex = (int)if_nametoindex(tap);
	assert_int_equal(bind(fd, (struct sockaddr *)&ll, sizeof(ll)), 0);
	return fd;
}

void net_up(struct net_fixture *f, const char *tap, uint64_t features)
{
	struct vm_net_config cfg = { .tap = tap };
	struct vm *vm = vdrv_machine(UINT64_C(64) << 20);
	struct virtio_device *v = NULL;
	char *err = NULL;

	assert_int_equal(virtio_net_new(vm, 0, &cfg, &v, &err), 0);
	assert_null(err);
	f->n = (struct virtio_net *)v;
	vdrv_init(&f->d, vm, v, features);
	for (unsigned int q = 0; q < NET_NR_QUEUES; q++)
		vdrv_queue(&f->d, q, NET_ENTRIES);
	silence(tap);
	f->wire = open_wire(tap);
}

void net_down(struct net_fixture *f)
{
	vdrv_fini(&f->d);
	close(f->wire);
}

void net_delete(const char *tap)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg link;
	} m = { .head = { .nlmsg_len = sizeof(m),
			  .nlmsg_type = RTM_DELLINK,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK },
		.link = { .ifi_family = AF_UNSPEC } };
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} answer;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	assert_true(fd >= 0);
	m.link.ifi_index = (int)if_nametoindex(tap);
	assert_int_equal(send(fd, &m, sizeof(m), 0), sizeof(m));
	assert_true(recv(fd, &answer, sizeof(answer), 0) > 0);
	assert_int_equal(answer.error.error, 0);
	close(fd);
}

void net_frame(uint8_t *frame, size_t bytes, uint32_t number)
{
	assert_true(bytes >= ETHER_BYTES + sizeof(number));
	memcpy(frame, ether, sizeof(ether));
	memcpy(frame + ETHER_BYTES, &number, sizeof(number));
	for (size_t i = ETHER_BYTES + sizeof(number); i < bytes; i++)
		frame[i] = (uint8_t)(i * 7 + number);
}

void net_check_frame(const uint8_t *frame, size_t bytes, uint32_t number)
{
	uint8_t want[65536];

	assert_true(bytes <= sizeof(want));
	net_frame(want, bytes, number);
	assert_memory_equal(frame, want, bytes);
}

void net_wire_send(struct net_fixture *f, const void *frame, size_t bytes)
{
	struct net_header h = { .flags = 0 };
	struct iovec iov[2] = { { &h, 10 }, { (void *)frame, bytes } };

	assert_int_equal(writev(f->wire, iov, 2), 10 + bytes);
}

/* The next frame, header first, of any type; 0: none within ms. */
static size_t receive(struct net_fixture *f, void *buf, size_t bytes, int ms)
{
	struct pollfd p = { .fd = f->wire, .events = POLLIN };
	ssize_t got;

	if (poll(&p, 1, ms) != 1)
		return 0;
	got = recv(f->wire, buf, bytes, 0);
	assert_true(got > 10);
	return (size_t)got;
}

size_t net_wire_receive(struct net_fixture *f, uint16_t type, void *buf,
			size_t bytes)
{
	uint8_t frame[10 + 65536 + 64];
	size_t got;

	do {
		got = receive(f, frame, sizeof(frame), VDRV_PATIENCE_S * 1000);
		assert_true(got >= 10 + ETHER_BYTES);
	} while (frame[10 + 12] << 8 != (type & 0xff00) ||
		 frame[10 + 13] != (type & 0xff));
	assert_true(got <= bytes);
	memcpy(buf, frame, got);
	return got;
}

uint16_t net_send(struct net_fixture *f, const struct net_header *h,
		  const void *frame, size_t bytes)
{
	struct vdrv_piece p = { .gpa = vdrv_alloc(&f->d, sizeof(*h) + bytes),
				.bytes = (uint32_t)(sizeof(*h) + bytes) };

	memcpy(vdrv_hva(&f->d, p.gpa), h, sizeof(*h));
	memcpy(vdrv_hva(&f->d, p.gpa) + sizeof(*h), frame, bytes);
	return vdrv_add(&f->d, NET_TX, &p, 1);
}

uint16_t net_give(struct net_fixture *f, uint32_t bytes, uint64_t *ret_gpa)
{
	struct vdrv_piece p = { .gpa = vdrv_alloc(&f->d, bytes),
				.bytes = bytes,
				.is_writable = true };

	*ret_gpa = p.gpa;
	return vdrv_add(&f->d, NET_RX, &p, 1);
}

uint16_t net_status(struct net_fixture *f)
{
	uint16_t status;

	pthread_mutex_lock(&f->n->v.config_lock);
	memcpy(&status, f->n->v.config + 6, sizeof(status));
	pthread_mutex_unlock(&f->n->v.config_lock);
	return status;
}
