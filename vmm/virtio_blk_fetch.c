/*
 * vmm/virtio_blk_fetch.c: threads that wait for the memory of a request.
 *
 * While RAM is held (vm_mem_hold) who touches it may have to wait: for the far side,
 * which has the page, or for a snapshot, which saves it first. That must not be the
 * worker, or no other request would go on. Nor a thread of the kernel's: within a
 * write it holds the file's lock, so that all other writes wait with it; and when
 * this process is killed it may wait for good. Seen on Linux 6.12: a thread of
 * io_uring's that has taken the kill signal already goes on to the next write, and
 * the userfaultfd, which alone could wake it, is closed only after its end.
 *
 * So all data of a transfer is touched here before the kernel gets to see it, by
 * threads that a kill ends wherever they are. What was touched stays as it is: while
 * devices run no page becomes missing or protected. Who has once been needed stays,
 * idle: a pause shall not have to wait for threads that end.
 */
#include "vmm/virtio_blk_internal.h"

#include <stdatomic.h>
#include <sys/eventfd.h>

/*
 * A store of what is there already. Not by OR of 0: clang takes that for a fence, and
 * touches nothing.
 */
static void touch_to_write(uintptr_t at)
{
	_Atomic uint8_t *byte = (_Atomic uint8_t *)at;
	uint8_t is = atomic_load(byte);

	atomic_compare_exchange_strong(byte, &is, is);
}

static void touch_bytes(uintptr_t at, size_t bytes, bool to_write)
{
	uintptr_t end = at + bytes;

	for (; at < end; at = (at | (VM_PAGE_BYTES - 1)) + 1) {
		if (to_write)
			touch_to_write(at);
		else
			(void)*(volatile uint8_t *)at;
	}
}

/* Whatever its status byte lies in. */
static void touch_status(const struct virtio_chain *c)
{
	const struct iovec *seg = &c->iov[c->nr_out + c->nr_in - 1];

	while (seg->iov_len == 0)
		seg--;
	touch_bytes((uintptr_t)seg->iov_base + seg->iov_len - 1, 1, true);
}

/* No more than the request is about: the guest may have put all of RAM in its chain. */
static void touch(struct blk_request *r)
{
	unsigned int n = blk_request_slice(r, 0, r->bytes);

	for (unsigned int i = 0; i < n; i++)
		touch_bytes((uintptr_t)r->iov[i].iov_base, r->iov[i].iov_len,
			    r->type == BLK_T_IN);
	touch_status(&r->chain);
}

/* Under lock, dropped meanwhile. NULL: it is time to end. */
static struct blk_request *next_wanted(struct blk_fetch *f)
{
	struct blk_request *r;

	f->nr_idle++;
	while (!f->wanted && !f->quit)
		pthread_cond_wait(&f->asked, &f->lock);
	f->nr_idle--;
	r = f->wanted;
	if (!r)
		return NULL;
	f->wanted = r->next;
	f->nr_wanted--;
	return r;
}

static void *fetcher_main(void *arg)
{
	struct virtio_blk *b = arg;
	struct blk_fetch *f = &b->fetch;
	struct blk_request *r;

	pthread_setname_np(pthread_self(), "disk-memory");
	pthread_mutex_lock(&f->lock);
	while ((r = next_wanted(f))) {
		pthread_mutex_unlock(&f->lock);
		touch(r);
		pthread_mutex_lock(&f->lock);
		if (!f->here)
			eventfd_write(b->ring_eventfd, 1);
		r->next = f->here;
		f->here = r;
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

/* Under lock: whether somebody will get to what is wanted. */
static bool has_threads(struct virtio_blk *b)
{
	struct blk_fetch *f = &b->fetch;
	pthread_t *thread = &f->threads[f->nr_threads];

	if (f->nr_idle <= f->nr_wanted && f->nr_threads < BLK_FETCHERS_MAX &&
	    pthread_create(thread, NULL, fetcher_main, b) == 0)
		f->nr_threads++;
	return f->nr_threads > 0;
}

void blk_fetch(struct virtio_blk *b, struct blk_request *r, enum blk_step step)
{
	struct blk_fetch *f = &b->fetch;
	bool passed;

	if (!vm_mem_is_held(b->dev.mem)) {
		blk_io_start(b, r, step);
		return;
	}
	r->step = step;
	r->next = NULL;
	pthread_mutex_lock(&f->lock);
	passed = has_threads(b);
	if (passed) {
		*(f->wanted ? &f->wanted_last->next : &f->wanted) = r;
		f->wanted_last = r;
		f->nr_wanted++;
		pthread_cond_signal(&f->asked);
	}
	pthread_mutex_unlock(&f->lock);
	if (!passed) {
		touch(r);
		blk_io_start(b, r, step);
	}
}

void blk_fetch_reap(struct virtio_blk *b)
{
	struct blk_fetch *f = &b->fetch;
	struct blk_request *r, *next;

	pthread_mutex_lock(&f->lock);
	r = f->here;
	f->here = NULL;
	pthread_mutex_unlock(&f->lock);
	for (; r; r = next) {
		next = r->next;
		blk_io_start(b, r, r->step);
	}
}

void blk_fetch_init(struct virtio_blk *b)
{
	pthread_mutex_init(&b->fetch.lock, NULL);
	pthread_cond_init(&b->fetch.asked, NULL);
}

void blk_fetch_fini(struct virtio_blk *b)
{
	struct blk_fetch *f = &b->fetch;

	pthread_mutex_lock(&f->lock);
	f->quit = true;
	pthread_cond_broadcast(&f->asked);
	pthread_mutex_unlock(&f->lock);
	while (f->nr_threads > 0)
		pthread_join(f->threads[--f->nr_threads], NULL);
	pthread_cond_destroy(&f->asked);
	pthread_mutex_destroy(&f->lock);
}
