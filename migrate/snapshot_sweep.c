#include "migrate/snapshot_sweep.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/clock.h"
#include "migrate/latency.h"
#include "migrate/say.h"
#include "migrate/snapshot_io.h"
#include "vmm/bitmap.h"

#define SWEEP_PAGES       64         /* of 4 KiB: one word of the bitmaps */
#define SWEEP_CHUNKS      8          /* in flight */
#define FAULT_BYTES       (4u << 20) /* of copies that wait for the sweeper */
#define FAULT_CHUNKS      64         /* at most */
#define MERGE_PAGES       512 /* 2 MiB: a gap costs less than a system call */
#define SWEPT_WAITERS_MAX 128

struct snap_sweep {
	/* Constant after new. */
	struct vm_mem *mem;
	struct mig_image_writer *image;
	struct snap_io *io;
	struct uffd *uffd;     /* NULL: the guest is stopped */
	struct mig_fill *fill; /* held; NULL: every page is here */
	bool (*keep_going)(void *ctx);
	void *ctx;
	uint64_t pages;
	uint64_t unit; /* pages of VM_PAGE_BYTES to a host page */
	uint64_t nr_units;
	uint64_t chunk_units; /* that the sweeper claims at a time */
	/*
	 * Bits of units, both S at first. todo: nobody has claimed it. due: it
	 * has not been copied yet, so it must stay protected.
	 */
	uint64_t *todo;
	uint64_t *due;
	_Atomic uint64_t total_pages;
	_Atomic uint64_t left_pages;
	struct mig_histogram faults;
	struct snap_pool sweep_pool; /* the sweeper's */
	struct snap_pool fault_pool;
	struct snap_pool spare_pool; /* a chunk for each fault thread */
	bool have_pools;
	pthread_mutex_t lock;
	/* Under lock: copies of the fault threads, for the sweeper to write. */
	struct snap_chunk *queue;
	/* Under lock: faults on units that the sweeper is copying. */
	struct swept_waiter {
		uint64_t unit;
		uint64_t since_us;
	} waiters[SWEPT_WAITERS_MAX];
	unsigned int nr_waiters;
};

static uint8_t *unit_hva(struct snap_sweep *s, uint64_t unit)
{
	return vm_mem_base(s->mem) + unit * s->unit * VM_PAGE_BYTES;
}

/* c holds these units of its stretch: copy them, and they are the guest's. */
static void copy_units(struct snap_sweep *s, struct snap_chunk *c,
		       uint64_t first, uint64_t nr)
{
	uint64_t at = first * s->unit - c->page;

	memcpy(c->data + at * VM_PAGE_BYTES, unit_hva(s, first),
	       (size_t)(nr * s->unit * VM_PAGE_BYTES));
	for (uint64_t i = 0; i < nr * s->unit; i++)
		bitmap_set(c->mask, at + i);
	/*
	 * due before the protection: a fault that finds the bit clear lets go
	 * of the page itself, one that finds it set is woken by us.
	 */
	for (uint64_t i = 0; i < nr; i++)
		bitmap_atomic_clear(s->due, first + i);
	if (s->uffd)
		uffd_unprotect(s->uffd, first, nr);
	atomic_fetch_sub(&s->left_pages, nr * s->unit);
}

static void queue_push(struct snap_sweep *s, struct snap_chunk *c)
{
	pthread_mutex_lock(&s->lock);
	c->next = s->queue;
	s->queue = c;
	pthread_mutex_unlock(&s->lock);
}

static struct snap_chunk *queue_take(struct snap_sweep *s)
{
	struct snap_chunk *list;

	pthread_mutex_lock(&s->lock);
	list = s->queue;
	s->queue = NULL;
	pthread_mutex_unlock(&s->lock);
	return list;
}

/* A fault thread, unit claimed. The guest waits for the copy, not for the disk. */
static void save_unit(struct snap_sweep *s, uint64_t unit, uint64_t since_us)
{
	struct snap_chunk *c = snap_pool_get(&s->fault_pool);
	bool queued = c;

	/*
	 * With too many copies waiting, this one is written here, and with that
	 * the guest writes no faster than the disk.
	 */
	if (!c)
		c = snap_pool_get(&s->spare_pool);
	c->page = unit * s->unit;
	copy_units(s, c, unit, 1);
	mig_histogram_add(&s->faults, mig_now_us() - since_us);
	if (queued) {
		queue_push(s, c);
		return;
	}
	snap_io_write_now(s->io, c);
	snap_pool_put(c);
}

/* False when unit has been copied already. */
static bool wait_for_sweeper(struct snap_sweep *s, uint64_t unit,
			     uint64_t since_us)
{
	bool due;

	pthread_mutex_lock(&s->lock);
	due = bitmap_atomic_test(s->due, unit);
	if (due && s->nr_waiters < SWEPT_WAITERS_MAX)
		s->waiters[s->nr_waiters++] = (struct swept_waiter){ unit,
								     since_us };
	pthread_mutex_unlock(&s->lock);
	return due;
}

/* A fault thread. */
static void on_write(void *ctx, uint64_t unit, pid_t tid)
{
	struct snap_sweep *s = ctx;
	uint64_t since_us = mig_now_us();

	(void)tid;
	if (bitmap_atomic_clear(s->todo, unit)) {
		save_unit(s, unit, since_us);
		return;
	}
	if (wait_for_sweeper(s, unit, since_us))
		return;
	/* Not in S, or copied while the fault was on its way to us. */
	uffd_unprotect(s->uffd, unit, 1);
	mig_histogram_add(&s->faults, mig_now_us() - since_us);
}

/* The sweeper has let go of [first, +nr). */
static void note_waiters(struct snap_sweep *s, uint64_t first, uint64_t nr)
{
	uint64_t now_us = mig_now_us();
	unsigned int i = 0;

	pthread_mutex_lock(&s->lock);
	while (i < s->nr_waiters) {
		struct swept_waiter *w = &s->waiters[i];

		if (w->unit < first || w->unit - first >= nr) {
			i++;
			continue;
		}
		mig_histogram_add(&s->faults, now_us - w->since_us);
		*w = s->waiters[--s->nr_waiters];
	}
	pthread_mutex_unlock(&s->lock);
}

static int init_pools(struct snap_sweep *s)
{
	unsigned int nr_fault =
		(unsigned int)(FAULT_BYTES / (s->unit * VM_PAGE_BYTES));
	int ret;

	if (nr_fault > FAULT_CHUNKS)
		nr_fault = FAULT_CHUNKS;
	ret = snap_pool_init(&s->sweep_pool, SWEEP_CHUNKS,
			     s->chunk_units * s->unit);
	if (ret < 0)
		return ret;
	ret = snap_pool_init(&s->fault_pool, nr_fault, s->unit);
	if (ret < 0)
		goto fini_sweep;
	ret = snap_pool_init(&s->spare_pool, UFFD_LANES_MAX, s->unit);
	if (ret < 0)
		goto fini_fault;
	s->have_pools = true;
	return 0;
fini_fault:
	snap_pool_fini(&s->fault_pool);
fini_sweep:
	snap_pool_fini(&s->sweep_pool);
	return ret;
}

static int start_wp(struct snap_sweep *s, struct mig_guest *g, char **err)
{
	struct uffd *u;
	char *why = NULL;
	int ret;

	ret = mig_guest_uffd(g, &u, &why);
	if (ret == 0)
		ret = uffd_start(u, UFFD_WP, on_write, s);
	if (ret < 0)
		mig_say(err, ret,
			"guest memory cannot be write protected: %s; --stop "
			"takes a snapshot without that, with the guest stopped",
			why ? why : strerror(-ret));
	else
		s->uffd = u;
	free(why);
	return ret;
}

int snap_sweep_new(struct mig_guest *g, struct mig_image_writer *image,
		   bool live, bool (*keep_going)(void *ctx), void *ctx,
		   struct snap_sweep **ret_sweep, char **err)
{
	struct snap_sweep *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	s->mem = vm_mem(g->vm);
	s->image = image;
	s->keep_going = keep_going;
	s->ctx = ctx;
	s->pages = vm_mem_pages(s->mem);
	s->unit = vm_mem_host_page_bytes(s->mem) / VM_PAGE_BYTES;
	s->nr_units = s->pages / s->unit;
	s->chunk_units = s->unit == 1 ? SWEEP_PAGES : 1;
	s->todo = bitmap_new(s->nr_units);
	s->due = bitmap_new(s->nr_units);
	ret = s->todo && s->due ? init_pools(s) : -ENOMEM;
	if (ret == 0)
		ret = snap_io_new(image, &s->io);
	if (ret == 0 && live)
		ret = start_wp(s, g, err);
	if (ret < 0) {
		snap_sweep_free(s);
		return ret;
	}
	/* Held from now on: a fill that ends meanwhile has every page here. */
	s->fill = mig_guest_fill_get(g);
	*ret_sweep = s;
	return 0;
}

/* Once it returns no fault is being saved, and nothing is protected. */
static void stop_wp(struct snap_sweep *s)
{
	if (!s->uffd)
		return;
	/* In this order: pages may only come protected while WP has a user. */
	if (s->fill)
		mig_fill_set_protect(s->fill, false);
	uffd_stop(s->uffd, UFFD_WP);
	s->uffd = NULL;
}

void snap_sweep_free(struct snap_sweep *s)
{
	if (!s)
		return;
	stop_wp(s);
	mig_guest_fill_put(s->fill);
	snap_io_free(s->io);
	if (s->have_pools) {
		snap_pool_fini(&s->spare_pool);
		snap_pool_fini(&s->fault_pool);
		snap_pool_fini(&s->sweep_pool);
	}
	bitmap_free(s->todo, s->nr_units);
	bitmap_free(s->due, s->nr_units);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* Pages of the fill and of the host, as bits of units. */
static int find_units(struct snap_sweep *s)
{
	uint64_t *set = s->unit == 1 ? s->todo : bitmap_new(s->pages);
	int ret;

	if (!set)
		return -ENOMEM;
	/*
	 * Pending first: a page that arrives in between is then in both, and in
	 * the other order it would be in neither.
	 */
	if (s->fill)
		mig_fill_pending_or(s->fill, set);
	ret = vm_mem_scan_populated(s->mem, 0, vm_mem_bytes(s->mem), set);
	if (set == s->todo)
		return ret;
	for (uint64_t page = bitmap_next_set(set, 0, s->pages); page < s->pages;
	     page = bitmap_next_set(set, page + s->unit - page % s->unit,
				    s->pages))
		bitmap_set(s->todo, page / s->unit);
	bitmap_free(set, s->pages);
	return ret;
}

static int protect_units(struct snap_sweep *s)
{
	uint64_t first = bitmap_next_set(s->todo, 0, s->nr_units);
	int ret = 0;

	while (first < s->nr_units && ret == 0) {
		uint64_t end = first, next = first;

		while (next < s->nr_units &&
		       (next - end) * s->unit <= MERGE_PAGES) {
			end = bitmap_next_clear(s->todo, next, s->nr_units);
			next = bitmap_next_set(s->todo, end, s->nr_units);
		}
		ret = uffd_protect(s->uffd, first, end - first);
		first = next;
	}
	return ret;
}

int snap_sweep_plan(struct snap_sweep *s, char **err)
{
	uint64_t units;
	int ret;

	if (s->fill && s->uffd)
		mig_fill_set_protect(s->fill, true);
	ret = find_units(s);
	if (ret < 0)
		return mig_say(err, ret, "cannot tell which memory is used: %s",
			       strerror(-ret));
	for (size_t i = 0; i < bitmap_words(s->nr_units); i++) {
		if (s->todo[i])
			s->due[i] = s->todo[i];
	}
	units = bitmap_count(s->todo, s->nr_units);
	atomic_store(&s->left_pages, units * s->unit);
	atomic_store(&s->total_pages, units * s->unit);
	ret = s->uffd ? protect_units(s) : 0;
	if (ret < 0)
		return mig_say(err, ret, "cannot write protect memory: %s",
			       strerror(-ret));
	return 0;
}

static int write_queued(struct snap_sweep *s)
{
	struct snap_chunk *c = queue_take(s), *next;
	int ret = 0;

	for (; c; c = next) {
		next = c->next;
		ret = snap_io_submit(s->io, c);
	}
	return ret;
}

/* A chunk before the claim: what is claimed must not wait for the disk. */
static int get_chunk(struct snap_sweep *s, struct snap_chunk **ret_chunk)
{
	int ret = 0;

	while (!(*ret_chunk = snap_pool_get(&s->sweep_pool))) {
		ret = snap_io_reap(s->io);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Claims what is left of the units [first, +chunk_units): its word or bit. */
static uint64_t claim(struct snap_sweep *s, uint64_t first)
{
	if (s->chunk_units == 1)
		return bitmap_atomic_clear(s->todo, first);
	return __atomic_exchange_n(&s->todo[first / 64], 0, __ATOMIC_ACQ_REL);
}

static void copy_claimed(struct snap_sweep *s, struct snap_chunk *c,
			 uint64_t first, uint64_t claimed)
{
	uint64_t at = bitmap_next_set(&claimed, 0, 64);

	while (at < 64) {
		uint64_t end = bitmap_next_clear(&claimed, at, 64);

		copy_units(s, c, first + at, end - at);
		at = bitmap_next_set(&claimed, end, 64);
	}
	if (s->uffd)
		note_waiters(s, first, s->chunk_units);
}

static int sweep_chunk(struct snap_sweep *s, uint64_t first)
{
	uint64_t page = first * s->unit;
	uint64_t nr = s->chunk_units * s->unit;
	struct snap_chunk *c;
	int ret;

	if (s->fill) {
		if (nr > s->pages - page)
			nr = s->pages - page;
		/* Reading a page that is not here would wait for it as well,
		 * but without an end when it never comes. */
		ret = mig_fill_ensure(s->fill, page, nr, s->keep_going, s->ctx);
		if (ret < 0)
			return ret;
	}
	ret = get_chunk(s, &c);
	if (ret < 0)
		return ret;
	c->page = page;
	copy_claimed(s, c, first, claim(s, first));
	return snap_io_submit(s->io, c);
}

static int sweep(struct snap_sweep *s)
{
	uint64_t unit = 0;
	int ret = 0;

	while (ret == 0) {
		if (!s->keep_going(s->ctx))
			return -ECANCELED;
		ret = write_queued(s);
		unit = bitmap_next_set(s->todo, unit, s->nr_units);
		if (unit >= s->nr_units)
			return ret;
		unit -= unit % s->chunk_units;
		if (ret == 0)
			ret = sweep_chunk(s, unit);
		unit += s->chunk_units;
	}
	return ret;
}

/* The sweep ended early since pages of the guest itself cannot be had. */
static int say_missing(struct snap_sweep *s, char **err)
{
	return mig_say(err, -EIO,
		       "memory: %llu pages of the guest have not arrived and "
		       "at least one of them cannot be had",
		       (unsigned long long)mig_fill_pending(s->fill));
}

int snap_sweep_run(struct snap_sweep *s, char **err)
{
	int ret = sweep(s), end;

	if (ret == -EIO && s->fill && mig_fill_has_failed(s->fill))
		say_missing(s, err);
	stop_wp(s);
	end = write_queued(s); /* the last faults' copies */
	if (ret == 0)
		ret = end;
	end = snap_io_finish(s->io);
	if (ret == 0)
		ret = end;
	if (ret == -ECANCELED)
		return mig_say(err, ret, "cancelled");
	return ret < 0 ? mig_say(err, ret, "memory: %s", strerror(-ret)) : 0;
}

void snap_sweep_stats(struct snap_sweep *s, struct snap_sweep_stats *ret)
{
	ret->total_pages = atomic_load(&s->total_pages);
	ret->left_pages = atomic_load(&s->left_pages);
	snap_io_stats(s->io, &ret->data_pages, &ret->bytes_written);
	mig_histogram_read(&s->faults, &ret->faults);
}
