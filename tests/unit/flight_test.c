/* What is on its way in postcopy is bounded, and not by more than the path needs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/flight.h"
#include "migrate/net.h"

#define MIB         (UINT64_C(1) << 20)
#define BATCH_BYTES (128u << 10)
#define BATCHES     300
#define PAUSE_US    300

static void test_two_round_trips(void **state)
{
	(void)state;
	/* 1 GB/s over 1 ms, 100 MB/s over 100 ms: 1 and 10 MB a round trip */
	assert_int_equal(mig_flight_bytes(20000000, 20000, 1000), 2000000);
	assert_int_equal(mig_flight_bytes(20000000, 200000, 100000), 20000000);
}

static void test_never_too_little_nor_too_much(void **state)
{
	(void)state;
	assert_int_equal(mig_flight_bytes(0, 20000, 1000),
			 MIG_FLIGHT_BYTES_MIN);
	assert_int_equal(mig_flight_bytes(MIB, 0, 1000), MIG_FLIGHT_BYTES_MIN);
	assert_int_equal(mig_flight_bytes(MIB, 20000, 0), MIG_FLIGHT_BYTES_MIN);
	assert_int_equal(mig_flight_bytes(UINT64_MAX, 1, UINT32_MAX),
			 MIG_FLIGHT_BYTES_MAX);
}

/*
 * A path of 10 GB/s and 50 ms: full bandwidth within 2 seconds, and a queue of one
 * round trip at most. A new window shows a round trip later, a look spans two.
 */
static void test_a_long_path_is_filled(void **state)
{
	const double path_per_us = 10000;
	const uint32_t rtt_us = 50000;
	double window = MIG_FLIGHT_BYTES_MIN, before = window, rate = 0;

	(void)state;
	for (int look = 0; look < 20; look++) {
		rate = (before + window) / 2 / rtt_us;
		if (rate > path_per_us)
			rate = path_per_us;
		before = window;
		window = mig_flight_bytes((uint64_t)(rate * 2 * rtt_us),
					  (uint64_t)2 * rtt_us, rtt_us);
	}
	assert_true(rate == path_per_us);
	assert_true(window <= 2 * path_per_us * rtt_us);
}

/* A sender that never has enough, and a receiver that takes its time. */
struct path {
	int sender, receiver;
	pthread_t thread;
};

static void *send_all(void *arg)
{
	static const uint8_t batch[BATCH_BYTES];
	struct path *p = arg;

	while (mig_net_write(p->sender, batch, sizeof(batch)) == 0)
		;
	return NULL;
}

static void open_path(struct path *p)
{
	struct mig_addr addr;
	uint16_t port;
	char uri[40];
	int fd;

	assert_int_equal(mig_addr_parse("tcp://127.0.0.1:0", &addr), 0);
	assert_int_equal(mig_net_listen(&addr, &fd, &port, NULL), 0);
	snprintf(uri, sizeof(uri), "tcp://127.0.0.1:%u", port);
	assert_int_equal(mig_addr_parse(uri, &addr), 0);
	assert_int_equal(mig_net_connect(&addr, &p->sender, NULL), 0);
	p->receiver = accept(fd, NULL, NULL);
	assert_true(p->receiver >= 0);
	close(fd);
	assert_int_equal(pthread_create(&p->thread, NULL, send_all, p), 0);
}

static void close_path(struct path *p)
{
	shutdown(p->receiver, SHUT_RDWR);
	close(p->receiver);
	pthread_join(p->thread, NULL);
	close(p->sender);
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, name, &value, &len), 0);
	return value;
}

static uint64_t on_its_way(const struct path *p)
{
	int sent = 0, come = 0;

	assert_int_equal(ioctl(p->sender, SIOCOUTQ, &sent), 0);
	assert_int_equal(ioctl(p->receiver, SIOCINQ, &come), 0);
	return (uint64_t)sent + (uint64_t)come;
}

/* What was on its way on average, once it has settled; f: as postcopy does it. */
static uint64_t receive(const struct path *p, struct mig_flight *f)
{
	static uint8_t batch[BATCH_BYTES];
	uint64_t sum = 0;

	for (int i = 0; i < BATCHES; i++) {
		if (i >= BATCHES / 2)
			sum += on_its_way(p);
		assert_int_equal(
			mig_net_read(p->receiver, batch, sizeof(batch)), 0);
		if (f)
			mig_flight_took(f, p->receiver, sizeof(batch),
					mig_now_us());
		usleep(PAUSE_US);
	}
	return sum / (BATCHES - BATCHES / 2);
}

static uint64_t average_on_its_way(struct mig_flight *f)
{
	struct path p;
	uint64_t bytes;

	open_path(&p);
	if (f)
		mig_flight_bound_unsent(p.sender);
	bytes = receive(&p, f);
	if (f) {
		assert_int_equal(option(p.sender, TCP_NOTSENT_LOWAT),
				 MIG_FLIGHT_UNSENT_MAX);
		if (f->window_bytes != 0)
			assert_int_equal(option(p.receiver, TCP_WINDOW_CLAMP),
					 f->window_bytes);
	}
	close_path(&p);
	return bytes;
}

static void test_what_is_on_its_way(void **state)
{
	struct mig_flight f = { 0 };
	uint64_t unbounded = average_on_its_way(NULL);
	uint64_t bounded = average_on_its_way(&f);

	(void)state;
	print_message("on its way: %llu bytes, bounded %llu\n",
		      (unsigned long long)unbounded,
		      (unsigned long long)bounded);
	assert_true(bounded < unbounded);
	if (f.window_bytes == 0)
		skip(); /* of the rest: Linux before 6.7 */
	assert_true(f.window_bytes >= MIG_FLIGHT_BYTES_MIN);
}

/* A pause in the data says little about the path. */
static void test_it_at_most_halves(void **state)
{
	struct mig_flight f = { 0 };
	struct path p;

	(void)state;
	open_path(&p);
	mig_flight_took(&f, p.receiver, 0, 1);
	if (f.window_bytes != 0) {
		f.window_bytes = 64 * MIB;
		mig_flight_took(&f, p.receiver, 0, 1000001);
		assert_int_equal(f.window_bytes, 32 * MIB);
	}
	close_path(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_two_round_trips),
		cmocka_unit_test(test_never_too_little_nor_too_much),
		cmocka_unit_test(test_a_long_path_is_filled),
		cmocka_unit_test(test_what_is_on_its_way),
		cmocka_unit_test(test_it_at_most_halves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
