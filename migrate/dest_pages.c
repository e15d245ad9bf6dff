#include "migrate/dest_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "migrate/clock.h"
#include "migrate/faultpoint.h"
#include "migrate/net.h"

#define POPULATE_PAGES_MIN 8

static uint8_t *page_hva(struct mig_dest *d, uint64_t page)
{
	return vm_mem_base(vm_mem(d->guest->vm)) + page * VM_PAGE_BYTES;
}

/* Of a bulk channel. */
static struct mig_block *block_of(const struct mig_receiver *r)
{
	return &r->d->blocks[r->channel];
}

/* ---- precopy: straight into RAM ---- */

/*
 * A wrong sum means that the guest stored into the page while it was being sent;
 * then it comes again. If it does not, the page is damaged, and the switch is
 * refused (mig_dest: check_suspects).
 */
static void judge_page(struct mig_dest *d, uint64_t page, uint64_t sum)
{
	if (proto_page_sum(page, page_hva(d, page)) == sum)
		bitmap_atomic_clear(d->suspect, page);
	else
		bitmap_atomic_set(d->suspect, page);
}

static void populate(struct mig_dest *d, const struct proto_run *run)
{
	vm_mem_populate(vm_mem(d->guest->vm), run->first_page * VM_PAGE_BYTES,
			run->nr_pages * VM_PAGE_BYTES);
}

/* A long run whose start is new here likely is new all over. */
static bool wants_populate(const struct mig_dest *d, const struct mig_inbox *in,
			   const struct proto_run *run)
{
	if (run->nr_pages < POPULATE_PAGES_MIN ||
	    run->first_page - in->ahead.first_page < in->ahead.nr_pages)
		return false;
	return !bitmap_atomic_test(d->received, run->first_page);
}

static int data_to_ram(struct mig_receiver *r, struct mig_inbox *in)
{
	const struct proto_batch *b = &in->batch;
	struct mig_dest *d = r->d;
	uint32_t i, sum = 0;
	uint64_t j;
	int ret;

	for (i = 0; i < b->nr_runs; i++) {
		const struct proto_run *run = &b->runs[i];

		if (wants_populate(d, in, run))
			populate(d, run);
		in->iov[i].iov_base = page_hva(d, run->first_page);
		in->iov[i].iov_len = run->nr_pages * VM_PAGE_BYTES;
	}
	ret = mig_net_readv(r->fd, in->iov, b->nr_runs);
	if (ret < 0)
		return ret;
	for (i = 0; i < b->nr_runs; i++) {
		for (j = 0; j < b->runs[i].nr_pages; j++) {
			uint64_t page = b->runs[i].first_page + j;

			bitmap_atomic_set(d->received, page);
			judge_page(d, page, b->sums[sum++]);
		}
	}
	return 0;
}

/*
 * Not once the switch may have begun: with the userfaultfd registered it would
 * wait for pages that only we can place.
 */
int mig_dest_take_ahead(struct mig_receiver *r, struct mig_inbox *in)
{
	if (mig_dest_saw_barrier(r))
		return -EBADMSG;
	for (uint32_t i = 0; i < in->batch.nr_runs; i++) {
		in->ahead = in->batch.runs[i];
		if (!bitmap_atomic_test(r->d->received, in->ahead.first_page))
			populate(r->d, &in->ahead);
	}
	return 0;
}

/* Memory that never held anything stays unpopulated. */
static void zeros_to_ram(struct mig_dest *d, const struct proto_run *run)
{
	uint64_t end = run->first_page + run->nr_pages;
	uint64_t page = bitmap_next_set(d->received, run->first_page, end);

	for (; page < end; page = bitmap_next_set(d->received, page + 1, end)) {
		memset(page_hva(d, page), 0, VM_PAGE_BYTES);
		bitmap_atomic_clear(d->suspect, page);
	}
}

/* ---- postcopy: through the fill ---- */

static int check_sums(const struct proto_batch *b, const uint8_t *pages)
{
	uint32_t i, sum = 0;
	uint64_t j;

	for (i = 0; i < b->nr_runs; i++) {
		for (j = 0; j < b->runs[i].nr_pages; j++, sum++) {
			if (proto_page_sum(b->runs[i].first_page + j,
					   pages + sum * VM_PAGE_BYTES) !=
			    b->sums[sum])
				return -EBADMSG;
		}
	}
	return 0;
}

/* The guest is stopped over there: a wrong sum is damage, and nothing else. */
static int read_pages(struct mig_receiver *r, const struct proto_batch *b,
		      uint8_t *pages)
{
	uint64_t bytes = b->nr_sums * VM_PAGE_BYTES;
	int ret = mig_net_read(r->fd, pages, bytes);

	if (mig_dest_is_bulk(r))
		mig_flight_took(&r->flight, r->fd, bytes, mig_now_us());
	return ret < 0 ? ret : check_sums(b, pages);
}

static int data_to_block(struct mig_receiver *r, const struct proto_batch *b,
			 uint8_t *room)
{
	int ret = read_pages(r, b, room);

	if (ret == 0)
		ret = mig_block_add(block_of(r), b->nr_sums);
	if (!mig_block_is_empty(block_of(r)))
		mig_fault_point(r->d->session, "block");
	return ret;
}

static int data_to_fill(struct mig_receiver *r, struct mig_inbox *in,
			struct mig_fill *fill)
{
	const struct proto_batch *b = &in->batch;
	const uint8_t *at;
	uint32_t i;
	int ret;

	if (!in->pages)
		in->pages = malloc(PROTO_BATCH_PAGES_MAX * VM_PAGE_BYTES);
	if (!in->pages)
		return -ENOMEM;
	ret = read_pages(r, b, in->pages);
	at = in->pages;
	for (i = 0; ret == 0 && i < b->nr_runs; i++) {
		ret = mig_fill_place(fill, b->runs[i].first_page,
				     b->runs[i].nr_pages, at);
		at += b->runs[i].nr_pages * VM_PAGE_BYTES;
	}
	return ret;
}

/*
 * Not before the source's word that the guest may run: until then a session that breaks
 * takes the fill with it, under locks that who gives a page out of a block may take
 * (mig_dest_on_broken).
 */
static bool makes_blocks(const struct mig_receiver *r)
{
	return mig_dest_is_bulk(r) && mig_phase(&r->d->phases) >= MIG_COMMIT;
}

/* ---- both ---- */

int mig_dest_take_data(struct mig_receiver *r, struct mig_inbox *in)
{
	struct mig_fill *fill = atomic_load(&r->d->fill);
	const struct proto_batch *b = &in->batch;
	uint8_t *room = NULL;
	int ret = 0;

	atomic_fetch_add(&r->d->bytes, b->nr_sums * VM_PAGE_BYTES);
	atomic_fetch_add(&r->d->pages, b->nr_sums);
	if (!fill)
		return data_to_ram(r, in);
	if (makes_blocks(r))
		ret = mig_block_room(block_of(r), fill,
				     b->nr_runs == 1 ? b->runs : NULL, &room);
	if (ret < 0)
		return ret;
	return room ? data_to_block(r, b, room) : data_to_fill(r, in, fill);
}

int mig_dest_take_zeros(struct mig_receiver *r, struct mig_inbox *in)
{
	struct mig_fill *fill = atomic_load(&r->d->fill);
	uint32_t i;
	int ret = mig_dest_is_bulk(r) ? mig_block_flush(block_of(r)) : 0;

	for (i = 0; ret == 0 && i < in->batch.nr_runs; i++) {
		const struct proto_run *run = &in->batch.runs[i];

		atomic_fetch_add(&r->d->pages_zero, run->nr_pages);
		if (fill)
			ret = mig_fill_place(fill, run->first_page,
					     run->nr_pages, NULL);
		else
			zeros_to_ram(r->d, run);
	}
	return ret;
}

int mig_dest_await_rest_of_block(const struct mig_receiver *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLIN };

	if (!mig_dest_is_bulk(r) || mig_block_is_empty(block_of(r)) ||
	    poll(&p, 1, MIG_BLOCK_WAIT_MS) > 0)
		return 0;
	return mig_block_flush(block_of(r));
}
