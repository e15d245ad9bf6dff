/*
 * tests/lab/linux/load/clock.c: how far two clocks are apart, as NTP does it (RFC
 * 5905 section 8): one end tells its time, the other takes the exchange that came
 * back soonest, in the middle of which the time was told.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define EXCHANGES 100
#define LOST_S    1 /* an answer that takes longer */

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int load_clock(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET }, from;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 2)
		return -1;
	a.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		load_wrong("bind: %s", strerror(errno));
	for (;;) {
		socklen_t bytes = sizeof(from);
		int64_t message[2]; /* the question's number, the time */

		if (recvfrom(fd, message, sizeof(message), 0,
			     (struct sockaddr *)&from, &bytes) < 0)
			load_wrong("recvfrom: %s", strerror(errno));
		message[1] = now_ns();
		sendto(fd, message, sizeof(message), 0,
		       (struct sockaddr *)&from, bytes);
		load_round(sizeof(message));
	}
}

/* False: no answer to this question. */
static int exchange(int fd, int64_t number, int64_t *ret_offset_ns,
		    int64_t *ret_trip_ns)
{
	int64_t message[2] = { number, 0 }, sent = now_ns(), received;

	if (send(fd, message, sizeof(message), 0) < 0)
		return 0;
	do {
		if (recv(fd, message, sizeof(message), 0) < 0)
			return 0;
	} while (message[0] != number);
	received = now_ns();
	*ret_trip_ns = received - sent;
	*ret_offset_ns = message[1] - sent - *ret_trip_ns / 2;
	return 1;
}

/* Prints by how much the other clock is ahead, and the doubt. */
int load_offset(int argc, char **argv)
{
	struct timeval patience = { .tv_sec = LOST_S };
	struct sockaddr_in a = { .sin_family = AF_INET };
	int64_t best_ns = INT64_MAX, best_offset_ns = 0;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 3)
		return -1;
	a.sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10));
	if (inet_pton(AF_INET, argv[1], &a.sin_addr) != 1 ||
	    connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		load_wrong("%s: %s", argv[1], strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (int i = 0; i < EXCHANGES; i++) {
		int64_t offset_ns, trip_ns;

		if (exchange(fd, i, &offset_ns, &trip_ns) &&
		    trip_ns < best_ns) {
			best_ns = trip_ns;
			best_offset_ns = offset_ns;
		}
	}
	if (best_ns == INT64_MAX)
		load_wrong("no answer from %s", argv[1]);
	printf("%.6f %.6f\n", (double)best_offset_ns / 1e9,
	       (double)best_ns / 2e9);
	exit(0);
}
