/*
 * The guest reads and writes its disk with memory that is not there yet: data,
 * headers, status bytes and the rings themselves arrive late, through a
 * userfaultfd, while requests are on their way. All must be right in the end, one that
 * waits keeps nobody else from going on, and who waits is a thread of our own.
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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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
	/* Pages that stay away. */
	_Atomic uint64_t held_page;
	_Atomic uint64_t held_pages;
	atomic_uint nr_faults;
	atomic_uint nr_held;
	atomic_uint nr_kernel_faults; /* of threads that io_uring made */
};

static int open_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_THREAD_ID };
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

static bool is_held(struct late *l, uint64_t page)
{
	return page - atomic_load(&l->held_page) < atomic_load(&l->held_pages);
}

static bool is_of_io_uring(uint32_t tid)
{
	char path[64], name[16] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%u/comm", tid);
	f = fopen(path, "r");
	if (!f || !fgets(name, sizeof(name), f))
		abort();
	fclose(f);
	return strncmp(name, "iou-", 4) == 0;
}

static void on_fault(struct late *l)
{
	struct uffd_msg m;
	uint64_t page;

	if (read(l->uffd, &m, sizeof(m)) != sizeof(m))
		return;
	page = (m.arg.pagefault.address - (uintptr_t)l->ram) / PAGE;
	atomic_fetch_add(&l->nr_faults, 1);
	if (is_of_io_uring(m.arg.pagefault.feat.ptid))
		atomic_fetch_add(&l->nr_kernel_faults, 1);
	if (is_held(l, page)) {
		atomic_fetch_add(&l->nr_held, 1);
		return;
	}
	usleep(300);
	install(l, page);
}

static void hold_pages(struct late *l, uint64_t page, uint64_t nr)
{
	atomic_store(&l->held_page, page);
	atomic_store(&l->held_pages, nr);
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
	vm_mem_hold(t->d.vm->mem);
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

/* Requests of one kind. */
struct kind {
	uint32_t type;
	bool direct;
	unsigned int shift; /* of the data in its page; O_DIRECT wants 0 */
};

static const struct kind reads = { BLK_T_IN, false, 0 };
static const struct kind writes = { BLK_T_OUT, false, 0 };
static const struct kind direct_reads = { BLK_T_IN, true, 0 };
static const struct kind direct_writes = { BLK_T_OUT, true, 0 };
static const struct kind bounced_reads = { BLK_T_IN, true, 24 };
static const struct kind bounced_writes = { BLK_T_OUT, true, 24 };

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

/*
 * A device with NR_REQUESTS requests, whose memory is missing; of their data nr_held
 * pages from first_held on stay away. Returns the data's gpa.
 */
static uint64_t begin(struct blkt *t, struct late *l, const struct kind *k,
		      uint64_t first_held, uint64_t nr_held)
{
	const struct blkt_options o = { .bytes = NR_REQUESTS * REQUEST_BYTES,
					.direct = k->direct };
	int uffd = open_uffd();
	uint64_t gpa;

	if (uffd < 0)
		skip();
	blkt_open(t, &o);
	blkt_image_fill(t, 7);
	vdrv_pause(&t->d);
	gpa = submit_many(t, k->type, k->shift);
	late_start(l, t, uffd);
	hold_pages(l, gpa / PAGE + first_held, nr_held);
	vdrv_resume(&t->d);
	return gpa;
}

static void wait_for_held(struct late *l)
{
	while (atomic_load(&l->nr_held) == 0) /* its thread may be late */
		usleep(1000);
}

static void let_come(struct late *l, uint64_t page)
{
	hold_pages(l, 0, 0);
	install(l, page);
}

static void end(struct blkt *t, struct late *l)
{
	vdrv_pause(&t->d);
	late_stop(l);
	blkt_close(t);
}

static void all_missing(const struct kind *k)
{
	struct blkt t;
	struct late l;
	uint64_t gpa = begin(&t, &l, k, 0, 0);

	wait_for(&t, NR_REQUESTS);
	check_all(&t, gpa);
	assert_true(atomic_load(&l.nr_faults) > NR_REQUESTS);
	assert_int_equal(atomic_load(&l.nr_kernel_faults), 0);
	end(&t, &l);
}

static void test_reads_into_missing_memory(void **state)
{
	(void)state;
	all_missing(&reads);
}

static void test_writes_from_missing_memory(void **state)
{
	(void)state;
	all_missing(&writes);
}

static void test_direct_reads_into_missing_memory(void **state)
{
	(void)state;
	all_missing(&direct_reads);
}

static void test_direct_writes_from_missing_memory(void **state)
{
	(void)state;
	all_missing(&direct_writes);
}

static void test_bounced_reads_into_missing_memory(void **state)
{
	(void)state;
	all_missing(&bounced_reads);
}

static void test_bounced_writes_from_missing_memory(void **state)
{
	(void)state;
	all_missing(&bounced_writes);
}

#define HELD 7 /* a page of the second request's */

/* One page does not come: its request waits, all others go on. */
static void one_held(const struct kind *k)
{
	struct blkt t;
	struct late l;
	uint64_t gpa = begin(&t, &l, k, HELD, 1);

	wait_for(&t, NR_REQUESTS - 1);
	wait_for_held(&l);
	let_come(&l, gpa / PAGE + HELD);
	wait_for(&t, 1);
	check_all(&t, gpa);
	end(&t, &l);
}

static void test_one_missing_page_holds_up_one_read(void **state)
{
	(void)state;
	one_held(&reads);
}

static void test_one_missing_page_holds_up_one_write(void **state)
{
	(void)state;
	one_held(&writes);
}

static void test_one_missing_page_holds_up_one_direct_read(void **state)
{
	(void)state;
	one_held(&direct_reads);
}

static void test_one_missing_page_holds_up_one_direct_write(void **state)
{
	(void)state;
	one_held(&direct_writes);
}

static void test_one_missing_page_holds_up_one_bounced_read(void **state)
{
	(void)state;
	one_held(&bounced_reads);
}

static void test_one_missing_page_holds_up_one_bounced_write(void **state)
{
	(void)state;
	one_held(&bounced_writes);
}

/* A write whose chain has writable memory besides, of which not a page comes. */
static void test_what_is_not_asked_for_is_not_touched(void **state)
{
	const struct blkt_options o = { .bytes = MIB };
	int uffd = open_uffd();
	struct blkt t;
	struct late l;
	uint64_t data, beside;

	(void)state;
	if (uffd < 0)
		skip();
	blkt_open(&t, &o);
	vdrv_pause(&t.d);
	data = vdrv_alloc(&t.d, PAGE);
	beside = vdrv_alloc(&t.d, MIB);
	blkt_submit_pieces(&t, 0, 0, BLK_T_OUT, 0,
			   (struct vdrv_piece[]){ { data, PAGE, false },
						  { beside, MIB, true } },
			   2);
	late_start(&l, &t, uffd);
	hold_pages(&l, beside / PAGE, MIB / PAGE);
	vdrv_resume(&t.d);
	wait_for(&t, 1);
	assert_int_equal(blkt_status(&t, 0, 0), BLK_S_OK);
	assert_int_equal(atomic_load(&l.nr_held), 0);
	end(&t, &l);
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
	struct pauser p = { 0 };
	pthread_t thread;
	struct blkt t;
	struct late l;
	uint64_t gpa = begin(&t, &l, &reads, HELD, 1);

	(void)state;
	wait_for_held(&l);
	p.t = &t;
	assert_int_equal(pthread_create(&thread, NULL, pause_device, &p), 0);
	usleep(20000);
	assert_false(atomic_load(&p.done));
	let_come(&l, gpa / PAGE + HELD);
	pthread_join(thread, NULL);
	assert_int_equal(t.blk->nr_taken, 0);
	assert_int_equal(t.d.dev->queues[0].next_avail,
			 t.d.dev->queues[0].next_used);
	vdrv_resume(&t.d);
	wait_for(&t, NR_REQUESTS);
	check_all(&t, gpa);
	end(&t, &l);
}

/* What runs in the process that is killed: its data never comes. */
static void wait_to_be_killed(const struct kind *k)
{
	struct blkt t;
	struct late l;

	begin(&t, &l, k, 0, NR_REQUESTS * REQUEST_BYTES / PAGE);
	unlink(t.path);
	wait_for_held(&l);
	assert_int_equal(write(STDOUT_FILENO, "w", 1), 1);
	pause();
}

static pid_t start_victim(const char *what, int *ret_out)
{
	int out[2];
	pid_t pid;

	assert_int_equal(pipe(out), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		execl("/proc/self/exe", "victim", what, NULL);
		_exit(127);
	}
	close(out[1]);
	*ret_out = out[0];
	return pid;
}

static bool has_ended(pid_t pid)
{
	int status;

	return waitpid(pid, &status, WNOHANG) == pid;
}

/*
 * The kernel closes the userfaultfd of a process that was killed when its last
 * thread has ended. Were there a thread that only the userfaultfd can wake, and a
 * kill cannot, they would wait for each other for good. That is rare: what keeps it
 * from happening is that no thread of the kernel's has faults (all_missing).
 */
static void killed_while_waiting(const char *what)
{
	int uffd = open_uffd(), out;
	char byte;
	pid_t pid;

	if (uffd < 0)
		skip();
	close(uffd);
	pid = start_victim(what, &out);
	if (read(out, &byte, 1) != 1)
		fail_msg("the process to be killed ended by itself");
	close(out);
	assert_int_equal(kill(pid, SIGKILL), 0);
	for (int i = 0; !has_ended(pid); i++) {
		if (i > VDRV_PATIENCE_S * 1000)
			fail_msg("killed process %d does not end", (int)pid);
		usleep(1000);
	}
}

static void test_killed_while_reads_wait(void **state)
{
	(void)state;
	killed_while_waiting("reads");
}

static void test_killed_while_writes_wait(void **state)
{
	(void)state;
	killed_while_waiting("writes");
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_into_missing_memory),
		cmocka_unit_test(test_writes_from_missing_memory),
		cmocka_unit_test(test_direct_reads_into_missing_memory),
		cmocka_unit_test(test_direct_writes_from_missing_memory),
		cmocka_unit_test(test_bounced_reads_into_missing_memory),
		cmocka_unit_test(test_bounced_writes_from_missing_memory),
		cmocka_unit_test(test_one_missing_page_holds_up_one_read),
		cmocka_unit_test(test_one_missing_page_holds_up_one_write),
		cmocka_unit_test(
			test_one_missing_page_holds_up_one_direct_read),
		cmocka_unit_test(
			test_one_missing_page_holds_up_one_direct_write),
		cmocka_unit_test(test_what_is_not_asked_for_is_not_touched),
		cmocka_unit_test(
			test_one_missing_page_holds_up_one_bounced_read),
		cmocka_unit_test(
			test_one_missing_page_holds_up_one_bounced_write),
		cmocka_unit_test(test_stop_waits_for_the_page),
		cmocka_unit_test(test_killed_while_reads_wait),
		cmocka_unit_test(test_killed_while_writes_wait),
	};

	if (argc > 1)
		wait_to_be_killed(strcmp(argv[1], "writes") ? &reads : &writes);

	return cmocka_run_group_tests(tests, NULL, NULL);
}
