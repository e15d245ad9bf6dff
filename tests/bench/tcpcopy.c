/*
 * tests/bench/tcpcopy.c: how fast this host copies memory over loopback TCP.
 *
 *	tcpcopy BYTES STREAMS [WAY]
 *
 * One process sends BYTES of touched memory, another receives them into touched
 * memory, over STREAMS connections with a thread each: what a migration would
 * cost if it did nothing but move bytes. WAY: how it is sent (send_ways.h), else
 * "send". Prints one JSON object; cpu_s is of both processes while they move bytes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/send_ways.h"

#define STREAMS_MAX 64
#define CHUNK_BYTES ((size_t)1 << 20)

/* A connection and its share of the memory. */
struct stream {
	pthread_t thread;
	int fd;
	send_way *way;
	uint8_t *base;
	size_t bytes;
	int error; /* -errno, once joined */
};

struct copy {
	size_t bytes; /* in all, a multiple of nr_streams */
	unsigned int nr_streams;
	send_way *way;
	int listen_fd;
	struct sockaddr_in addr;
};

static void *send_share(void *arg)
{
	struct stream *s = arg;

	s->error = s->way(s->fd, s->base, s->bytes);
	return NULL;
}

static void *receive_share(void *arg)
{
	struct stream *s = arg;
	size_t done = 0;

	while (done < s->bytes) {
		size_t want = s->bytes - done;
		ssize_t n;

		if (want > CHUNK_BYTES)
			want = CHUNK_BYTES;
		n = recv(s->fd, s->base + done, want, 0);
		if (n <= 0) {
			s->error = n < 0 ? -errno : -ECONNRESET;
			break;
		}
		done += (size_t)n;
	}
	return NULL;
}

static int map_touched(size_t bytes, uint8_t **ret_base)
{
	uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED)
		return -errno;
	memset(base, 0x5a, bytes);
	*ret_base = base;
	return 0;
}

static int run_streams(const struct copy *c, uint8_t *base, const int *fds,
		       void *(*share)(void *))
{
	struct stream streams[STREAMS_MAX];
	unsigned int nr_started = 0;
	int ret = 0;

	for (; nr_started < c->nr_streams; nr_started++) {
		struct stream *s = &streams[nr_started];

		s->fd = fds[nr_started];
		s->way = c->way;
		s->bytes = c->bytes / c->nr_streams;
		s->base = base + nr_started * s->bytes;
		s->error = 0;
		ret = -pthread_create(&s->thread, NULL, share, s);
		if (ret < 0)
			break;
	}
	for (unsigned int i = 0; i < nr_started; i++) {
		pthread_join(streams[i].thread, NULL);
		if (ret == 0)
			ret = streams[i].error;
	}
	return ret;
}

/* Of this process so far. */
static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* The receiving process: memory first, so that connecting finds it ready. */
static int receiver(const struct copy *c)
{
	int fds[STREAMS_MAX];
	uint8_t *base;
	double used;
	int ret;

	ret = map_touched(c->bytes, &base);
	if (ret < 0)
		return ret;
	if (listen(c->listen_fd, STREAMS_MAX) < 0)
		return -errno;
	for (unsigned int i = 0; i < c->nr_streams; i++) {
		fds[i] = accept(c->listen_fd, NULL, NULL);
		if (fds[i] < 0)
			return -errno;
	}
	used = cpu_s();
	ret = run_streams(c, base, fds, receive_share);
	used = cpu_s() - used;
	if (ret == 0 && send(fds[0], &used, sizeof(used), MSG_NOSIGNAL) < 0)
		ret = -errno;
	return ret;
}

/* The peer touches its memory before it listens: until then, try again. */
static int connect_patiently(const struct sockaddr_in *addr, int *ret_fd)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };
	static const char reno[] = "reno"; /* a limit does not pace */
	int fd;

	for (int tries = 0; tries < 3000; tries++) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0)
			return -errno;
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, reno,
			   sizeof(reno) - 1);
		if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) ==
		    0) {
			*ret_fd = fd;
			return 0;
		}
		close(fd);
		nanosleep(&pause, NULL);
	}
	return -ETIMEDOUT;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int sender(const struct copy *c, double *ret_seconds, double *ret_cpu_s)
{
	int fds[STREAMS_MAX];
	uint8_t *base;
	double start, used, peer;
	int ret;

	ret = map_touched(c->bytes, &base);
	for (unsigned int i = 0; ret == 0 && i < c->nr_streams; i++)
		ret = connect_patiently(&c->addr, &fds[i]);
	if (ret < 0)
		return ret;
	used = cpu_s();
	start = now();
	ret = run_streams(c, base, fds, send_share);
	if (ret < 0)
		return ret;
	if (recv(fds[0], &peer, sizeof(peer), MSG_WAITALL) != sizeof(peer))
		return -ECONNRESET;
	*ret_seconds = now() - start;
	*ret_cpu_s = cpu_s() - used + peer;
	return 0;
}

static int bind_loopback(struct copy *c)
{
	socklen_t len = sizeof(c->addr);

	c->listen_fd = socket(AF_INET, SOCK_STREAM, 0);
	if (c->listen_fd < 0)
		return -errno;
	c->addr.sin_family = AF_INET;
	c->addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(c->listen_fd, (struct sockaddr *)&c->addr, len) < 0)
		return -errno;
	if (getsockname(c->listen_fd, (struct sockaddr *)&c->addr, &len) < 0)
		return -errno;
	return 0;
}

static bool parse(int argc, char **argv, struct copy *ret_copy)
{
	unsigned long long bytes;
	unsigned long streams;

	if (argc != 3 && argc != 4)
		return false;
	bytes = strtoull(argv[1], NULL, 10);
	streams = strtoul(argv[2], NULL, 10);
	if (bytes == 0 || streams == 0 || streams > STREAMS_MAX)
		return false;
	*ret_copy = (struct copy){ .bytes = bytes - bytes % streams,
				   .nr_streams = (unsigned int)streams,
				   .way = send_way_named(argc == 4 ? argv[3]
								   : "send") };
	return ret_copy->bytes > 0 && ret_copy->way;
}

int main(int argc, char **argv)
{
	struct copy c;
	double seconds = 0, used = 0;
	int status;
	pid_t pid;
	int ret;

	if (!parse(argc, argv, &c)) {
		fprintf(stderr,
			"usage: tcpcopy BYTES STREAMS(1..%d) "
			"[send|zerocopy|uring|"
			"uring-zc|uring-zc-fixed]\n",
			STREAMS_MAX);
		return 2;
	}
	ret = bind_loopback(&c);
	if (ret < 0)
		goto failed;
	pid = fork();
	if (pid < 0) {
		ret = -errno;
		goto failed;
	}
	if (pid == 0)
		_exit(receiver(&c) < 0);
	ret = sender(&c, &seconds, &used);
	if (waitpid(pid, &status, 0) == pid && status != 0 && ret == 0)
		ret = -EIO;
	if (ret < 0)
		goto failed;
	printf("{\"bytes\": %zu, \"streams\": %u, \"seconds\": %.6f, "
	       "\"bytes_per_s\": %.0f, \"cpu_s\": %.3f}\n",
	       c.bytes, c.nr_streams, seconds, (double)c.bytes / seconds, used);
	return 0;
failed:
	fprintf(stderr, "tcpcopy: %s\n", strerror(-ret));
	return 1;
}
