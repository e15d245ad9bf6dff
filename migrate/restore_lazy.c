#include "migrate/restore_lazy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/say.h"
#include "vmm/bitmap.h"

/* Around a fault: near pages are often wanted next, and reading costs little. */
#define CLUSTER_PAGES 16
/* At a time in the background: a fault that comes now waits for no more. */
#define PREFETCH_PAGES 64

struct restore_lazy {
	/* Constant. */
	const struct mig_image *image; /* borrowed */
	struct mig_fill *fill;         /* held until free */
	uint64_t pages;
	uint8_t *prefetched; /* PREFETCH_PAGES; restore_lazy_run()'s thread */
	pthread_mutex_t end_lock; /* ending: one after the other */
	bool ended;               /* under end_lock */
	/* Under lock. */
	pthread_mutex_t lock;
	pthread_cond_t changed;  /* of what follows */
	unsigned int nr_wanting; /* faults being served now */
	bool drained;
	bool loaded; /* the state is: from here on the guest may run */
	bool needed; /* to load it: bad_page was */
	int err;     /* a page cannot be had */
	uint64_t bad_page;
};

static void note_bad_page(struct restore_lazy *l, uint64_t page, int err)
{
	pthread_mutex_lock(&l->lock);
	if (l->err == 0) {
		l->err = err;
		l->bad_page = page;
	}
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	mig_fill_fail(l->fill);
}

/* data: pages [page, +nr), not all of them pending. Bad ones are left out. */
static void place_good(struct restore_lazy *l, uint64_t page, uint64_t nr,
		       const uint8_t *data)
{
	uint64_t i = 0, run = 0;
	int ret;

	/* [run, i) is good and not yet placed. */
	for (; i <= nr; i++) {
		if (i < nr && l->image->sums[page + i] != 0 &&
		    mig_image_page_is_good(l->image, page + i,
					   data + i * VM_PAGE_BYTES))
			continue;
		ret = i > run ? mig_fill_place(l->fill, page + run, i - run,
					       data + run * VM_PAGE_BYTES)
			      : 0;
		if (ret < 0)
			note_bad_page(l, page + run, ret);
		if (i < nr && mig_fill_is_pending(l->fill, page + i))
			note_bad_page(l, page + i, -EBADMSG);
		run = i + 1;
	}
}

/* From the first to the last pending page of [page, end). */
static void fetch(struct restore_lazy *l, uint64_t page, uint64_t end,
		  uint8_t *buf)
{
	int ret;

	while (page < end && !mig_fill_is_pending(l->fill, page))
		page++;
	while (end > page && !mig_fill_is_pending(l->fill, end - 1))
		end--;
	if (page == end)
		return;
	ret = mig_image_read(l->image, page, end - page, buf);
	if (ret < 0)
		note_bad_page(l, page, ret);
	else
		place_good(l, page, end - page, buf);
}

static void add_wanting(struct restore_lazy *l, int n)
{
	pthread_mutex_lock(&l->lock);
	l->nr_wanting += (unsigned int)n;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

/*
 * KVM reads guest memory while the state is loaded, and who waits for a page in
 * there cannot be called back. A page that cannot be had is zero for it: the
 * guest will not run (restore_lazy_loaded).
 */
static void release_loader(struct restore_lazy *l, uint64_t page)
{
	bool loading;

	pthread_mutex_lock(&l->lock);
	loading = l->err < 0 && !l->loaded &&
		  mig_fill_is_pending(l->fill, page);
	if (loading && !l->needed) {
		/* Others of its cluster may be bad as well: this one matters. */
		l->bad_page = page;
		l->needed = true;
	}
	pthread_mutex_unlock(&l->lock);
	if (loading)
		mig_fill_place(l->fill, page, 1, NULL);
}

/* A fault thread, or one in mig_fill_ensure(). */
static void on_want(void *ctx, uint64_t page)
{
	struct restore_lazy *l = ctx;
	uint8_t buf[CLUSTER_PAGES * VM_PAGE_BYTES];
	uint64_t first = page - page % CLUSTER_PAGES;
	uint64_t end = first + CLUSTER_PAGES;

	add_wanting(l, 1);
	fetch(l, first, end < l->pages ? end : l->pages, buf);
	release_loader(l, page);
	add_wanting(l, -1);
}

static void on_drained(void *ctx)
{
	struct restore_lazy *l = ctx;

	pthread_mutex_lock(&l->lock);
	l->drained = true;
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
}

static const struct mig_fill_ops fill_ops = {
	.want = on_want,
	.drained = on_drained,
};

static uint64_t *pages_with_data(const struct mig_image *img)
{
	uint64_t *map = bitmap_new(img->pages);
	uint64_t page = 0, nr;

	while (map && mig_image_next_run(img, &page, &nr, img->pages)) {
		for (; nr > 0; nr--)
			bitmap_set(map, page++);
	}
	return map;
}

int restore_lazy_new(struct mig_guest *g, const struct mig_image *img,
		     struct restore_lazy **ret_lazy, char **err)
{
	struct restore_lazy *l = calloc(1, sizeof(*l));
	struct mig_fill *fill;
	uint64_t *pending = pages_with_data(img);
	int ret = -ENOMEM;

	if (l)
		l->prefetched = malloc(PREFETCH_PAGES * VM_PAGE_BYTES);
	if (!l || !l->prefetched || !pending)
		goto free_all;
	l->image = img;
	l->pages = img->pages;
	l->drained = img->data_pages == 0;
	pthread_mutex_init(&l->end_lock, NULL);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	ret = mig_fill_new(g, pending, &fill_ops, l, &fill, err);
	if (ret < 0)
		goto free_all;
	mig_fill_hold(fill);
	pthread_mutex_lock(&l->lock);
	l->fill = fill; /* on_want() takes the lock before it looks */
	pthread_mutex_unlock(&l->lock);
	*ret_lazy = l;
	return 0;
free_all:
	bitmap_free(pending, img->pages);
	if (l)
		free(l->prefetched);
	free(l);
	return ret;
}

/* Returns 0 when no fault is being served, or why the background work ends. */
static int wait_for_turn(struct restore_lazy *l)
{
	int ret;

	pthread_mutex_lock(&l->lock);
	while (l->err == 0 && l->nr_wanting > 0)
		pthread_cond_wait(&l->changed, &l->lock);
	ret = l->err;
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static int prefetch(struct restore_lazy *l, bool (*keep_going)(void *ctx),
		    void *ctx)
{
	uint64_t page = 0, nr;
	int ret = 0;

	while (mig_image_next_run(l->image, &page, &nr, PREFETCH_PAGES)) {
		ret = wait_for_turn(l);
		if (ret < 0)
			return ret;
		if (!keep_going(ctx))
			return -ECANCELED;
		fetch(l, page, page + nr, l->prefetched);
		page += nr;
	}
	return 0;
}

/*
 * Whoever placed the last page may still be about to say so; the fill cannot be
 * ended before he has.
 */
static int wait_drained(struct restore_lazy *l, bool (*keep_going)(void *ctx),
			void *ctx)
{
	int ret = 0;

	pthread_mutex_lock(&l->lock);
	while (ret == 0 && !l->drained) {
		ret = keep_going(ctx) ? l->err : -ECANCELED;
		if (ret == 0)
			pthread_cond_wait(&l->changed, &l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static int say_bad_page(struct restore_lazy *l, const char *so, char **err)
{
	return mig_say(err, l->err, "memory: page at offset 0x%llx %s: %s",
		       (unsigned long long)(l->bad_page * VM_PAGE_BYTES),
		       l->err == -EBADMSG ? "is damaged" : "cannot be read",
		       so);
}

int restore_lazy_run(struct restore_lazy *l, bool (*keep_going)(void *ctx),
		     void *ctx, char **err)
{
	int ret = prefetch(l, keep_going, ctx);

	if (ret == 0)
		ret = wait_drained(l, keep_going, ctx);
	if (ret == 0 || ret == -ECANCELED)
		return ret;
	return say_bad_page(l,
			    "the guest is held where it is, since it may "
			    "need that page",
			    err);
}

int restore_lazy_loaded(struct restore_lazy *l, char **err)
{
	int ret;

	pthread_mutex_lock(&l->lock);
	ret = l->err;
	l->loaded = true;
	pthread_mutex_unlock(&l->lock);
	return ret < 0 ? say_bad_page(l, "the guest cannot start without it",
				      err)
		       : 0;
}

void restore_lazy_end(struct restore_lazy *l)
{
	pthread_mutex_lock(&l->end_lock);
	if (!l->ended)
		mig_fill_free(l->fill);
	l->ended = true;
	pthread_mutex_unlock(&l->end_lock);
	/* A prefetch that waits looks at keep_going again. */
	add_wanting(l, 0);
}

void restore_lazy_stats(struct restore_lazy *l, uint64_t *ret_left_pages,
			struct mig_faults *ret_faults)
{
	*ret_left_pages = mig_fill_pending(l->fill);
	mig_fill_faults(l->fill, ret_faults);
}

void restore_lazy_free(struct restore_lazy *l)
{
	if (!l)
		return;
	mig_fill_drop(l->fill);
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	pthread_mutex_destroy(&l->end_lock);
	free(l->prefetched);
	free(l);
}
