#include "migrate/flight.h"

#include <linux/tcp.h> /* netinet/tcp.h lacks tcpi_min_rtt */
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

/* Long enough to see a rate, and not less than a few round trips. */
#define LOOK_US   20000
#define LOOK_RTTS 2

uint32_t mig_flight_bytes(uint64_t bytes, uint64_t us, uint32_t rtt_us)
{
	double on_the_way = us ? 2.0 * (double)bytes / (double)us * rtt_us : 0;

	if (on_the_way < MIG_FLIGHT_BYTES_MIN)
		return MIG_FLIGHT_BYTES_MIN;
	if (on_the_way > MIG_FLIGHT_BYTES_MAX)
		return MIG_FLIGHT_BYTES_MAX;
	return (uint32_t)on_the_way;
}

/* Of who accepted the connection and sends nothing: that of the handshake. */
static uint32_t shortest_rtt_us(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    len < offsetof(struct tcp_info, tcpi_min_rtt) +
			    sizeof(info.tcpi_min_rtt) ||
	    info.tcpi_min_rtt == UINT32_MAX)
		return 0;
	return info.tcpi_min_rtt;
}

static bool is_time_to_look(const struct mig_flight *f, uint64_t now_us)
{
	uint64_t us = now_us - f->since_us;

	return f->since_us == 0 ||
	       (us >= LOOK_US && us >= LOOK_RTTS * (uint64_t)f->rtt_us);
}

/* See flight.h. */
static bool can_clamp(void)
{
	unsigned int major, minor;
	struct utsname u;

	return uname(&u) == 0 &&
	       sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 7));
}

/* It at most halves: there may just have been nothing to send. */
static void look(struct mig_flight *f, int fd, uint64_t now_us)
{
	uint64_t us = f->since_us ? now_us - f->since_us : 0;
	uint32_t bytes;

	f->rtt_us = shortest_rtt_us(fd);
	bytes = mig_flight_bytes(f->bytes, us, f->rtt_us);
	if (bytes < f->window_bytes / 2)
		bytes = f->window_bytes / 2;
	f->window_bytes = f->rtt_us != 0 && can_clamp() ? bytes : 0;
	f->since_us = now_us;
	f->bytes = 0;
}

void mig_flight_took(struct mig_flight *f, int fd, uint64_t bytes,
		     uint64_t now_us)
{
	f->bytes += bytes;
	if (is_time_to_look(f, now_us))
		look(f, fd, now_us);
	/* Each time anew: what was read may have had the kernel lift it. */
	if (f->window_bytes != 0)
		setsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &f->window_bytes,
			   sizeof(f->window_bytes));
}

void mig_flight_bound_unsent(int fd)
{
	int bytes = MIG_FLIGHT_UNSENT_MAX;

	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof(bytes));
}
