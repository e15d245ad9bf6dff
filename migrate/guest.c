#include "migrate/guest.h"

#include <errno.h>
#include <stdlib.h>

#include "migrate/fill.h"

int mig_guest_new(struct vm *vm, struct mig_guest **ret_guest)
{
	struct mig_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->vm = vm;
	pthread_mutex_init(&g->lock, NULL);
	*ret_guest = g;
	return 0;
}

void mig_guest_free(struct mig_guest *g)
{
	if (!g)
		return;
	mig_fill_free(g->fill);
	uffd_free(g->uffd);
	vm_free(g->vm);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

int mig_guest_uffd(struct mig_guest *g, struct uffd **ret_uffd, char **err)
{
	struct vm_mem *mem = vm_mem(g->vm);
	int ret = 0;

	pthread_mutex_lock(&g->lock);
	if (!g->uffd)
		ret = uffd_new(vm_mem_base(mem), vm_mem_bytes(mem),
			       vm_mem_host_page_bytes(mem), &g->uffd, err);
	if (ret == 0)
		*ret_uffd = g->uffd;
	pthread_mutex_unlock(&g->lock);
	return ret;
}

uint64_t mig_guest_missing_pages(struct mig_guest *g)
{
	struct mig_fill *f = mig_guest_fill_get(g);
	uint64_t pages = f ? mig_fill_pending(f) : 0;

	mig_guest_fill_put(f);
	return pages;
}

struct mig_fill *mig_guest_fill_get(struct mig_guest *g)
{
	struct mig_fill *f;

	pthread_mutex_lock(&g->lock);
	f = g->fill;
	if (f)
		mig_fill_hold(f);
	pthread_mutex_unlock(&g->lock);
	return f;
}

void mig_guest_fill_put(struct mig_fill *f)
{
	if (f)
		mig_fill_drop(f);
}
