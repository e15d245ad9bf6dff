#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
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
#include <sys/syscall.h>
#include <unistd.h>

#include "compat/linux.h"

/*
 * What we ask the kernel for. WP_UNPOPULATED is left out on purpose: whoever
 * protects memory knows which of it is populated, and a mark on every empty
 * page would cost page tables and faults for pages that nobody saves.
 */
#define UFFD_FEATURES                                                          \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM |         \
	 UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

#define FAULTS_PER_READ 16

struct uffd_user {
	uffd_handler *handler; /* NULL: nobody */
	void *ctx;
};

struct uffd {
	/* Set by uffd_new(), constant after: any thread. */
	int fd;
	int quit_fd;   /* eventfd: the fault thread shall end */
	uint8_t *base; /* borrowed */
	size_t bytes;
	size_t page_bytes;
	void *zeros; /* a page of them for hugetlb, else NULL: see uffd_zero() */
	pthread_t thread;
	atomic_uint protects; /* uffd_protect() to the handler: see there */
	/* Start and stop, one after the other; never taken by the fault thread. */
	pthread_mutex_t control;
	uint64_t registered; /* UFFDIO_REGISTER_MODE_*, under control */
	/* Held while a handler runs, so that stop can wait for it. */
	pthread_mutex_t lock;
	struct uffd_user users[UFFD_NR_MODES];
};

static const uint64_t register_mode[UFFD_NR_MODES] = {
	[UFFD_MISSING] = UFFDIO_REGISTER_MODE_MISSING,
	[UFFD_WP] = UFFDIO_REGISTER_MODE_WP,
};

/*
 * Never UFFD_USER_MODE_ONLY: KVM touches guest memory from inside the kernel,
 * and KVM_RUN would fail with EFAULT.
 */
static int open_userfaultfd(void)
{
	int flags = O_CLOEXEC | O_NONBLOCK;
	int dev, fd = -1;

	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, flags);
		close(dev);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, flags);
	return fd < 0 ? -errno : fd;
}

/* The handshake is done once per fd: asking with none tells what there is. */
static int handshake(int fd, uint64_t features, uint64_t *ret_features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return -errno;
	*ret_features = api.features;
	return 0;
}

static const char *cure(int ret)
{
	switch (ret) {
	case -EPERM:
	case -EACCES:
		return "give this user read and write access to "
		       "/dev/userfaultfd, or set "
		       "vm.unprivileged_userfaultfd=1, "
		       "or run with CAP_SYS_PTRACE";
	case -ENOSYS:
		return "the kernel is built without CONFIG_USERFAULTFD";
	case -EMFILE:
	case -ENFILE:
		return "raise the limit of open files";
	default:
		return "a seccomp filter or container may forbid it";
	}
}

/* fd with nothing agreed yet, or -errno and why not. */
static int open_checked(struct uffd_caps *caps)
{
	uint64_t features = 0;
	int fd, ret;

	memset(caps, 0, sizeof(*caps));
	fd = open_userfaultfd();
	if (fd < 0) {
		snprintf(caps->why, sizeof(caps->why),
			 "userfaultfd cannot be opened (%s): %s", strerror(-fd),
			 cure(fd));
		return fd;
	}
	ret = handshake(fd, 0, &features);
	close(fd);
	caps->wp = features & UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	caps->shmem = (features & UFFD_FEATURE_MISSING_SHMEM) &&
		      (features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	caps->hugetlbfs = (features & UFFD_FEATURE_MISSING_HUGETLBFS) &&
			  (features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if (ret < 0 || (features & UFFD_FEATURES) != UFFD_FEATURES) {
		snprintf(caps->why, sizeof(caps->why),
			 "the kernel's userfaultfd lacks features 0x%llx: "
			 "Linux 5.19 or newer with "
			 "CONFIG_HAVE_ARCH_USERFAULTFD_WP has them",
			 (unsigned long long)(UFFD_FEATURES & ~features));
		return ret < 0 ? ret : -EOPNOTSUPP;
	}
	caps->usable = true;
	return open_userfaultfd();
}

void uffd_probe(struct uffd_caps *ret_caps)
{
	int fd = open_checked(ret_caps);

	if (fd >= 0)
		close(fd);
}

static uint8_t *page_hva(const struct uffd *u, uint64_t page)
{
	return u->base + page * u->page_bytes;
}

static int check_range(const struct uffd *u, uint64_t page, uint64_t nr)
{
	uint64_t pages = u->bytes / u->page_bytes;

	return page > pages || nr > pages - page ? -EINVAL : 0;
}

static int wake(struct uffd *u, uint64_t page, uint64_t nr)
{
	struct uffdio_range range = {
		.start = (uintptr_t)page_hva(u, page),
		.len = nr * u->page_bytes,
	};

	return ioctl(u->fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

static int write_protect(struct uffd *u, uint64_t page, uint64_t nr,
			 uint64_t mode)
{
	struct uffdio_writeprotect wp = {
		.range.start = (uintptr_t)page_hva(u, page),
		.range.len = nr * u->page_bytes,
		.mode = mode,
	};

	if (check_range(u, page, nr) < 0)
		return -EINVAL;
	if (nr == 0)
		return 0;
	while (ioctl(u->fd, UFFDIO_WRITEPROTECT, &wp) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		sched_yield(); /* the mapping is changing */
	}
	return 0;
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
static int64_t copy_some(struct uffd *u, uint8_t *dst, const uint8_t *src,
			 uint64_t bytes, bool protect)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = bytes,
		.mode = protect ? UFFDIO_COPY_MODE_WP : 0,
	};

	if (ioctl(u->fd, UFFDIO_COPY, &copy) == 0)
		return (int64_t)bytes;
	return copy.copy > 0 ? copy.copy : -errno;
}

static int64_t zero_some(struct uffd *u, uint8_t *dst, uint64_t bytes)
{
	struct uffdio_zeropage zero = {
		.range.start = (uintptr_t)dst,
		.range.len = bytes,
	};

	if (ioctl(u->fd, UFFDIO_ZEROPAGE, &zero) == 0)
		return (int64_t)bytes;
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
	int64_t done;

	if (check_range(u, page, nr) < 0)
		return -EINVAL;
	while (page < end) {
		uint64_t bytes = (end - page) * u->page_bytes;

		done = src ? copy_some(u, page_hva(u, page), src, bytes,
				       protect)
			   : zero_some(u, page_hva(u, page), bytes);
		if (done == -EAGAIN || done == -EINTR) {
			sched_yield(); /* the mapping is changing */
			continue;
		}
		if (done == -EEXIST) {
			wake(u, page, 1);
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
static void handle_fault(struct uffd *u, const struct uffd_msg *msg)
{
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

	pthread_mutex_lock(&u->lock);
	user = &u->users[mode];
	if (user->handler)
		user->handler(user->ctx, page);
	else if (mode == UFFD_WP)
		uffd_unprotect(u, page, 1);
	else
		uffd_zero(u, page, 1);
	pthread_mutex_unlock(&u->lock);
}

static void *fault_thread(void *arg)
{
	struct uffd *u = arg;
	struct uffd_msg msgs[FAULTS_PER_READ];
	struct pollfd fds[] = {
		{ .fd = u->fd, .events = POLLIN },
		{ .fd = u->quit_fd, .events = POLLIN },
	};

	for (;;) {
		ssize_t bytes = read(u->fd, msgs, sizeof(msgs));
		size_t nr = bytes < 0 ? 0 : (size_t)bytes / sizeof(msgs[0]);

		for (size_t i = 0; i < nr; i++)
			handle_fault(u, &msgs[i]);
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

static int start_thread(struct uffd *u)
{
	int ret;

	u->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->quit_fd < 0)
		return -errno;
	ret = -pthread_create(&u->thread, NULL, fault_thread, u);
	if (ret < 0)
		close(u->quit_fd);
	else
		pthread_setname_np(u->thread, "fault/0");
	return ret;
}

static int open_agreed(char **err)
{
	struct uffd_caps caps;
	uint64_t features;
	int fd, ret;

	fd = open_checked(&caps);
	if (fd < 0) {
		if (err)
			*err = strdup(caps.why);
		return fd;
	}
	ret = handshake(fd, UFFD_FEATURES, &features);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return fd;
}

int uffd_new(uint8_t *base, size_t bytes, size_t page_bytes,
	     struct uffd **ret_uffd, char **err)
{
	struct uffd *u = calloc(1, sizeof(*u));
	int ret;

	if (!u)
		return -ENOMEM;
	u->base = base;
	u->bytes = bytes;
	u->page_bytes = page_bytes;
	pthread_mutex_init(&u->control, NULL);
	pthread_mutex_init(&u->lock, NULL);
	ret = make_zeros(u);
	if (ret < 0)
		goto free_u;
	ret = open_agreed(err);
	if (ret < 0)
		goto unmap_zeros;
	u->fd = ret;
	ret = start_thread(u);
	if (ret < 0)
		goto close_fd;
	*ret_uffd = u;
	return 0;
close_fd:
	close(u->fd);
unmap_zeros:
	if (u->zeros)
		munmap(u->zeros, page_bytes);
free_u:
	free(u);
	return ret;
}

static int register_all(struct uffd *u, uint64_t modes)
{
	struct uffdio_register reg = {
		.range.start = (uintptr_t)u->base,
		.range.len = u->bytes,
		.mode = modes,
	};

	if (u->registered == modes)
		return 0;
	if (ioctl(u->fd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	u->registered = modes;
	return 0;
}

/* Unregistering wakes only those who miss a page; the rest is woken by hand. */
static int unregister_all(struct uffd *u)
{
	struct uffdio_range range = {
		.start = (uintptr_t)u->base,
		.len = u->bytes,
	};

	if (!u->registered)
		return 0;
	if (ioctl(u->fd, UFFDIO_UNREGISTER, &range) < 0)
		return -errno;
	u->registered = 0;
	return wake(u, 0, u->bytes / u->page_bytes);
}

static void set_user(struct uffd *u, enum uffd_mode mode, uffd_handler *handler,
		     void *ctx)
{
	pthread_mutex_lock(&u->lock);
	u->users[mode] = (struct uffd_user){ handler, ctx };
	pthread_mutex_unlock(&u->lock);
}

int uffd_start(struct uffd *u, enum uffd_mode mode, uffd_handler *handler,
	       void *ctx)
{
	int ret = -EBUSY;

	pthread_mutex_lock(&u->control);
	if (u->users[mode].handler)
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
	uint64_t pages = u->bytes / u->page_bytes;
	int ret;

	pthread_mutex_lock(&u->control);
	set_user(u, mode, NULL, NULL);
	if (!u->users[other].handler)
		ret = unregister_all(u);
	else if (!(u->registered & register_mode[mode]))
		ret = 0;
	else if (mode == UFFD_WP)
		ret = uffd_unprotect(u, 0, pages);
	else
		ret = wake(u, 0, pages); /* they fault again and get zeros */
	pthread_mutex_unlock(&u->control);
	return ret;
}

void uffd_free(struct uffd *u)
{
	uint64_t one = 1;

	if (!u)
		return;
	set_user(u, UFFD_MISSING, NULL, NULL);
	set_user(u, UFFD_WP, NULL, NULL);
	unregister_all(u);
	while (write(u->quit_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(u->thread, NULL);
	close(u->quit_fd);
	close(u->fd);
	if (u->zeros)
		munmap(u->zeros, u->page_bytes);
	pthread_mutex_destroy(&u->lock);
	pthread_mutex_destroy(&u->control);
	free(u);
}
