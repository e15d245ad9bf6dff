#include "uffd/uffd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "compat/linux.h"
#include "uffd/open.h"

#define FAULTS_PER_READ 16
/* A VMA each, where there are several lanes. */
#define STRIPES_PER_LANE 16
/* No huge page is cut: base is aligned to it. */
#define STRIPE_BYTES_MIN (2u << 20)

struct uffd_user {
	uffd_handler *handler; /* NULL: nobody */
	void *ctx;
};

/* A userfaultfd for every nr_lanes-th stripe of the mapping, and its thread. */
struct lane {
	struct uffd *u;
	int fd;
	pthread_t thread;
	bool started;
	/* Held while a handler runs, so that stop can wait for it. */
	pthread_mutex_t lock;
	struct uffd_user users[UFFD_NR_MODES];
};

struct uffd {
	/* Set by uffd_new(), constant after: any thread. */
	int quit_fd;   /* eventfd: the fault threads shall end */
	uint8_t *base; /* borrowed */
	size_t bytes;
	size_t page_bytes;
	uint64_t stripe_pages;
	void *zeros; /* a page of them for hugetlb, else NULL: see uffd_zero() */
	unsigned int nr_lanes;
	struct lane lanes[UFFD_LANES_MAX];
	atomic_uint protects; /* uffd_protect() to the handler: see there */
	atomic_bool cannot_move;
	/* Start and stop, one after the other; never taken by a fault thread. */
	pthread_mutex_t control;
	bool used[UFFD_NR_MODES]; /* under control, as is this: */
	uint64_t registered;      /* UFFDIO_REGISTER_MODE_* */
	bool whole;               /* all stripes have just these */
};

static const uint64_t register_mode[UFFD_NR_MODES] = {
	[UFFD_MISSING] = UFFDIO_REGISTER_MODE_MISSING,
	[UFFD_WP] = UFFDIO_REGISTER_MODE_WP,
};

static uint8_t *page_hva(const struct uffd *u, uint64_t page)
{
	return u->base + page * u->page_bytes;
}

static uint64_t all_pages(const struct uffd *u)
{
	return u->bytes / u->page_bytes;
}

static int check_range(const struct uffd *u, uint64_t page, uint64_t nr)
{
	uint64_t pages = all_pages(u);

	return page > pages || nr > pages - page ? -EINVAL : 0;
}

/* A stretch of one stripe: the kernel installs into one VMA in a call, for its lane. */
struct part {
	const struct lane *lane;
	uint64_t page;
	uint64_t nr;
	struct uffdio_range range;
};

/* The part of [page, +nr) that begins with page. */
static struct part first_part(const struct uffd *u, uint64_t page, uint64_t nr)
{
	uint64_t stripe = page / u->stripe_pages;
	uint64_t left = (stripe + 1) * u->stripe_pages - page;
	struct part p = { .lane = &u->lanes[stripe % u->nr_lanes],
			  .page = page,
			  .nr = nr < left ? nr : left };

	p.range.start = (uintptr_t)page_hva(u, page);
	p.range.len = p.nr * u->page_bytes;
	return p;
}

/* op for every part of [page, +nr), whatever fails. Returns the first error. */
static int for_parts(const struct uffd *u, uint64_t page, uint64_t nr,
		     int (*op)(const struct part *p, uint64_t mode),
		     uint64_t mode)
{
	int ret = 0;

	while (nr > 0) {
		struct part p = first_part(u, page, nr);
		int err = op(&p, mode);

		ret = ret < 0 ? ret : err;
		page += p.nr;
		nr -= p.nr;
	}
	return ret;
}

static int wake_part(const struct part *p, uint64_t unused)
{
	struct uffdio_range range = p->range;

	(void)unused;
	return ioctl(p->lane->fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

static int write_protect_part(const struct part *p, uint64_t mode)
{
	struct uffdio_writeprotect wp = { .range = p->range, .mode = mode };

	while (ioctl(p->lane->fd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		sched_yield(); /* the mapping is changing */
	}
	return 0;
}

static int write_protect(struct uffd *u, uint64_t page, uint64_t nr,
			 uint64_t mode)
{
	if (check_range(u, page, nr) < 0)
		return -EINVAL;
	return for_parts(u, page, nr, write_protect_part, mode);
}

int uffd_protect(struct uffd *u, uint64_t page, uint64_t nr)
{
	/* The order would come by way of the kernel, which C knows nothing of. */
	atomic_fetch_add_explicit(&u->protects, 1, memory_order_release);
	return write_protect(u, page, nr, UFFDIO_WRITEPROTECT_MODE_WP);
}

int uffd_unprotect(struct uffd *u, uint64_t page, uint64_t nr)
{
	return write_protect(u, page, nr, 0);
}

/*
 * One ioctl. Returns the bytes it installed, or -errno if that is none; after
 * a part the kernel says EAGAIN, and the reason shows at the next call.
 */
static int64_t copy_some(const struct part *p, const uint8_t *src, bool protect)
{
	struct uffdio_copy copy = {
		.dst = p->range.start,
		.src = (uintptr_t)src,
		.len = p->range.len,
		.mode = protect ? UFFDIO_COPY_MODE_WP : 0,
	};

	if (ioctl(p->lane->fd, UFFDIO_COPY, &copy) == 0)
		return (int64_t)p->range.len;
	return copy.copy > 0 ? copy.copy : -errno;
}

static int64_t zero_some(const struct part *p)
{
	struct uffdio_zeropage zero = { .range = p->range };

	if (ioctl(p->lane->fd, UFFDIO_ZEROPAGE, &zero) == 0)
		return (int64_t)p->range.len;
	return zero.zeropage > 0 ? zero.zeropage : -errno;
}

/*
 * src NULL: zeros. Goes on over pages that are already there; for those nobody
 * has woken the waiters, so it is done here.
 */
static int install(struct uffd *u, uint64_t page, uint64_t nr,
		   const uint8_t *src, bool protect)
{
	uint64_t end = page + nr;

	if (check_range(u, page, nr) < 0)
		return -EINVAL;
	while (page < end) {
		struct part p = first_part(u, page, end - page);
		int64_t done = src ? copy_some(&p, src, protect)
				   : zero_some(&p);

		if (done == -EAGAIN || done == -EINTR) {
			sched_yield(); /* the mapping is changing */
			continue;
		}
		if (done == -EEXIST) {
			for_parts(u, page, 1, wake_part, 0);
			done = (int64_t)u->page_bytes;
		}
		if (done < 0)
			return (int)done;
		page += (uint64_t)done / u->page_bytes;
		if (src)
			src += done;
	}
	return 0;
}

int uffd_copy(struct uffd *u, uint64_t page, uint64_t nr, const void *src,
	      bool protect)
{
	return install(u, page, nr, src, protect);
}

/* As copy_some(). What has been moved has left src. */
static int64_t move_some(const struct part *p, uint8_t *src)
{
	struct uffdio_move move = {
		.dst = p->range.start,
		.src = (uintptr_t)src,
		.len = p->range.len,
	};

	if (ioctl(p->lane->fd, UFFDIO_MOVE, &move) == 0)
		return (int64_t)p->range.len;
	return move.move > 0 ? move.move : -errno;
}

/*
 * Whatever the reason, what has not been moved still lies in src: the kernel empties an
 * entry there only as it fills the one here. (A call that is killed may not count the
 * last one; then it is here, and copying over it does nothing.) EINVAL is about what
 * kind of memory this is, or says that there is no such call.
 */
int uffd_move(struct uffd *u, uint64_t page, uint64_t nr, void *src)
{
	uint8_t *from = src;
	int ret = 0;

	if (check_range(u, page, nr) < 0)
		return -EINVAL;
	while (nr > 0 && ret == 0) {
		struct part p = first_part(u, page, nr);
		int64_t done = move_some(&p, from);
		uint64_t moved = done > 0 ? (uint64_t)done / u->page_bytes : 0;

		if (done == -EINVAL)
			atomic_store(&u->cannot_move, true);
		ret = install(u, page + moved, p.nr - moved,
			      from + moved * u->page_bytes, false);
		from += p.nr * u->page_bytes;
		page += p.nr;
		nr -= p.nr;
	}
	return ret;
}

bool uffd_can_move(const struct uffd *u)
{
	return !atomic_load(&u->cannot_move);
}

int uffd_zero(struct uffd *u, uint64_t page, uint64_t nr)
{
	int ret = 0;

	if (!u->zeros)
		return install(u, page, nr, NULL, false);
	/* The kernel has no zero page for hugetlb. */
	for (; nr > 0 && ret == 0; page++, nr--)
		ret = install(u, page, 1, u->zeros, false);
	return ret;
}

/*
 * A fault that has no handler is one that its user left behind when it stopped
 * while the other went on (registrations cannot be narrowed), and what it gets
 * is what stop promised.
 */
static void handle_fault(struct lane *lane, const struct uffd_msg *msg)
{
	struct uffd *u = lane->u;
	enum uffd_mode mode = UFFD_MISSING;
	const struct uffd_user *user;
	uint64_t page;

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return;
	if (msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
		mode = UFFD_WP;
	atomic_load_explicit(&u->protects, memory_order_acquire);
	page = (msg->arg.pagefault.address - (uintptr_t)u->base) /
	       u->page_bytes;

	pthread_mutex_lock(&lane->lock);
	user = &lane->users[mode];
	if (user->handler)
		user->handler(user->ctx, page,
			      (pid_t)msg->arg.pagefault.feat.ptid);
	else if (mode == UFFD_WP)
		uffd_unprotect(u, page, 1);
	else
		uffd_zero(u, page, 1);
	pthread_mutex_unlock(&lane->lock);
}

static void *fault_thread(void *arg)
{
	struct lane *lane = arg;
	struct uffd_msg msgs[FAULTS_PER_READ];
	struct pollfd fds[] = {
		{ .fd = lane->fd, .events = POLLIN },
		{ .fd = lane->u->quit_fd, .events = POLLIN },
	};

	for (;;) {
		ssize_t bytes = read(lane->fd, msgs, sizeof(msgs));
		size_t nr = bytes < 0 ? 0 : (size_t)bytes / sizeof(msgs[0]);

		for (size_t i = 0; i < nr; i++)
			handle_fault(lane, &msgs[i]);
		if (nr == 0)
			poll(fds, 2, -1);
		if (fds[1].revents)
			return NULL;
	}
}

static int make_zeros(struct uffd *u)
{
	void *p;

	if (u->page_bytes == 4096)
		return 0;
	/* Only ever read, so it stays one shared zero page. */
	p = mmap(NULL, u->page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
		 -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	u->zeros = p;
	return 0;
}

static int start_lane(struct uffd *u, unsigned int i, char **err)
{
	struct lane *lane = &u->lanes[i];
	char name[16];
	int ret;

	lane->u = u;
	lane->fd = uffd_open(err);
	if (lane->fd < 0)
		return lane->fd;
	pthread_mutex_init(&lane->lock, NULL);
	u->nr_lanes++; /* so it will be ended */
	ret = -pthread_create(&lane->thread, NULL, fault_thread, lane);
	lane->started = ret == 0;
	snprintf(name, sizeof(name), "fault/%u", i);
	if (ret == 0)
		pthread_setname_np(lane->thread, name);
	return ret;
}

static void end_lanes(struct uffd *u)
{
	uint64_t one = 1;

	while (write(u->quit_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	for (unsigned int i = 0; i < u->nr_lanes; i++) {
		if (u->lanes[i].started)
			pthread_join(u->lanes[i].thread, NULL);
		close(u->lanes[i].fd);
		pthread_mutex_destroy(&u->lanes[i].lock);
	}
}

/* At most so many lanes, and stripes for all of them. */
static unsigned int deal_stripes(struct uffd *u, unsigned int nr_lanes)
{
	uint64_t unit = STRIPE_BYTES_MIN / u->page_bytes;
	uint64_t pages = all_pages(u), units;

	unit = unit ? unit : 1;
	units = (pages + unit - 1) / unit;
	if (nr_lanes > UFFD_LANES_MAX)
		nr_lanes = UFFD_LANES_MAX;
	if (nr_lanes > units)
		nr_lanes = (unsigned int)units;
	u->stripe_pages = (units / (nr_lanes * STRIPES_PER_LANE) + 1) * unit;
	if (nr_lanes == 1)
		u->stripe_pages = pages;
	return nr_lanes;
}

int uffd_new(uint8_t *base, size_t bytes, size_t page_bytes,
	     unsigned int nr_lanes, struct uffd **ret_uffd, char **err)
{
	struct uffd *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return -ENOMEM;
	u->base = base;
	u->bytes = bytes;
	u->page_bytes = page_bytes;
	nr_lanes = deal_stripes(u, nr_lanes);
	pthread_mutex_init(&u->control, NULL);
	ret = make_zeros(u);
	if (ret < 0)
		goto free_u;
	u->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->quit_fd < 0) {
		ret = -errno;
		goto unmap_zeros;
	}
	for (unsigned int i = 0; ret == 0 && i < nr_lanes; i++)
		ret = start_lane(u, i, err);
	if (ret < 0)
		goto end_lanes;
	*ret_uffd = u;
	return 0;
end_lanes:
	end_lanes(u);
	close(u->quit_fd);
unmap_zeros:
	if (u->zeros)
		munmap(u->zeros, page_bytes);
free_u:
	pthread_mutex_destroy(&u->control);
	free(u);
	return ret;
}

static int register_part(const struct part *p, uint64_t modes)
{
	struct uffdio_register reg = { .range = p->range, .mode = modes };

	return ioctl(p->lane->fd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int unregister_part(const struct part *p, uint64_t unused)
{
	struct uffdio_range range = p->range;

	(void)unused;
	return ioctl(p->lane->fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

/*
 * Unregistering wakes only those who miss a page; the rest is woken by hand, and
 * what could not be unregistered is let go of by the fault threads, which have no
 * handler to ask any more.
 */
static int unregister_all(struct uffd *u)
{
	uint64_t pages = all_pages(u);
	int ret;

	if (!u->registered)
		return 0;
	ret = for_parts(u, 0, pages, unregister_part, 0);
	if (ret < 0)
		for_parts(u, 0, pages, write_protect_part, 0);
	for_parts(u, 0, pages, wake_part, 0);
	u->whole = false;
	if (ret == 0)
		u->registered = 0;
	return ret;
}

/*
 * What is registered already may be so again. A widening that fails half way does
 * no harm: faults that have no handler are let go.
 */
static int register_all(struct uffd *u, uint64_t modes)
{
	bool fresh = !u->registered;
	int ret;

	if (u->registered == modes && u->whole)
		return 0;
	ret = for_parts(u, 0, all_pages(u), register_part, modes);
	u->whole = ret == 0;
	if (ret == 0 || fresh)
		u->registered = modes;
	if (ret < 0 && fresh)
		unregister_all(u);
	return ret;
}

/* control is held. Once it returns no handler of an earlier user runs. */
static void set_user(struct uffd *u, enum uffd_mode mode, uffd_handler *handler,
		     void *ctx)
{
	for (unsigned int i = 0; i < u->nr_lanes; i++) {
		pthread_mutex_lock(&u->lanes[i].lock);
		u->lanes[i].users[mode] = (struct uffd_user){ handler, ctx };
		pthread_mutex_unlock(&u->lanes[i].lock);
	}
	u->used[mode] = handler;
}

int uffd_start(struct uffd *u, enum uffd_mode mode, uffd_handler *handler,
	       void *ctx)
{
	int ret = -EBUSY;

	pthread_mutex_lock(&u->control);
	if (u->used[mode])
		goto unlock;
	set_user(u, mode, handler, ctx);
	ret = register_all(u, u->registered | register_mode[mode]);
	if (ret < 0)
		set_user(u, mode, NULL, NULL);
unlock:
	pthread_mutex_unlock(&u->control);
	return ret;
}

/*
 * A registration can be widened but not narrowed, and unregistering with the
 * other user still there would show the guest zeros for pages that are yet to
 * come. So the wider one stays until both have stopped.
 */
int uffd_stop(struct uffd *u, enum uffd_mode mode)
{
	enum uffd_mode other = mode == UFFD_WP ? UFFD_MISSING : UFFD_WP;
	int ret;

	pthread_mutex_lock(&u->control);
	set_user(u, mode, NULL, NULL);
	if (!u->used[other])
		ret = unregister_all(u);
	else if (!(u->registered & register_mode[mode]))
		ret = 0;
	else if (mode == UFFD_WP)
		ret = uffd_unprotect(u, 0, all_pages(u));
	else /* they fault again and get zeros */
		ret = for_parts(u, 0, all_pages(u), wake_part, 0);
	pthread_mutex_unlock(&u->control);
	return ret;
}

void uffd_free(struct uffd *u)
{
	if (!u)
		return;
	uffd_stop(u, UFFD_MISSING);
	uffd_stop(u, UFFD_WP);
	end_lanes(u);
	close(u->quit_fd);
	if (u->zeros)
		munmap(u->zeros, u->page_bytes);
	pthread_mutex_destroy(&u->control);
	free(u);
}
