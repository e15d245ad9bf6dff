/*
 * failing.so: fails one call of vmmd's, the nth from when a test says so.
 *
 * Preloaded into vmmd. $VMMD_FAIL names a file that the test maps too: struct
 * control. Once it is armed, each call of an armed kind that vmmd's own code makes
 * counts down; the one that reaches zero fails as it would in real life, and no
 * other. Calls that libraries make among themselves are theirs. read() and write()
 * are left out: here they are for eventfds, which do not fail.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <link.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* SOCKET: other descriptors that are no files, too. */
enum kind { MEMORY = 1, IOCTL = 2, FILES = 4, SOCKET = 8 };

/* test_nth_failure.py has the same. */
struct control {
	atomic_uint kinds; /* armed; 0: none */
	atomic_uint left;  /* calls until the one that fails, itself included */
	atomic_uint fired;
	uint32_t loaded; /* vmmd maps it */
	uint64_t offset; /* in vmmd, of the instruction after the call */
	char function[32];
};

static struct control *control;
static uintptr_t text_start, text_end, load_address;

/* The first object is the program. */
static int find_text(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	load_address = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
			continue;
		text_start = load_address + p->p_vaddr;
		text_end = text_start + p->p_memsz;
	}
	return 1;
}

__attribute__((constructor)) static void set_up(void)
{
	const char *path = getenv("VMMD_FAIL");
	void *p;
	int fd;

	if (!path)
		return;
	dl_iterate_phdr(find_text, NULL);
	fd = open(path, O_RDWR | O_CLOEXEC);
	p = fd < 0 ? MAP_FAILED
		   : mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE,
			  MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) {
		perror(path);
		abort();
	}
	close(fd);
	control = p;
	control->loaded = 1;
}

/* Is this the call that fails? from: where it returns to. */
static bool fails(enum kind kind, const char *function, const void *from)
{
	uintptr_t at = (uintptr_t)from;

	if (!control || !(atomic_load(&control->kinds) & kind) ||
	    at < text_start || at >= text_end)
		return false;
	if (atomic_fetch_sub(&control->left, 1) != 1)
		return false;
	atomic_store(&control->kinds, 0);
	control->offset = at - load_address;
	strncpy(control->function, function, sizeof(control->function) - 1);
	atomic_store(&control->fired, 1);
	return true;
}

#define CALLER __builtin_return_address(0)

/* Functions of others, with parameter names of our own. */
/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name,
 *	bugprone-macro-parentheses) */

/* The next definition of the function that is being defined here. */
#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

/* TYPE FUNCTION(PARAMETERS) that returns VALUE with errno ERROR when it fails. */
#define FAILING(kind, error, value, type, function, parameters, arguments)     \
	type function parameters                                               \
	{                                                                      \
		static __typeof__(&function) next;                             \
                                                                               \
		if (fails(kind, #function, CALLER)) {                          \
			errno = (error);                                       \
			return (value);                                        \
		}                                                              \
		if (!next)                                                     \
			next = NEXT(function);                                 \
		return next arguments;                                         \
	}

/* dlsym() may allocate: glibc's own names for these. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t nr, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);

void *malloc(size_t bytes)
{
	if (fails(MEMORY, "malloc", CALLER)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_malloc(bytes);
}

void *calloc(size_t nr, size_t bytes)
{
	if (fails(MEMORY, "calloc", CALLER)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_calloc(nr, bytes);
}

void *realloc(void *p, size_t bytes)
{
	if (fails(MEMORY, "realloc", CALLER)) {
		errno = ENOMEM;
		return NULL;
	}
	return __libc_realloc(p, bytes);
}

FAILING(MEMORY, ENOMEM, NULL, char *, strdup, (const char *s), (s))
FAILING(MEMORY, ENOMEM, -1, int, vasprintf,
	(char **ret, const char *format, va_list ap), (ret, format, ap))
FAILING(MEMORY, ENOMEM, MAP_FAILED, void *, mmap,
	(void *at, size_t bytes, int prot, int flags, int fd, off_t offset),
	(at, bytes, prot, flags, fd, offset))

FAILING(MEMORY, ENOMEM, -1, int, madvise, (void *at, size_t bytes, int advice),
	(at, bytes, advice))

int asprintf(char **ret, const char *format, ...)
{
	va_list ap;
	int n;

	if (fails(MEMORY, "asprintf", CALLER)) {
		errno = ENOMEM;
		return -1;
	}
	va_start(ap, format);
	n = NEXT(vasprintf)(ret, format, ap);
	va_end(ap);
	return n;
}

int pthread_create(pthread_t *ret, const pthread_attr_t *attr,
		   void *(*run)(void *), void *arg)
{
	if (fails(MEMORY, "pthread_create", CALLER))
		return EAGAIN;
	return NEXT(pthread_create)(ret, attr, run, arg);
}

/* A KVM_RUN that fails is the end of any guest. */
int ioctl(int fd, unsigned long request, ...)
{
	static __typeof__(&ioctl) next;
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request != KVM_RUN && fails(IOCTL, "ioctl", CALLER)) {
		errno = EIO;
		return -1;
	}
	if (!next)
		next = NEXT(ioctl);
	return next(fd, request, arg);
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (fails(FILES, "open", CALLER)) {
		errno = EIO;
		return -1;
	}
	return NEXT(open)(path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
	va_end(ap);
	if (fails(FILES, "openat", CALLER)) {
		errno = EIO;
		return -1;
	}
	return NEXT(openat)(dir, path, flags, mode);
}

FAILING(FILES, ENOSPC, -1, ssize_t, pwrite,
	(int fd, const void *data, size_t bytes, off_t at),
	(fd, data, bytes, at))
FAILING(FILES, EIO, -1, ssize_t, pread,
	(int fd, void *data, size_t bytes, off_t at), (fd, data, bytes, at))
FAILING(FILES, ENOSPC, -1, int, ftruncate, (int fd, off_t bytes), (fd, bytes))
FAILING(FILES, ENOSPC, -1, int, fallocate,
	(int fd, int mode, off_t at, off_t bytes), (fd, mode, at, bytes))
FAILING(FILES, EIO, -1, int, fsync, (int fd), (fd))
FAILING(FILES, EIO, -1, int, fdatasync, (int fd), (fd))
FAILING(FILES, EACCES, -1, int, mkdir, (const char *path, mode_t mode),
	(path, mode))
FAILING(FILES, EIO, -1, int, fstat, (int fd, struct stat *ret), (fd, ret))
FAILING(FILES, EACCES, -1, int, mkdirat,
	(int dir, const char *path, mode_t mode), (dir, path, mode))
FAILING(FILES, EIO, -1, int, renameat2,
	(int from, const char *path, int to, const char *to_path,
	 unsigned int flags),
	(from, path, to, to_path, flags))
FAILING(FILES, EMFILE, NULL, FILE *, fopen,
	(const char *path, const char *mode), (path, mode))

FAILING(SOCKET, EMFILE, -1, int, socket, (int domain, int type, int protocol),
	(domain, type, protocol))
FAILING(SOCKET, EADDRINUSE, -1, int, bind,
	(int fd, const struct sockaddr *at, socklen_t bytes), (fd, at, bytes))
FAILING(SOCKET, EADDRINUSE, -1, int, listen, (int fd, int backlog),
	(fd, backlog))
FAILING(SOCKET, EMFILE, -1, int, accept4,
	(int fd, struct sockaddr *ret, socklen_t *bytes, int flags),
	(fd, ret, bytes, flags))
FAILING(SOCKET, ECONNREFUSED, -1, int, connect,
	(int fd, const struct sockaddr *to, socklen_t bytes), (fd, to, bytes))
FAILING(SOCKET, ECONNRESET, -1, ssize_t, send,
	(int fd, const void *data, size_t bytes, int flags),
	(fd, data, bytes, flags))
FAILING(SOCKET, ECONNRESET, -1, ssize_t, sendmsg,
	(int fd, const struct msghdr *m, int flags), (fd, m, flags))
FAILING(SOCKET, ECONNRESET, -1, ssize_t, recv,
	(int fd, void *data, size_t bytes, int flags), (fd, data, bytes, flags))
FAILING(SOCKET, ECONNRESET, -1, ssize_t, recvmsg,
	(int fd, struct msghdr *m, int flags), (fd, m, flags))
FAILING(SOCKET, ECONNRESET, -1, ssize_t, readv,
	(int fd, const struct iovec *to, int nr), (fd, to, nr))
FAILING(SOCKET, ECONNRESET, -1, ssize_t, writev,
	(int fd, const struct iovec *from, int nr), (fd, from, nr))
FAILING(SOCKET, ENOPROTOOPT, -1, int, setsockopt,
	(int fd, int level, int name, const void *value, socklen_t bytes),
	(fd, level, name, value, bytes))

FAILING(SOCKET, EMFILE, -1, int, eventfd, (unsigned int count, int flags),
	(count, flags))
FAILING(SOCKET, EMFILE, -1, int, memfd_create,
	(const char *name, unsigned int flags), (name, flags))
FAILING(SOCKET, EMFILE, -1, int, pipe2, (int fds[2], int flags), (fds, flags))
FAILING(SOCKET, ENOMEM, -ENOMEM, int, io_uring_queue_init,
	(unsigned int entries, struct io_uring *ring, unsigned int flags),
	(entries, ring, flags))

/* NOLINTEND(readability-inconsistent-declaration-parameter-name,
 *	bugprone-macro-parentheses) */
