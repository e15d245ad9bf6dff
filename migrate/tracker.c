#include "migrate/tracker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/say.h"
#include "vmm/bitmap.h"

struct engine {
	const char *name;
	const char *about;
	const char *lacks;
	bool (*on_host)(const struct vm_dirty_caps *caps);
	bool wants_ring; /* KVM reports by ring or by log, never both */
	enum vm_dirty_log log;
	int (*sync)(struct vm *vm, uint64_t *bitmap);
};

struct mig_tracker {
	struct vm *vm; /* borrowed */
	const struct engine *engine;
	bool started;
};

static bool has_wp_all(const struct vm_dirty_caps *caps)
{
	return caps->wp_all && caps->log_flags;
}

static bool has_ring(const struct vm_dirty_caps *caps)
{
	return caps->ring_entries_max > 0;
}

static bool has_manual(const struct vm_dirty_caps *caps)
{
	return caps->manual;
}

static bool has_log(const struct vm_dirty_caps *caps)
{
	(void)caps;
	return true;
}

static int sync_ring(struct vm *vm, uint64_t *bitmap)
{
	size_t words = bitmap_words(vm_mem_pages(vm_mem(vm)));

	memset(bitmap, 0, words * sizeof(*bitmap));
	return vm_dirty_ring_collect(vm, bitmap);
}

/*
 * Best first: auto takes the first that the host has and that fits the vm. A vm
 * with rings has no dirty log and the other way round, so ring and the logs
 * never compete.
 */
static const struct engine engines[MIG_NR_TRACKERS] = {
	{
		.name = "wp-all",
		.about = "protects all memory at once, in a time that does not "
			 "grow with it",
		.lacks = "needs a kernel with the patches in vmmd's "
			 "kernel-patch/ and, on Intel, kvm_intel.pml=0",
		.on_host = has_wp_all,
		.log = VM_DIRTY_LOG_WP_ALL,
		.sync = vm_dirty_log_fetch,
	},
	{
		.name = "manual",
		.about = "protects only the chunk about to be sent",
		.lacks = "needs KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: Linux 5.2 "
			 "or later",
		.on_host = has_manual,
		.log = VM_DIRTY_LOG_MANUAL,
		.sync = vm_dirty_log_fetch,
	},
	{
		.name = "ring",
		.about = "a sync costs what was dirtied; start the guest with "
			 "--dirty-ring",
		.lacks = "needs KVM_CAP_DIRTY_LOG_RING: Linux 5.11 or later",
		.on_host = has_ring,
		.wants_ring = true,
		.sync = sync_ring,
	},
	{
		.name = "log",
		.about = "works everywhere; every sync protects all memory",
		.lacks = "",
		.on_host = has_log,
		.sync = vm_dirty_log_fetch,
	},
};

/* 0, or why this engine cannot track this vm. */
static int fits(const struct engine *e, struct vm *vm,
		const struct vm_dirty_caps *caps, char **err)
{
	bool vm_has_ring = vm_dirty_ring_entries(vm) > 0;

	/* First, since KVM then denies a vm what the host has. */
	if (!e->wants_ring && vm_has_ring)
		return mig_say(
			err, -EOPNOTSUPP,
			"tracker %s: this guest was started with "
			"--dirty-ring, and KVM then keeps no dirty log: use "
			"ring or auto",
			e->name);
	if (!e->on_host(caps))
		return mig_say(err, -EOPNOTSUPP, "tracker %s: %s", e->name,
			       e->lacks);
	if (e->wants_ring && !vm_has_ring)
		return mig_say(err, -EOPNOTSUPP,
			       "tracker ring: this guest was started without "
			       "--dirty-ring, and KVM cannot add one later");
	return 0;
}

static int choose(struct vm *vm, const char *name, const struct engine **ret,
		  char **err)
{
	bool any = strcmp(name, "auto") == 0;
	struct vm_dirty_caps caps;
	size_t i;
	int r;

	vm_dirty_caps_vm(vm, &caps);
	for (i = 0; i < MIG_NR_TRACKERS; i++) {
		if (!any && strcmp(name, engines[i].name) != 0)
			continue;
		r = fits(&engines[i], vm, &caps, any ? NULL : err);
		if (r < 0 && any)
			continue;
		if (r == 0)
			*ret = &engines[i];
		return r;
	}
	return mig_say(err, -EINVAL,
		       "no tracker named '%s': auto, wp-all, manual, ring or "
		       "log",
		       name);
}

int mig_tracker_new(struct vm *vm, const char *name,
		    struct mig_tracker **ret_tracker, char **err)
{
	const struct engine *engine = NULL;
	struct mig_tracker *t;
	int ret;

	ret = choose(vm, name, &engine, err);
	if (ret < 0)
		return ret;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->vm = vm;
	t->engine = engine;
	*ret_tracker = t;
	return 0;
}

void mig_tracker_free(struct mig_tracker *t)
{
	if (!t)
		return;
	mig_tracker_stop(t);
	free(t);
}

const char *mig_tracker_name(const struct mig_tracker *t)
{
	return t->engine->name;
}

int mig_tracker_start(struct mig_tracker *t)
{
	int ret;

	ret = vm_mem_user_dirty_start(vm_mem(t->vm));
	if (ret < 0)
		return ret;
	ret = vm_dirty_log_start(t->vm, t->engine->log);
	if (ret < 0) {
		vm_mem_user_dirty_stop(vm_mem(t->vm));
		return ret;
	}
	t->started = true;
	return 0;
}

int mig_tracker_stop(struct mig_tracker *t)
{
	if (!t->started)
		return 0;
	t->started = false;
	vm_mem_user_dirty_stop(vm_mem(t->vm));
	return vm_dirty_log_stop(t->vm);
}

int mig_tracker_sync(struct mig_tracker *t, uint64_t *bitmap)
{
	int ret = t->engine->sync(t->vm, bitmap);

	if (ret == 0)
		vm_mem_user_dirty_fetch(vm_mem(t->vm), bitmap);
	return ret;
}

bool mig_tracker_repeats(const struct mig_tracker *t)
{
	return t->engine->log == VM_DIRTY_LOG_MANUAL;
}

int mig_tracker_peek(struct mig_tracker *t, uint64_t *bitmap)
{
	return t->engine->sync(t->vm, bitmap);
}

int mig_tracker_rearm(struct mig_tracker *t, const uint64_t *bitmap,
		      uint64_t first_page, uint64_t nr_pages)
{
	/* The others protected what they reported when they reported it. */
	if (!mig_tracker_repeats(t))
		return 0;
	return vm_dirty_log_clear(t->vm, bitmap, first_page, nr_pages);
}

void mig_tracker_list(const struct vm_dirty_caps *caps,
		      struct mig_tracker_info ret_infos[MIG_NR_TRACKERS])
{
	size_t i;

	for (i = 0; i < MIG_NR_TRACKERS; i++) {
		bool available = engines[i].on_host(caps);

		ret_infos[i].name = engines[i].name;
		ret_infos[i].available = available;
		ret_infos[i].why = available ? engines[i].about
					     : engines[i].lacks;
	}
}
