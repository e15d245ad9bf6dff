/*
 * uffd/uffd.h: page faults on a mapping, handed to whoever has the pages.
 *
 * One mapping, with up to two users at a time: one that supplies missing pages
 * and one that wants to be told before protected pages are written. Each starts
 * and stops on its own. The mapping is dealt in stripes to lanes, each of which
 * is a userfaultfd with a fault thread: faults of different lanes wait neither
 * for a thread nor in a queue for each other.
 *
 * Owns:    the userfaultfds and the fault threads. Borrows the mapping.
 * Threads: new, free: one thread, when nobody else uses it. start, stop: any but
 *          the fault threads, where handlers run. copy, move, zero, protect,
 *          unprotect: any thread.
 * Units:   page counts host pages (page_bytes) from the start of the mapping.
 * Errors:  -errno; a call that fails leaves the object as it was.
 *
 * Kernel behaviour this relies on (Documentation/admin-guide/mm/userfaultfd.rst):
 * a registered range may be registered again by the same userfaultfd with more
 * modes; UFFDIO_COPY and UFFDIO_MOVE never replace a page (EEXIST) and wake the
 * waiters. And (mm/userfaultfd.c of Linux 6.12): a VMA belongs to one userfaultfd, what
 * is installed in one call lies in one VMA, and who waits is woken by his own
 * userfaultfd only.
 */
#ifndef UFFD_UFFD_H
#define UFFD_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define UFFD_LANES_MAX 8

enum uffd_mode { UFFD_MISSING, UFFD_WP, UFFD_NR_MODES };

/*
 * A fault on page. The handler, or somebody later, resolves it by copy, zero or
 * unprotect; until then the faulting thread sleeps. The same page may be
 * reported more than once. Each lane calls it for one page at a time, lanes for
 * different pages at once. tid: the thread's, in its own PID namespace; the kernel's
 * own threads fault too.
 */
typedef void uffd_handler(void *ctx, uint64_t page, pid_t tid);

struct uffd;

/*
 * Opens /dev/userfaultfd, else the system call. page_bytes: 4 KiB or the huge
 * page size under a hugetlb mapping. base is aligned to 2 MiB, or to that.
 * nr_lanes: as many as threads may fault at once, at least 1; there are at most
 * UFFD_LANES_MAX, and one for each 2 MiB. -EPERM, -ENOSYS, -EOPNOTSUPP; *err (to
 * be freed) says how to enable what is missing.
 */
int uffd_new(uint8_t *base, size_t bytes, size_t page_bytes,
	     unsigned int nr_lanes, struct uffd **ret_uffd, char **err);
/* Unregisters (which wakes all), joins the threads, closes. NULL is fine. */
void uffd_free(struct uffd *u);

/*
 * start: from the return on, faults of this mode reach handler. -EBUSY when the
 * mode has a user. stop: no handler runs any more once it returns; WP lets go
 * of every protected page; what was missing and unsupplied reads as zero. With
 * both stopped the range is unregistered and costs nothing.
 */
int uffd_start(struct uffd *u, enum uffd_mode mode, uffd_handler *handler,
	       void *ctx);
int uffd_stop(struct uffd *u, enum uffd_mode mode);

/*
 * Install nr pages at page from src (page aligned or not). protect: the pages
 * arrive write protected. Pages that are already there stay as they are: this is
 * success. Retries EAGAIN. Waiters are woken either way.
 */
int uffd_copy(struct uffd *u, uint64_t page, uint64_t nr, const void *src,
	      bool protect);
/*
 * As uffd_copy() without protect, but the pages of src become those at page where
 * that can be: a huge page is moved in one piece where there was none of its pages.
 * src is page aligned, private anonymous, writable and populated; what it holds
 * afterwards is undefined.
 */
int uffd_move(struct uffd *u, uint64_t page, uint64_t nr, void *src);
/*
 * False once the kernel has refused to move at all: before Linux 6.8 (UFFDIO_MOVE),
 * and where the mapping is not anonymous. Then it is no better than a copy.
 */
bool uffd_can_move(const struct uffd *u);
/* uffd_copy() of zeros; never write protected. */
int uffd_zero(struct uffd *u, uint64_t page, uint64_t nr);
/*
 * Only between start and stop of UFFD_WP. unprotect wakes the waiters. What the
 * caller of protect did before, the handler of a fault that comes of it sees.
 */
int uffd_protect(struct uffd *u, uint64_t page, uint64_t nr);
int uffd_unprotect(struct uffd *u, uint64_t page, uint64_t nr);

/* For doctor: what this host's userfaultfd can do. */
struct uffd_caps {
	bool usable; /* could be opened with the features we need */
	bool wp;
	bool shmem; /* MISSING and WP on memfd memory */
	bool hugetlbfs;
	bool move;
	char why[256]; /* when not usable: the reason and the cure */
};
void uffd_probe(struct uffd_caps *ret_caps);

#endif
