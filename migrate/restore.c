#include "migrate/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/cpu_check.h"
#include "migrate/image.h"
#include "migrate/restore_lazy.h"
#include "migrate/say.h"

/* A read of the eager restore: large enough for any disk, small for the cache. */
#define READ_PAGES_MAX 1024

struct mig_restore {
	/* Constant. */
	struct mig_restore_config cfg;
	char *dir; /* owned: cfg.dir */
	const struct mig_restore_ops *ops;
	void *ctx;
	pthread_t thread;
	uint64_t started_us;
	/* The restore's thread. */
	struct mig_image *image;
	/* Under lock. */
	pthread_mutex_t lock;
	bool quit;
	struct mig_status status;
	struct mig_restore_stats stats;
	struct mig_guest *guest; /* owned until it has been handed out */
	bool runs;               /* may be handed out */
	bool handed_out;
	struct restore_lazy *lazy;
};

/* The only writer of the phase: the restore's thread. */
static void enter(struct mig_restore *r, enum mig_phase phase)
{
	pthread_mutex_lock(&r->lock);
	r->status.phase = phase;
	pthread_mutex_unlock(&r->lock);
	r->ops->changed(r->ctx);
}

static bool keep_going(void *ctx)
{
	struct mig_restore *r = ctx;
	bool quit;

	pthread_mutex_lock(&r->lock);
	quit = r->quit;
	pthread_mutex_unlock(&r->lock);
	return !quit;
}

static int refuse_hugetlb(struct mig_restore *r, char **err)
{
	if (!r->cfg.lazy || r->image->machine.mem_backend != VM_MEM_HUGETLB)
		return 0;
	return mig_say(err, -EOPNOTSUPP,
		       "a guest on hugetlb memory cannot be restored lazily: "
		       "leave out --lazy");
}

struct lines {
	char text[3072];
	size_t used;
};

static void add_line(void *ctx, const char *line)
{
	struct lines *l = ctx;
	size_t room = sizeof(l->text) - l->used;
	int n = snprintf(l->text + l->used, room, "%s%s", l->used ? "; " : "",
			 line);

	if (n > 0)
		l->used += (size_t)n < room ? (size_t)n : room - 1;
}

static int check_cpu(struct mig_restore *r, char **err)
{
	const struct mig_machine *m = &r->image->machine;
	struct lines l = { .used = 0 };

	if (mig_cpu_missing(m->cpuid, m->nr_cpuid, add_line, &l) == 0)
		return 0;
	return mig_say(err, -EOPNOTSUPP, "this host cannot run it: %s", l.text);
}

static int say_lines(const struct lines *l, char **err)
{
	return l->used == 0 ? 0 : mig_say(err, -EINVAL, "%s", l->text);
}

/* The snapshot stays what it is: a guest gets a copy of its copy to write to. */
static int refuse_own_disks(struct mig_restore *r, const struct vm_config *cfg,
			    char **err)
{
	size_t i;

	for (i = 0; i < cfg->nr_disks; i++) {
		const char *path = cfg->disks[i].path;
		int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		bool own = fd >= 0 && mig_image_has_disk(r->dir, fd);

		if (fd >= 0)
			close(fd);
		if (own && !cfg->disks[i].read_only)
			return mig_say(err, -EINVAL,
				       "disk %zu: %s is part of the snapshot: "
				       "copy it, so that it stays as it is",
				       i, path);
	}
	return 0;
}

/* Its disks are locked from here on: waiting for memory would be in vain. */
static int make_vm(struct mig_restore *r, const struct vm_config *cfg,
		   struct vm **ret_vm, char **err)
{
	struct lines l = { .used = 0 };
	const struct mig_objector o = { add_line, &l };
	struct vm *vm;
	int ret;

	ret = vm_new(cfg, r->cfg.vm_ops, r->cfg.vm_ctx, &vm, err);
	if (ret < 0)
		return ret;
	mig_hardware_compare(&r->image->machine.hardware, vm, &o);
	ret = say_lines(&l, err);
	if (ret == 0)
		ret = vm_disks_lock(vm, err);
	if (ret < 0)
		vm_free(vm);
	else
		*ret_vm = vm;
	return ret;
}

static int build_vm(struct mig_restore *r, struct vm **ret_vm, char **err)
{
	const struct mig_machine *m = &r->image->machine;
	struct lines l = { .used = 0 };
	const struct mig_objector o = { add_line, &l };
	struct mig_plan plan;
	struct vm_config cfg = {
		.ram_bytes = m->ram_bytes,
		.nr_cpus = m->nr_cpus,
		.mem_backend = m->mem_backend,
		.dirty_ring_entries = r->cfg.dirty_ring_entries,
		.cpuid = m->cpuid,
		.nr_cpuid = m->nr_cpuid,
		.tsc_khz = m->tsc_khz,
	};

	int ret;

	mig_hardware_plan(&m->hardware, &r->cfg.host, &plan, &cfg, &o);
	mig_hardware_probe(&m->hardware, &cfg, &o);
	ret = say_lines(&l, err);
	if (ret == 0)
		ret = refuse_own_disks(r, &cfg, err);
	return ret < 0 ? ret : make_vm(r, &cfg, ret_vm, err);
}

static int make_guest(struct mig_restore *r, char **err)
{
	struct mig_guest *g;
	struct vm *vm;
	int ret;

	ret = build_vm(r, &vm, err);
	if (ret < 0)
		return ret;
	ret = mig_guest_new(vm, &g);
	if (ret < 0) {
		vm_free(vm);
		return ret;
	}
	pthread_mutex_lock(&r->lock);
	r->guest = g;
	r->stats.total_pages = r->stats.left_pages = r->image->data_pages;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* Every page is verified before the guest starts. */
static int check_pages(struct mig_restore *r, uint64_t page, uint64_t nr,
		       const uint8_t *data, char **err)
{
	for (uint64_t i = 0; i < nr; i++) {
		if (mig_image_page_is_good(r->image, page + i,
					   data + i * VM_PAGE_BYTES))
			continue;
		return mig_say(
			err, -EBADMSG, "memory: damaged at offset 0x%llx",
			(unsigned long long)((page + i) * VM_PAGE_BYTES));
	}
	return 0;
}

static int read_run(struct mig_restore *r, uint64_t page, uint64_t nr,
		    char **err)
{
	struct vm_mem *m = vm_mem(r->guest->vm);
	uint8_t *hva = vm_mem_base(m) + page * VM_PAGE_BYTES;
	int ret;

	vm_mem_populate(m, page * VM_PAGE_BYTES, nr * VM_PAGE_BYTES);
	ret = mig_image_read(r->image, page, nr, hva);
	if (ret < 0)
		return mig_say(err, ret, "memory: offset 0x%llx: %s",
			       (unsigned long long)(page * VM_PAGE_BYTES),
			       strerror(-ret));
	ret = check_pages(r, page, nr, hva, err);
	pthread_mutex_lock(&r->lock);
	r->stats.left_pages -= nr;
	pthread_mutex_unlock(&r->lock);
	return ret;
}

/* Straight into guest memory; pages without a sum stay untouched. */
static int read_eager(struct mig_restore *r, char **err)
{
	uint64_t page = 0, nr;
	int ret = 0;

	while (ret == 0 &&
	       mig_image_next_run(r->image, &page, &nr, READ_PAGES_MAX)) {
		if (!keep_going(r))
			return mig_say(err, -ECANCELED, "cancelled");
		ret = read_run(r, page, nr, err);
		page += nr;
	}
	return ret;
}

static int load_memory(struct mig_restore *r, char **err)
{
	struct restore_lazy *lazy;
	int ret;

	if (!r->cfg.lazy)
		return read_eager(r, err);
	ret = restore_lazy_new(r->guest, r->image, &lazy, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&r->lock);
	r->lazy = lazy;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* Memory first: loading state may make KVM look into it. */
static int load_state(struct mig_restore *r, char **err)
{
	struct vm *vm = r->guest->vm;
	struct vm_state state;
	int ret;

	ret = mig_state_unpack(r->image->state, r->image->state_bytes, vm,
			       &state, err);
	if (ret < 0)
		return ret;
	/* The guest goes on where it stopped, however long that is ago. */
	ret = vm_state_load(vm, &state, 0, err);
	vm_state_fini(&state);
	return ret;
}

/* A guest that had ended before its snapshot ends again: -ECANCELED. */
static int start_guest(struct mig_restore *r, char **err)
{
	struct vm *vm = r->guest->vm;
	int ret;

	ret = vm_start(vm);
	if (ret == 0)
		ret = mig_guest_resume(r->guest, err);
	if (ret < 0 && ret != -ECANCELED)
		return mig_say(err, ret, "the guest cannot start: %s",
			       strerror(-ret));
	pthread_mutex_lock(&r->lock);
	r->stats.start_us = mig_now_us() - r->started_us;
	r->runs = true;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

static int bring_up(struct mig_restore *r, char **err)
{
	int ret;

	ret = mig_image_open(r->dir, &r->image, err);
	if (ret == 0)
		ret = refuse_hugetlb(r, err);
	if (ret == 0)
		ret = check_cpu(r, err);
	if (ret == 0)
		ret = make_guest(r, err);
	if (ret == 0)
		ret = load_memory(r, err);
	if (ret == 0)
		ret = load_state(r, err);
	if (r->lazy) {
		int lazy_ret = restore_lazy_loaded(r->lazy, err);

		ret = ret < 0 ? ret : lazy_ret;
	}
	if (ret == 0 && !keep_going(r))
		ret = mig_say(err, -ECANCELED, "cancelled");
	if (ret == 0)
		ret = start_guest(r, err);
	return ret;
}

/* One line, with the directory in it once. */
static void set_error(struct mig_restore *r, int ret, const char *line)
{
	char *out = r->status.error;

	if (!line)
		line = strerror(-ret);
	pthread_mutex_lock(&r->lock);
	if (strncmp(line, "snapshot ", 9) == 0)
		snprintf(out, MIG_ERROR_BYTES, "%s", line);
	else
		snprintf(out, MIG_ERROR_BYTES, "snapshot %s: %s", r->dir, line);
	pthread_mutex_unlock(&r->lock);
}

static void all_here(struct mig_restore *r)
{
	pthread_mutex_lock(&r->lock);
	r->stats.total_us = mig_now_us() - r->started_us;
	r->stats.left_pages = 0;
	pthread_mutex_unlock(&r->lock);
	enter(r, MIG_COMPLETE);
}

/*
 * A page that cannot be had is waited for, never made up, so what stops here
 * are the vCPUs that do not need it. The word comes first: one that waits for
 * its own page table would keep us in vm_pause() until the restore is freed.
 */
static void hold_damaged(struct mig_restore *r, const char *line)
{
	set_error(r, -EIO, line);
	enter(r, MIG_PAUSED);
	vm_pause(r->guest->vm);
}

static void finish_lazy(struct mig_restore *r)
{
	char *err = NULL;
	int ret;

	enter(r, MIG_POSTCOPY);
	ret = restore_lazy_run(r->lazy, keep_going, r, &err);
	if (ret == 0) {
		restore_lazy_end(r->lazy);
		all_here(r);
	} else if (ret != -ECANCELED) {
		hold_damaged(r, err);
	}
	free(err);
}

static void *restore_thread(void *arg)
{
	struct mig_restore *r = arg;
	char *err = NULL;
	int ret = bring_up(r, &err);

	if (ret < 0) {
		set_error(r, ret, err);
		free(err);
		enter(r, MIG_FAILED);
	} else if (r->lazy) {
		finish_lazy(r);
	} else {
		enter(r, MIG_POSTCOPY);
		all_here(r);
	}
	return NULL;
}

static void free_storage(struct mig_restore *r)
{
	mig_image_free(r->image);
	pthread_mutex_destroy(&r->lock);
	free(r->dir);
	free(r);
}

int mig_restore_start(const struct mig_restore_config *cfg,
		      const struct mig_restore_ops *ops, void *ctx,
		      struct mig_restore **ret_restore)
{
	struct mig_restore *r = calloc(1, sizeof(*r));
	int ret = -ENOMEM;

	if (!r)
		return ret;
	pthread_mutex_init(&r->lock, NULL);
	r->cfg = *cfg;
	r->ops = ops;
	r->ctx = ctx;
	r->started_us = mig_now_us();
	r->status.phase = MIG_SETUP;
	r->dir = strdup(cfg->dir);
	if (r->dir)
		ret = -pthread_create(&r->thread, NULL, restore_thread, r);
	if (ret < 0) {
		free_storage(r);
		return ret;
	}
	pthread_setname_np(r->thread, "restore");
	*ret_restore = r;
	return 0;
}

struct mig_guest *mig_restore_guest(struct mig_restore *r)
{
	struct mig_guest *g;

	pthread_mutex_lock(&r->lock);
	g = r->runs ? r->guest : NULL;
	if (g)
		r->handed_out = true;
	pthread_mutex_unlock(&r->lock);
	return g;
}

void mig_restore_status(struct mig_restore *r, struct mig_status *ret_status,
			struct mig_restore_stats *ret_stats)
{
	pthread_mutex_lock(&r->lock);
	if (r->lazy) {
		restore_lazy_stats(r->lazy, &r->stats.left_pages,
				   &r->stats.faults);
	}
	*ret_status = r->status;
	*ret_stats = r->stats;
	if (r->status.phase == MIG_POSTCOPY || r->status.phase == MIG_SETUP)
		ret_stats->total_us = mig_now_us() - r->started_us;
	pthread_mutex_unlock(&r->lock);
}

/* The fill of a lazy restore, if there is one already, ends. */
static void end_lazy(struct mig_restore *r)
{
	struct restore_lazy *lazy;

	pthread_mutex_lock(&r->lock);
	lazy = r->lazy;
	pthread_mutex_unlock(&r->lock);
	if (lazy)
		restore_lazy_end(lazy);
}

void mig_restore_free(struct mig_restore *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->quit = true;
	pthread_mutex_unlock(&r->lock);
	/*
	 * Before the join: it lets a thread out of vm_pause() that waits for a
	 * vCPU which waits for a damaged page. A guest that still misses pages
	 * is parked by it and is not to run again. Once more after the join,
	 * for a fill that was only being made the first time.
	 */
	end_lazy(r);
	pthread_join(r->thread, NULL);
	end_lazy(r);
	restore_lazy_free(r->lazy);
	if (!r->handed_out)
		mig_guest_free(r->guest);
	free_storage(r);
}
