/*
 * The guest reads and writes its disk with memory that is not there yet: data,
 * headers, status bytes and the rings themselves arrive late, through a
 * userfaultfd, while requests are on their way. All must be right in the end, and
 * nobody who could go on waits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/virtio_blk_fixture.h"

#define PAGE 4096u

/* RAM whose pages come from a copy, late; some not before they are let. */
struct late {
	int uffd;
	int quit[2];
	pthread_t thread;
	uint8_t *ram;
	uint64_t bytes;
	uint8_t *copy;
	_Atomic uint64_t held_page; /* stays away; 0: none */
	atomic_uint nr_faults;
	atomic_uint nr_held;
};

static int open_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	int fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW,
				     O_CLOEXEC | O_NONBLOCK)
			     : (int)syscall(SYS_userfaultfd,
					    O_CLOEXEC | O_NONBLOCK);

	if (device >= 0)
		close(device);
	if (fd < 0) {
		print_message("no userfaultfd here: %s\n", strerror(errno));
		return -1;
	}
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	return fd;
}

static void install(struct late *l, uint64_t page)
{
	struct uffdio_copy c = { .dst = (uintptr_t)l->ram + page * PAGE,
				 .src = (uintptr_t)l->copy + page * PAGE,
				 .len = PAGE };

	/* EEXIST: it came already, for another's fault. */
	while (ioctl(l->uffd, UFFDIO_COPY, &c) < 0 && errno == EAGAIN)
		c.copy = 0;
}

static void on_fault(struct late *l)
{
	struct uffd_msg m;
	uint64_t page;

	if (read(l->uffd, &m, sizeof(m)) != sizeof(m))
		return;
	page = (m.arg.pagefault.address - (uintptr_t)l->ram) / PAGE;
	atomic_fetch_add(&l->nr_faults, 1);
	if (page == atomic_load(&l->held_page)) {
		atomic_fetch_add(&l->nr_held, 1);
		return;
	}
	usleep(300);
	install(l, page);
}

static void *serve_faults(void *arg)
{
	struct late *l = arg;
	struct pollfd p[2] = { { .fd = l->uffd, .events = POLLIN },
			       { .fd = l->quit[0], .events = POLLIN } };

	while (poll(p, 2, -1) >= 0 && !p[1].revents)
		if (p[0].revents)
			on_fault(l);
	return NULL;
}

/* Takes all of the guest's memory away; the device is stopped. */
static void late_start(struct late *l, struct blkt *t, int uffd)
{
	struct uffdio_register reg;

	memset(l, 0, sizeof(*l));
	l->uffd = uffd;
	l->ram = vm_mem_base(t->d.vm->mem);
	l->bytes = vm_mem_bytes(t->d.vm->mem);
	l->copy = malloc(l->bytes);
	assert_non_null(l->copy);
	memcpy(l->copy, l->ram, l->bytes);
	reg = (struct uffdio_register){ .range = { (uintptr_t)l->ram,
						   l->bytes },
					.mode = UFFDIO_REGISTER_MODE_MISSING };
	assert_int_equal(ioctl(l->uffd, UFFDIO_REGISTER, &reg), 0);
	assert_int_equal(madvise(l->ram, l->bytes, MADV_DONTNEED), 0);
	assert_int_equal(pipe(l->quit), 0);
	assert_int_equal(pthread_create(&l->thread, NULL, serve_faults, l), 0);
}

static void late_stop(struct late *l)
{
	assert_int_equal(write(l->quit[1], "q", 1), 1);
	pthread_join(l->thread, NULL);
	close(l->quit[0]);
	close(l->quit[1]);
	close(l->uffd);
	free(l->copy);
}

#define NR_REQUESTS   48
#define REQUEST_BYTES (20 * KIB)

/* Submits reads, or writes, with the device stopped; returns the data's gpa. */
static uint64_t submit_many(struct blkt *t, uint32_t type, unsigned int shift)
{
	uint64_t gpa = vdrv_alloc(&t->d, NR_REQUESTS * REQUEST_BYTES + PAGE) +
		       shift;

	if (type == BLK_T_OUT)
		blkt_pattern(vdrv_hva(&t->d, gpa), 0,
			     NR_REQUESTS * REQUEST_BYTES, 77);
	for (unsigned int i = 0; i < NR_REQUESTS; i++) {
		uint64_t at = gpa + i * REQUEST_BYTES;
		bool in = type == BLK_T_IN;
		const struct vdrv_piece pieces[] = {
			{ at, 3 * PAGE, in },
			{ at + 3 * PAGE, REQUEST_BYTES - 3 * PAGE, in }
		};

		blkt_submit_pieces(t, 0, i, type, i * REQUEST_BYTES / 512,
				   pieces, 2);
	}
	return gpa;
}

static void wait_for(struct blkt *t, unsigned int nr)
{
	uint16_t head;
	uint32_t bytes;

	for (int i = 0; nr > 0; i++) {
		if (vdrv_used(&t->d, 0, &head, &bytes))
			nr--;
		else if (i > VDRV_PATIENCE_S * 10000)
			fail_msg("%u requests never ended", nr);
		else
			usleep(100);
	}
}

static void check_all(struct blkt *t, uint64_t gpa)
{
	for (unsigned int i = 0; i < NR_REQUESTS; i++)
		assert_int_equal(blkt_status(t, 0, i), BLK_S_OK);
	blkt_assert_image(t, 0, vdrv_hva(&t->d, gpa),
			  NR_REQUESTS * REQUEST_BYTES);
}

static void all_missing(uint32_t type, bool direct, unsigned int shift)
{
	const struct blkt_options o = { .bytes = NR_REQUESTS * REQUEST_BYTES,
					.direct = direct };
	int uffd = open_uffd();
	struct blkt t;
	struct late l;
	uint64_t gpa;

	if (uffd < 0)
		skip();
	blkt_open(&t, &o);
	blkt_image_fill(&t, 7);
	vdrv_pause(&t.d);
	gpa = submit_many(&t, type, shift);
	late_start(&l, &t, uffd);
	vdrv_resume(&t.d);
	wait_for(&t, NR_REQUESTS);
	check_all(&t, gpa);
	assert_true(atomic_load(&l.nr_faults) > NR_REQUESTS);
	vdrv_pause(&t.d);
	late_stop(&l);
	blkt_close(&t);
}

static void test_reads_into_missing_memory(void **state)
{
	(void)state;
	all_missing(BLK_T_IN, false, 0);
}

static void test_writes_from_missing_memory(void **state)
{
	(void)state;
	all_missing(BLK_T_OUT, false, 0);
}

static void test_direct_reads_into_missing_memory(void **state)
{
	(void)state;
	all_missing(BLK_T_IN, true, 0);
}

static void test_direct_writes_from_missing_memory(void **state)
{
	(void)state;
	all_missing(BLK_T_OUT, true, 0);
}

static void test_bounced_reads_into_missing_memory(void **state)
{
	(void)state;
	all_missing(BLK_T_IN, true, 24);
}

static void test_bounced_writes_from_missing_memory(void **state)
{
	(void)state;
	all_missing(BLK_T_OUT, true, 24);
}

/*
 * One page does not come: its read waits, all others go on. (Writes to the same
 * file may wait with it: file systems hold the file's lock while they fetch what
 * is to be written.)
 */
static void one_held(bool direct)
{
	const struct blkt_options o = { .bytes = NR_REQUESTS * REQUEST_BYTES,
					.direct = direct };
	int uffd = open_uffd();
	struct blkt t;
	struct late l;
	uint64_t gpa, page;

	if (uffd < 0)
		skip();
	blkt_open(&t, &o);
	blkt_image_fill(&t, 7);
	vdrv_pause(&t.d);
	gpa = submit_many(&t, BLK_T_IN, 0);
	late_start(&l, &t, uffd);
	page = gpa / PAGE + 7; /* the second request's */
	atomic_store(&l.held_page, page);
	vdrv_resume(&t.d);
	wait_for(&t, NR_REQUESTS - 1);
	while (atomic_load(&l.nr_held) == 0) /* its thread may be late */
		usleep(1000);
	atomic_store(&l.held_page, 0);
	install(&l, page);
	wait_for(&t, 1);
	check_all(&t, gpa);
	vdrv_pause(&t.d);
	late_stop(&l);
	blkt_close(&t);
}

static void test_one_missing_page_holds_up_one_read(void **state)
{
	(void)state;
	one_held(false);
}

static void test_one_missing_page_holds_up_one_direct_read(void **state)
{
	(void)state;
	one_held(true);
}

struct pauser {
	struct blkt *t;
	atomic_bool done;
};

static void *pause_device(void *arg)
{
	struct pauser *p = arg;

	vdrv_pause(&p->t->d);
	atomic_store(&p->done, true);
	return NULL;
}

/* A stop waits for the page that a request waits for, and then comes to rest. */
static void test_stop_waits_for_the_page(void **state)
{
	const struct blkt_options o = { .bytes = NR_REQUESTS * REQUEST_BYTES };
	int uffd = open_uffd();
	struct pauser p = { 0 };
	pthread_t thread;
	struct blkt t;
	struct late l;
	uint64_t gpa, page;

	(void)state;
	if (uffd < 0)
		skip();
	blkt_open(&t, &o);
	blkt_image_fill(&t, 7);
	vdrv_pause(&t.d);
	gpa = submit_many(&t, BLK_T_IN, 0);
	late_start(&l, &t, uffd);
	page = gpa / PAGE + 7;
	atomic_store(&l.held_page, page);
	vdrv_resume(&t.d);
	while (atomic_load(&l.nr_held) == 0)
		usleep(1000);
	p.t = &t;
	assert_int_equal(pthread_create(&thread, NULL, pause_device, &p), 0);
	usleep(20000);
	assert_false(atomic_load(&p.done));
	atomic_store(&l.held_page, 0);
	install(&l, page);
	pthread_join(thread, NULL);
	assert_int_equal(t.blk->nr_taken, 0);
	assert_int_equal(t.d.dev->queues[0].next_avail,
			 t.d.dev->queues[0].next_used);
	vdrv_resume(&t.d);
	wait_for(&t, NR_REQUESTS);
	check_all(&t, gpa);
	vdrv_pause(&t.d);
	late_stop(&l);
	blkt_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_into_missing_memory),
		cmocka_unit_test(test_writes_from_missing_memory),
		cmocka_unit_test(test_direct_reads_into_missing_memory),
		cmocka_unit_test(test_direct_writes_from_missing_memory),
		cmocka_unit_test(test_bounced_reads_into_missing_memory),
		cmocka_unit_test(test_bounced_writes_from_missing_memory),
		cmocka_unit_test(test_one_missing_page_holds_up_one_read),
		cmocka_unit_test(
			test_one_missing_page_holds_up_one_direct_read),
		cmocka_unit_test(test_stop_waits_for_the_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
