#include "migrate/block.h"

#include "vmm/huge.h"

#define BLOCK_PAGES (VM_HUGE_PAGE_BYTES / VM_PAGE_BYTES)
/* Whoever wants one of the others waits no longer than for so many. */
#define FLUSH_PAGES 32

void mig_block_init(struct mig_block *b)
{
	pthread_mutex_init(&b->lock, NULL);
	atomic_init(&b->first_page, 0);
	atomic_init(&b->nr_pages, 0);
	b->fill = NULL;
	b->pages = NULL;
	atomic_init(&b->spoiled, false);
	b->was_huge = false;
	b->is_small = false;
}

void mig_block_trim(struct mig_block *b)
{
	huge_unmap(b->pages, VM_HUGE_PAGE_BYTES);
	b->pages = NULL;
	b->was_huge = false;
}

void mig_block_fini(struct mig_block *b)
{
	mig_block_trim(b);
	pthread_mutex_destroy(&b->lock);
}

bool mig_block_is_empty(const struct mig_block *b)
{
	return b->nr_pages == 0;
}

static uint8_t *page_at(const struct mig_block *b, uint64_t page)
{
	return b->pages + page % BLOCK_PAGES * VM_PAGE_BYTES;
}

static bool is_here(const struct mig_block *b, uint64_t page)
{
	return page - b->first_page < b->nr_pages;
}

/* Whether an empty one may begin with this page. */
static bool begin(struct mig_block *b, struct mig_fill *fill, uint64_t page)
{
	if (b->is_small || !mig_fill_takes_huge(fill, page))
		return false;
	if (!b->pages)
		b->pages = huge_map(VM_HUGE_PAGE_BYTES);
	if (!b->pages)
		return false;
	pthread_mutex_lock(&b->lock);
	b->fill = fill;
	b->first_page = page;
	b->spoiled = false;
	pthread_mutex_unlock(&b->lock);
	return true;
}

static bool goes_on(const struct mig_block *b, const struct proto_run *run)
{
	uint64_t next = b->first_page + b->nr_pages;

	return run && run->first_page == next && !b->spoiled &&
	       run->nr_pages <= BLOCK_PAGES - next % BLOCK_PAGES;
}

int mig_block_room(struct mig_block *b, struct mig_fill *fill,
		   const struct proto_run *run, uint8_t **ret_room)
{
	int ret = 0;

	*ret_room = NULL;
	if (!mig_block_is_empty(b) && !goes_on(b, run))
		ret = mig_block_flush(b);
	if (ret < 0 || !run)
		return ret;
	if (mig_block_is_empty(b) && !begin(b, fill, run->first_page))
		return 0;
	if (goes_on(b, run))
		*ret_room = page_at(b, run->first_page);
	return 0;
}

static int place(struct mig_block *b, uint64_t page, uint64_t nr_pages)
{
	return mig_fill_place_block(b->fill, page, nr_pages, page_at(b, page));
}

/*
 * Small pages are no better moved than copied. They follow on a huge page that was broken
 * up on its way because a page table was where it went: somebody had just faulted there,
 * or small pages were discarded. Then new memory helps; if that is small, then there are
 * no huge pages for us.
 */
static int give_small(struct mig_block *b)
{
	int ret = mig_block_flush(b);

	b->is_small = !b->was_huge;
	mig_block_trim(b);
	return ret;
}

static int give_whole(struct mig_block *b)
{
	int ret;

	if (!huge_is(b->pages))
		return give_small(b);
	pthread_mutex_lock(&b->lock);
	ret = place(b, b->first_page, BLOCK_PAGES);
	b->nr_pages = 0;
	pthread_mutex_unlock(&b->lock);
	b->was_huge = true;
	return ret;
}

int mig_block_add(struct mig_block *b, uint64_t nr_pages)
{
	uint64_t page = b->first_page + b->nr_pages;

	pthread_mutex_lock(&b->lock);
	b->nr_pages += nr_pages;
	pthread_mutex_unlock(&b->lock);
	if (b->nr_pages == BLOCK_PAGES)
		return b->spoiled ? mig_block_flush(b) : give_whole(b);
	if (!mig_fill_is_awaited(b->fill, page, nr_pages))
		return 0;
	b->spoiled = true;
	return place(b, page, nr_pages);
}

/* Up to FLUSH_PAGES. Empty if they cannot be placed: nothing more can. */
static int flush_some(struct mig_block *b)
{
	uint64_t nr = b->nr_pages < FLUSH_PAGES ? b->nr_pages : FLUSH_PAGES;
	int ret = 0;

	pthread_mutex_lock(&b->lock);
	if (nr > 0)
		ret = place(b, b->first_page, nr);
	b->first_page += nr;
	b->nr_pages -= ret < 0 ? b->nr_pages : nr;
	pthread_mutex_unlock(&b->lock);
	return ret;
}

int mig_block_flush(struct mig_block *b)
{
	int ret;

	do {
		ret = flush_some(b);
	} while (ret == 0 && !mig_block_is_empty(b));
	return ret;
}

bool mig_block_give(struct mig_block *b, uint64_t page)
{
	bool given;

	if (!is_here(b, page))
		return false;
	pthread_mutex_lock(&b->lock);
	given = is_here(b, page) && place(b, page, 1) == 0;
	if (given)
		b->spoiled = true;
	pthread_mutex_unlock(&b->lock);
	return given;
}
