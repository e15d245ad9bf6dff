#include "migrate/guest.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/fill.h"

#define LOCK_RETRY_US    20000
#define LOCK_PATIENCE_US 10000000

int mig_guest_new(struct vm *vm, struct mig_guest **ret_guest)
{
	struct mig_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	g->vm = vm;
	mig_collapse_init(&g->collapse, vm_mem(vm));
	pthread_mutex_init(&g->lock, NULL);
	*ret_guest = g;
	return 0;
}

void mig_guest_free(struct mig_guest *g)
{
	if (!g)
		return;
	mig_fill_free(g->fill);
	mig_collapse_fini(&g->collapse);
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
			       vm_mem_host_page_bytes(mem), vm_nr_cpus(g->vm),
			       &g->uffd, err);
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

int mig_guest_resume(struct mig_guest *g, char **err)
{
	int ret = vm_disks_lock(g->vm, err);

	return ret < 0 ? ret : vm_resume(g->vm);
}

int mig_guest_lock_again(struct mig_guest *g, bool (*may_wait)(void *ctx),
			 void *ctx, char **err)
{
	uint64_t end_us = mig_now_us() + LOCK_PATIENCE_US;
	char *why = NULL;
	int ret;

	while ((ret = vm_disks_lock(g->vm, &why)) == -EBUSY &&
	       mig_now_us() < end_us && may_wait(ctx)) {
		free(why);
		why = NULL;
		usleep(LOCK_RETRY_US);
	}
	if (ret < 0)
		*err = why;
	else
		free(why);
	return ret;
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
