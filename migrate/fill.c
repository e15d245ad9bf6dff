#include "migrate/fill.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/say.h"
#include "migrate/waits.h"
#include "vmm/bitmap.h"

/* How often a thread in mig_fill_ensure() looks whether it shall go on. */
#define ENSURE_POLL_US 50000
/* How long a machine that ends with pages missing may take to park. */
#define PARK_US_MAX 200000
#define HUGE_PAGES  (VM_HUGE_PAGE_BYTES / VM_PAGE_BYTES)

struct mig_fill {
	/* Constant: any thread. */
	struct mig_guest *guest; /* valid until mig_fill_free() */
	struct uffd *uffd;       /* the same */
	const struct mig_fill_ops *ops;
	void *ctx;
	uint64_t pages;
	unsigned int nr_cpus;
	/* Any thread. */
	atomic_uint refs;
	uint64_t *pending; /* owned; bits by atomics, cleared only */
	_Atomic uint64_t nr_pending;
	_Atomic uint64_t nr_duplicate;
	/*
	 * Installing holds it shared, from reading protect until the pending
	 * bits are cleared; changing protect or ending holds it alone.
	 */
	pthread_rwlock_t install;
	bool protect;
	bool ended;
	/* Under lock. */
	pthread_mutex_t lock;
	pthread_cond_t placed;
	bool failed;
	unsigned int nr_ensuring; /* threads that may run ops->want */
	struct mig_waits waits;
};

static const uint8_t zeros[64 * VM_PAGE_BYTES];

static void end_waiting(struct mig_fill *f, uint64_t page, uint64_t nr,
			uint64_t arrived_us)
{
	pthread_mutex_lock(&f->lock);
	mig_waits_end(&f->waits, page, nr, arrived_us);
	pthread_cond_broadcast(&f->placed);
	pthread_mutex_unlock(&f->lock);
}

/* Whether it is pending; then it is also on the list of those waited for. */
static bool wait_for(struct mig_fill *f, uint64_t page, uint64_t since_us,
		     int cpu)
{
	bool pending;

	/*
	 * Whoever places the page clears its bit before he looks at the list,
	 * under the lock, so one of us sees the other.
	 */
	pthread_mutex_lock(&f->lock);
	pending = bitmap_atomic_test(f->pending, page);
	if (pending)
		mig_waits_add(&f->waits, page, since_us, cpu);
	pthread_mutex_unlock(&f->lock);
	return pending;
}

/* A fault thread. */
static void on_missing(void *ctx, uint64_t page, pid_t tid)
{
	struct mig_fill *f = ctx;

	if (!wait_for(f, page, mig_now_us(),
		      vm_cpu_of_thread(f->guest->vm, tid))) {
		uffd_zero(f->uffd, page, 1); /* there by now, or never was */
		return;
	}
	f->ops->want(f->ctx, page);
	pthread_mutex_lock(&f->lock);
	mig_waits_asked(&f->waits, page);
	pthread_mutex_unlock(&f->lock);
}

static int check_new(struct mig_guest *g, char **err)
{
	if (vm_mem_host_page_bytes(vm_mem(g->vm)) != VM_PAGE_BYTES)
		return mig_say(err, -EOPNOTSUPP,
			       "memory of huge pages cannot be filled page by "
			       "page while the guest runs");
	return g->fill ? mig_say(err, -EBUSY,
				 "pages of this guest are still on their way")
		       : 0;
}

static void init_locks(struct mig_fill *f)
{
	pthread_rwlockattr_t attr;

	pthread_mutex_init(&f->lock, NULL);
	mig_cond_init(&f->placed);
	/* Installs never stop coming: a snapshot must not wait for a gap. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(
		&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&f->install, &attr);
	pthread_rwlockattr_destroy(&attr);
}

static void free_storage(struct mig_fill *f)
{
	pthread_rwlock_destroy(&f->install);
	pthread_cond_destroy(&f->placed);
	pthread_mutex_destroy(&f->lock);
	mig_waits_fini(&f->waits);
	bitmap_free(f->pending, f->pages);
	free(f);
}

int mig_fill_new(struct mig_guest *g, uint64_t *pending,
		 const struct mig_fill_ops *ops, void *ctx,
		 struct mig_fill **ret_fill, char **err)
{
	struct mig_fill *f;
	int ret;

	ret = check_new(g, err);
	if (ret < 0)
		return ret;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->guest = g;
	f->ops = ops;
	f->ctx = ctx;
	f->pages = vm_mem_pages(vm_mem(g->vm));
	f->nr_cpus = vm_nr_cpus(g->vm);
	f->refs = 1;
	init_locks(f);
	ret = mig_guest_uffd(g, &f->uffd, err);
	if (ret < 0)
		goto free_f;
	f->pending = pending;
	f->nr_pending = bitmap_count(pending, f->pages);
	ret = uffd_start(f->uffd, UFFD_MISSING, on_missing, f);
	if (ret < 0) {
		mig_say(err, ret, "userfaultfd on guest memory: %s",
			strerror(-ret));
		goto free_f;
	}
	vm_mem_hold(vm_mem(g->vm));
	mig_collapse_hold(&g->collapse);
	vm_cpus_wake_soon(g->vm, true);
	pthread_mutex_lock(&g->lock);
	g->fill = f;
	pthread_mutex_unlock(&g->lock);
	*ret_fill = f;
	return 0;
free_f:
	f->pending = NULL; /* stays the caller's */
	free_storage(f);
	return ret;
}

static void *park_thread(void *arg)
{
	vm_pause(arg);
	return NULL;
}

/*
 * Missing pages are about to read as zeros: neither a vCPU nor a device shall run
 * on with them. A vCPU that waits for its own page table cannot park before it
 * has the page, but it has been told to and leaves the guest with the next
 * instruction.
 */
static void stop_missing(struct mig_fill *f)
{
	struct vm *vm = f->guest->vm;
	struct timespec deadline;
	bool parking = false;
	pthread_t thread;

	/* Stopped vCPUs say nothing: after an event the devices go on. */
	if (mig_fill_pending(f) != 0)
		parking = pthread_create(&thread, NULL, park_thread, vm) == 0;
	if (parking) {
		deadline = mig_deadline(CLOCK_REALTIME, PARK_US_MAX);
		parking = pthread_timedjoin_np(thread, NULL, &deadline) != 0;
	}
	uffd_stop(f->uffd, UFFD_MISSING);
	if (parking)
		pthread_join(thread, NULL);
}

/* From here on nobody can enter an op through mig_fill_ensure(). */
static void stop_ensuring(struct mig_fill *f)
{
	mig_fill_fail(f);
	pthread_mutex_lock(&f->lock);
	while (f->nr_ensuring > 0)
		pthread_cond_wait(&f->placed, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

void mig_fill_free(struct mig_fill *f)
{
	struct mig_guest *g;
	bool complete;

	if (!f)
		return;
	g = f->guest;
	complete = mig_fill_pending(f) == 0;
	pthread_mutex_lock(&g->lock);
	g->fill = NULL;
	pthread_mutex_unlock(&g->lock);
	stop_missing(f);
	stop_ensuring(f);
	vm_cpus_wake_soon(g->vm, false);
	vm_mem_release(vm_mem(g->vm));
	pthread_rwlock_wrlock(&f->install);
	f->ended = true;
	pthread_rwlock_unlock(&f->install);
	mig_fill_drop(f);
	if (complete)
		mig_collapse_release(&g->collapse);
}

void mig_fill_hold(struct mig_fill *f)
{
	atomic_fetch_add(&f->refs, 1);
}

void mig_fill_drop(struct mig_fill *f)
{
	if (atomic_fetch_sub(&f->refs, 1) == 1)
		free_storage(f);
}

/* block: data, when it lies in one. */
static int install_run(struct mig_fill *f, uint64_t page, uint64_t nr,
		       const uint8_t *data, uint8_t *block)
{
	const uint64_t zero_pages = sizeof(zeros) / VM_PAGE_BYTES;
	int ret = 0;

	if (block && nr == HUGE_PAGES && !f->protect)
		return uffd_move(f->uffd, page, nr, block);
	if (data)
		return uffd_copy(f->uffd, page, nr, data, f->protect);
	if (!f->protect)
		return uffd_zero(f->uffd, page, nr);
	/* UFFDIO_ZEROPAGE cannot protect what it installs. */
	while (nr > 0 && ret == 0) {
		uint64_t n = nr < zero_pages ? nr : zero_pages;

		ret = uffd_copy(f->uffd, page, n, zeros, true);
		page += n;
		nr -= n;
	}
	return ret;
}

/* Returns how many bits were still set. */
static uint64_t clear_run(struct mig_fill *f, uint64_t page, uint64_t nr)
{
	uint64_t cleared = 0;

	while (nr > 0) {
		unsigned int shift = page % 64;
		uint64_t n = 64 - shift < nr ? 64 - shift : nr;
		uint64_t mask = ~UINT64_C(0) >> (64 - n) << shift;
		uint64_t old = __atomic_fetch_and(&f->pending[page / 64], ~mask,
						  __ATOMIC_ACQ_REL);

		cleared += (uint64_t)__builtin_popcountll(old & mask);
		page += n;
		nr -= n;
	}
	return cleared;
}

/* install held shared. *cleared grows by what came in; all before *ret_at are here. */
static int place_pending(struct mig_fill *f, uint64_t page, uint64_t nr,
			 const uint8_t *data, uint8_t *block, uint64_t *cleared,
			 uint64_t *ret_at)
{
	uint64_t end = page + nr;
	uint64_t at = bitmap_next_set(f->pending, page, end);
	int ret;

	*ret_at = at;
	if (f->ended)
		return -EIO;
	while (at < end) {
		uint64_t stop = bitmap_next_clear(f->pending, at, end);
		uint64_t offset = (at - page) * VM_PAGE_BYTES;

		ret = install_run(f, at, stop - at, data ? data + offset : NULL,
				  block ? block + offset : NULL);
		if (ret < 0)
			return ret;
		*cleared += clear_run(f, at, stop - at);
		at = bitmap_next_set(f->pending, stop, end);
		*ret_at = at;
	}
	return 0;
}

static int place(struct mig_fill *f, uint64_t page, uint64_t nr,
		 const uint8_t *data, uint8_t *block)
{
	uint64_t begin_us = mig_now_us(), cleared = 0, end;
	int ret;

	if (page > f->pages || nr > f->pages - page)
		return -EINVAL;
	pthread_rwlock_rdlock(&f->install);
	ret = place_pending(f, page, nr, data, block, &cleared, &end);
	pthread_rwlock_unlock(&f->install);
	if (ret == 0 && !block)
		atomic_fetch_add(&f->nr_duplicate, nr - cleared);
	if (cleared == 0)
		return ret;
	end_waiting(f, page, end - page, begin_us);
	/* Exactly one call takes it to zero. */
	if (atomic_fetch_sub(&f->nr_pending, cleared) == cleared &&
	    f->ops->drained)
		f->ops->drained(f->ctx);
	return ret;
}

int mig_fill_place(struct mig_fill *f, uint64_t page, uint64_t nr,
		   const uint8_t *data)
{
	return place(f, page, nr, data, NULL);
}

int mig_fill_place_block(struct mig_fill *f, uint64_t page, uint64_t nr,
			 uint8_t *data)
{
	return place(f, page, nr, data, data);
}

bool mig_fill_takes_huge(const struct mig_fill *f, uint64_t page)
{
	uint64_t end = page + HUGE_PAGES;

	return uffd_can_move(f->uffd) && page % HUGE_PAGES == 0 &&
	       end <= f->pages &&
	       bitmap_next_clear(f->pending, page, end) == end;
}

bool mig_fill_is_awaited(struct mig_fill *f, uint64_t page, uint64_t nr)
{
	bool awaited;

	pthread_mutex_lock(&f->lock);
	awaited = mig_waits_has(&f->waits, page, nr);
	pthread_mutex_unlock(&f->lock);
	return awaited;
}

uint64_t mig_fill_pending(const struct mig_fill *f)
{
	return atomic_load(&f->nr_pending);
}

bool mig_fill_is_pending(const struct mig_fill *f, uint64_t page)
{
	return bitmap_atomic_test(f->pending, page);
}

void mig_fill_pending_or(const struct mig_fill *f, uint64_t *bitmap)
{
	for (size_t i = 0; i < bitmap_words(f->pages); i++) {
		uint64_t word = __atomic_load_n(&f->pending[i],
						__ATOMIC_ACQUIRE);

		if (word)
			bitmap[i] |= word;
	}
}

void mig_fill_want_again(struct mig_fill *f)
{
	struct mig_wait *copy;
	size_t nr;

	/* A copy, since want may place the page, which changes the list. */
	pthread_mutex_lock(&f->lock);
	nr = f->waits.nr;
	copy = calloc(nr ? nr : 1, sizeof(*copy));
	if (copy && nr)
		memcpy(copy, f->waits.list, nr * sizeof(*copy));
	pthread_mutex_unlock(&f->lock);
	for (size_t i = 0; copy && i < nr; i++) {
		if (mig_fill_is_pending(f, copy[i].page))
			f->ops->want(f->ctx, copy[i].page);
	}
	free(copy);
}

/* Asks for what is pending of [page, end). Under lock, dropped meanwhile. */
static void want_range(struct mig_fill *f, uint64_t page, uint64_t end)
{
	f->nr_ensuring++;
	pthread_mutex_unlock(&f->lock);
	for (page = bitmap_next_set(f->pending, page, end); page < end;
	     page = bitmap_next_set(f->pending, page + 1, end)) {
		if (wait_for(f, page, 0, -1))
			f->ops->want(f->ctx, page);
	}
	pthread_mutex_lock(&f->lock);
	f->nr_ensuring--;
	pthread_cond_broadcast(&f->placed);
}

static bool range_is_here(struct mig_fill *f, uint64_t page, uint64_t end)
{
	while (page < end && !bitmap_atomic_test(f->pending, page))
		page++;
	return page == end;
}

int mig_fill_ensure(struct mig_fill *f, uint64_t page, uint64_t nr,
		    bool (*keep_going)(void *ctx), void *ctx)
{
	uint64_t end = page + nr;
	struct timespec deadline;
	int ret = 0;

	if (page > f->pages || nr > f->pages - page)
		return -EINVAL;
	if (range_is_here(f, page, end))
		return 0;
	pthread_mutex_lock(&f->lock);
	if (!f->failed)
		want_range(f, page, end);
	while (ret == 0 && !range_is_here(f, page, end)) {
		if (f->failed)
			ret = -EIO;
		else if (!keep_going(ctx))
			ret = -ECANCELED;
		if (ret < 0)
			break;
		deadline = mig_deadline(CLOCK_MONOTONIC, ENSURE_POLL_US);
		pthread_cond_timedwait(&f->placed, &f->lock, &deadline);
	}
	pthread_mutex_unlock(&f->lock);
	return ret;
}

void mig_fill_fail(struct mig_fill *f)
{
	pthread_mutex_lock(&f->lock);
	f->failed = true;
	pthread_cond_broadcast(&f->placed);
	pthread_mutex_unlock(&f->lock);
}

bool mig_fill_has_failed(struct mig_fill *f)
{
	bool failed;

	pthread_mutex_lock(&f->lock);
	failed = f->failed;
	pthread_mutex_unlock(&f->lock);
	return failed;
}

void mig_fill_abandon(struct mig_fill *f)
{
	mig_fill_fail(f);
	uffd_stop(f->uffd, UFFD_MISSING);
}

void mig_fill_set_protect(struct mig_fill *f, bool protect)
{
	pthread_rwlock_wrlock(&f->install);
	f->protect = protect;
	pthread_rwlock_unlock(&f->install);
}

uint64_t mig_fill_duplicates(const struct mig_fill *f)
{
	return atomic_load(&f->nr_duplicate);
}

void mig_fill_faults(const struct mig_fill *f, struct mig_faults *ret_faults)
{
	mig_waits_read(&f->waits, ret_faults);
	ret_faults->nr_cpus = f->nr_cpus;
}
