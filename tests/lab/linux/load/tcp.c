/*
 * tests/lab/linux/load/tcp.c: connections that stay: one end says something and
 * the other says it again. Both ends see every byte, in order.
 */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MESSAGE_BYTES (8 * PAGE_BYTES)
#define PAUSE_US      2000

static struct sockaddr_in address(const char *host, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET };

	a.sin_port = htons((uint16_t)strtoul(port, NULL, 10));
	if (host && inet_pton(AF_INET, host, &a.sin_addr) != 1)
		load_wrong("no address: %s", host);
	return a;
}

static void send_all(int fd, const char *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL);

		if (n <= 0)
			load_wrong("send: %s", strerror(errno));
		data += n;
		bytes -= (size_t)n;
	}
}

static void receive_all(int fd, char *data, size_t bytes)
{
	ssize_t n = recv(fd, data, bytes, MSG_WAITALL);

	if (n != (ssize_t)bytes)
		load_wrong("receive: %zd of %zu bytes: %s", n, bytes,
			   n < 0 ? strerror(errno) : "closed");
}

static _Noreturn void answer(int fd)
{
	char *buffer = load_memory(MESSAGE_BYTES);

	for (uint64_t seq = 0;; seq++) {
		receive_all(fd, buffer, MESSAGE_BYTES);
		load_check(buffer, MESSAGE_BYTES, 1, seq, "received");
		load_fill(buffer, MESSAGE_BYTES, 2, seq);
		send_all(fd, buffer, MESSAGE_BYTES);
		load_round(MESSAGE_BYTES);
	}
}

int load_serve(int argc, char **argv)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, connection;
	struct sockaddr_in a;

	if (argc != 2)
		return -1;
	a = address(NULL, argv[1]);
	signal(SIGCHLD, SIG_IGN);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    listen(fd, 16) < 0)
		load_wrong("listen: %s", strerror(errno));
	for (;;) {
		connection = accept(fd, NULL, NULL);
		if (connection < 0)
			load_wrong("accept: %s", strerror(errno));
		if (fork() == 0)
			answer(connection);
		close(connection);
	}
}

int load_talk(int argc, char **argv)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char *buffer = load_memory(MESSAGE_BYTES);
	struct sockaddr_in a;

	if (argc != 3)
		return -1;
	a = address(argv[1], argv[2]);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		load_wrong("connect: %s", strerror(errno));
	for (uint64_t seq = 0;; seq++) {
		load_fill(buffer, MESSAGE_BYTES, 1, seq);
		send_all(fd, buffer, MESSAGE_BYTES);
		receive_all(fd, buffer, MESSAGE_BYTES);
		load_check(buffer, MESSAGE_BYTES, 2, seq, "answered");
		load_round(MESSAGE_BYTES);
		usleep(PAUSE_US);
	}
}
