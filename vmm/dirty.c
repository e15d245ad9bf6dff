/*
 * vmm/dirty.c: KVM's dirty log and dirty rings.
 *
 * Linux Documentation/virt/kvm/api.rst: 4.8 KVM_GET_DIRTY_LOG, 4.117
 * KVM_CLEAR_DIRTY_LOG, 8.29 KVM_CAP_DIRTY_LOG_RING.
 */
#include "vmm/dirty.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "compat/linux.h"
#include "vmm/bitmap.h"
#include "vmm/vm_internal.h"

static int ring_cap(int fd)
{
	return vm_kvm_cap(fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
		       ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL
		       : KVM_CAP_DIRTY_LOG_RING;
}

void vm_dirty_caps(int kvm_fd, struct vm_dirty_caps *ret_caps)
{
	int manual = vm_kvm_cap(kvm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	int ring_bytes = vm_kvm_cap(kvm_fd, ring_cap(kvm_fd));

	ret_caps->manual = manual & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	ret_caps->initially_set = manual & KVM_DIRTY_LOG_INITIALLY_SET;
	ret_caps->ring_entries_max = (uint32_t)ring_bytes /
				     sizeof(struct kvm_dirty_gfn);
	vm_wp_all_caps(kvm_fd, ret_caps);
}

/*
 * A kernel that ignores the flag would protect in the fetch: slow, and nobody
 * would notice. One that lets it be enabled knows it.
 */
void vm_dirty_caps_vm(struct vm *vm, struct vm_dirty_caps *ret_caps)
{
	vm_dirty_caps(vm->fd, ret_caps);
	if (ret_caps->log_flags)
		ret_caps->log_flags = vm_wp_all_enable_flags(vm, true) == 0 &&
				      vm_wp_all_enable_flags(vm, false) == 0;
}

int vm_dirty_set_slots(struct vm *vm, uint32_t flags)
{
	const struct vm_slot *slots;
	size_t nr = vm_mem_slots(vm->mem, &slots);

	for (uint32_t i = 0; i < nr; i++) {
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.flags = flags,
			.guest_phys_addr = slots[i].gpa,
			.memory_size = slots[i].bytes,
			.userspace_addr = (uintptr_t)vm_mem_base(vm->mem) +
					  slots[i].offset,
		};
		int ret = vm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);

		if (ret < 0)
			return ret;
	}
	return 0;
}

static int set_manual(struct vm *vm, bool manual)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
	};
	struct vm_dirty_caps caps;

	vm_dirty_caps(vm->fd, &caps);
	if (!caps.manual)
		return manual ? -ENOTSUP : 0;
	if (manual)
		cap.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE |
			      (caps.initially_set ? KVM_DIRTY_LOG_INITIALLY_SET
						  : 0);
	return vm_ioctl(vm->fd, KVM_ENABLE_CAP, &cap);
}

/* Slots begin with a word (VM_LOW_RAM_MAX), so each has its own in bitmap. */
static int fetch_slots(struct vm *vm, uint64_t *bitmap)
{
	const struct vm_slot *slots;
	size_t nr = vm_mem_slots(vm->mem, &slots);

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t page = slots[i].offset >> VM_PAGE_SHIFT;
		struct kvm_dirty_log log = {
			.slot = i, .dirty_bitmap = bitmap + page / 64
		};
		int ret;

		if (vm->log_how == VM_DIRTY_LOG_WP_ALL)
			log.padding1 = KVM_DIRTY_LOG_NO_PROTECT;
		ret = vm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int forget_reported(struct vm *vm)
{
	uint64_t *bitmap = bitmap_new(vm_mem_pages(vm->mem));
	int ret = bitmap ? fetch_slots(vm, bitmap) : -ENOMEM;

	bitmap_free(bitmap, vm_mem_pages(vm->mem));
	return ret;
}

/*
 * Manual mode makes the start cheap, as nothing is protected then but marked: so
 * the first report is of every page, and must not come out.
 */
static int start_wp_all(struct vm *vm)
{
	struct vm_dirty_caps caps;
	int ret;

	vm_dirty_caps(vm->fd, &caps);
	ret = set_manual(vm, caps.initially_set);
	if (ret < 0)
		return ret;
	ret = vm_wp_all_enable_flags(vm, true);
	if (ret < 0)
		return ret;
	ret = vm_dirty_set_slots(vm, KVM_MEM_LOG_DIRTY_PAGES);
	if (ret < 0)
		return ret;
	ret = forget_reported(vm);
	if (ret < 0)
		return ret;
	return vm_wp_all_protect(vm);
}

static int start_log(struct vm *vm)
{
	int ret;

	/* Rings may still hold what the last tracking left there. */
	if (vm->ring_entries) {
		ret = vm_dirty_ring_collect(vm, NULL);
		if (ret < 0)
			return ret;
	}
	ret = set_manual(vm, vm->log_how == VM_DIRTY_LOG_MANUAL);
	if (ret < 0)
		return ret;
	return vm_dirty_set_slots(vm, KVM_MEM_LOG_DIRTY_PAGES);
}

/* Also undoes half a start. */
static int stop_log(struct vm *vm)
{
	int ret = vm_dirty_set_slots(vm, 0);

	if (ret < 0)
		return ret;
	if (vm->log_how == VM_DIRTY_LOG_WP_ALL) {
		vm_wp_all_drop(vm);
		vm_wp_all_enable_flags(vm, false);
	}
	vm->logging = false;
	return set_manual(vm, false);
}

int vm_dirty_log_start(struct vm *vm, enum vm_dirty_log how)
{
	int ret;

	if (vm->logging)
		return -EALREADY;
	if (how != VM_DIRTY_LOG_FETCH && vm->ring_entries)
		return -EINVAL;
	vm->logging = true;
	vm->log_how = how;
	ret = how == VM_DIRTY_LOG_WP_ALL ? start_wp_all(vm) : start_log(vm);
	if (ret < 0)
		stop_log(vm);
	return ret;
}

int vm_dirty_log_stop(struct vm *vm)
{
	return vm->logging ? stop_log(vm) : 0;
}

/*
 * Invariant: with wp-all, pages are protected after the last slot was fetched,
 * and read after that. A store between the two is in the bytes that are read; one
 * after the protection is in the next report.
 */
int vm_dirty_log_fetch(struct vm *vm, uint64_t *bitmap)
{
	int ret;

	if (!vm->logging)
		return -EINVAL;
	ret = fetch_slots(vm, bitmap);
	if (ret == 0 && vm->log_how == VM_DIRTY_LOG_WP_ALL)
		ret = vm_wp_all_protect(vm);
	return ret;
}

static int clear_in_slot(struct vm *vm, uint32_t slot, const uint64_t *bitmap,
			 uint64_t slot_page, uint64_t first, uint64_t end)
{
	struct kvm_clear_dirty_log clear = {
		.slot = slot,
		.num_pages = (uint32_t)(end - first),
		.first_page = first - slot_page,
		.dirty_bitmap = (uint64_t *)bitmap + first / 64,
	};

	return vm_ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear);
}

int vm_dirty_log_clear(struct vm *vm, const uint64_t *bitmap,
		       uint64_t first_page, uint64_t nr_pages)
{
	const struct vm_slot *slots;
	size_t nr = vm_mem_slots(vm->mem, &slots);
	uint64_t ram_pages = vm_mem_pages(vm->mem);

	if (!vm->logging || vm->log_how != VM_DIRTY_LOG_MANUAL ||
	    first_page % 64 || first_page > ram_pages ||
	    nr_pages > ram_pages - first_page ||
	    (nr_pages % 64 && first_page + nr_pages != ram_pages))
		return -EINVAL;
	for (uint32_t i = 0; i < nr; i++) {
		uint64_t slot_page = slots[i].offset >> VM_PAGE_SHIFT;
		uint64_t slot_end = slot_page +
				    (slots[i].bytes >> VM_PAGE_SHIFT);
		uint64_t first = first_page > slot_page ? first_page
							: slot_page;
		uint64_t end = first_page + nr_pages < slot_end
				       ? first_page + nr_pages
				       : slot_end;
		int ret;

		if (first >= end)
			continue;
		ret = clear_in_slot(vm, i, bitmap, slot_page, first, end);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int vm_dirty_ring_init(struct vm *vm)
{
	struct kvm_enable_cap cap = { .cap = (uint32_t)ring_cap(vm->fd) };
	int ret;

	if (vm->ring_entries == 0)
		return 0;
	cap.args[0] = (uint64_t)vm->ring_entries * sizeof(struct kvm_dirty_gfn);
	ret = vm_ioctl(vm->fd, KVM_ENABLE_CAP, &cap);
	if (ret < 0)
		return ret;
	vm->ring_bitmap = bitmap_new(vm_mem_pages(vm->mem));
	return vm->ring_bitmap ? 0 : -ENOMEM;
}

static size_t ring_bytes(const struct vm *vm)
{
	return vm->ring_entries * sizeof(struct kvm_dirty_gfn);
}

int vm_dirty_ring_map(struct vm_cpu *c)
{
	void *p;

	if (c->vm->ring_entries == 0)
		return 0;
	p = mmap(NULL, ring_bytes(c->vm), PROT_READ | PROT_WRITE, MAP_SHARED,
		 c->fd, (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * VM_PAGE_BYTES));
	if (p == MAP_FAILED)
		return -errno;
	c->ring = p;
	return 0;
}

void vm_dirty_ring_unmap(struct vm_cpu *c)
{
	if (c->ring)
		munmap(c->ring, ring_bytes(c->vm));
	c->ring = NULL;
}

void vm_dirty_fini(struct vm *vm)
{
	if (!vm->mem)
		return;
	bitmap_free(vm->ring_bitmap, vm_mem_pages(vm->mem));
}

/* slot: address space in the upper half, of which x86 uses 0 and, in SMM, 1. */
static void note_entry(struct vm *vm, uint32_t slot, uint64_t slot_page)
{
	const struct vm_slot *slots;
	size_t nr = vm_mem_slots(vm->mem, &slots);
	uint64_t page;

	slot &= 0xffff;
	if (slot >= nr || slot_page >= slots[slot].bytes >> VM_PAGE_SHIFT)
		return;
	page = (slots[slot].offset >> VM_PAGE_SHIFT) + slot_page;
	vm->ring_bitmap[page / 64] |= UINT64_C(1) << page % 64;
}

static void note_all(struct vm *vm)
{
	uint64_t pages = vm_mem_pages(vm->mem);

	memset(vm->ring_bitmap, 0xff, pages / 64 * 8);
	if (pages % 64)
		vm->ring_bitmap[pages / 64] = (UINT64_C(1) << pages % 64) - 1;
}

static bool is_dirty(const struct kvm_dirty_gfn *e)
{
	return __atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) &
	       KVM_DIRTY_GFN_F_DIRTY;
}

static void give_back(struct kvm_dirty_gfn *e)
{
	__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
}

/*
 * Returns how many entries there were. KVM writes slot and offset, then sets the
 * DIRTY flag; we read them, then hand the entry back with RESET: hence acquire and
 * release.
 *
 * KVM stops a vCPU well before its ring is full. A ring that is full to the last
 * entry may have been overrun: seen with a KVM that interprets kernel code and does
 * not look at the ring meanwhile. What it overwrote nobody knows.
 */
static uint32_t harvest(struct vm_cpu *c)
{
	uint32_t entries = c->vm->ring_entries, nr;

	for (nr = 0; nr < entries; nr++) {
		struct kvm_dirty_gfn *e =
			&c->ring[c->ring_next & (entries - 1)];

		if (!is_dirty(e))
			return nr;
		note_entry(c->vm, e->slot, e->offset);
		give_back(e);
		c->ring_next++;
	}
	c->vm->ring_broken = true;
	return nr;
}

/* Of a broken ring: in no order, and only for KVM to have entries again. */
static uint32_t give_back_all(struct vm_cpu *c)
{
	uint32_t nr = 0;

	for (uint32_t i = 0; i < c->vm->ring_entries; i++) {
		if (!is_dirty(&c->ring[i]))
			continue;
		give_back(&c->ring[i]);
		nr++;
	}
	return nr;
}

static uint32_t take_entries(struct vm_cpu *c)
{
	return c->vm->ring_broken ? give_back_all(c) : harvest(c);
}

/*
 * Protects what was given back; how many entries that were, or -errno.
 *
 * Signals have to wait meanwhile: since Linux 6.16 (kvm_dirty_ring_reset()) one
 * that is pending ends the reset at once, as if it had done all. Up to 64 entries
 * that were taken off the ring by then stay writable, and what the guest writes
 * to them next is never reported.
 */
static int reset_rings(struct vm *vm)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = vm_ioctl_num(vm->fd, KVM_RESET_DIRTY_RINGS, 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

/*
 * What cannot be blocked (a debugger, a stop, a freezer) may still cut it short,
 * and KVM stops at an entry that was not given back, as there are after an
 * overrun. Both show in the count.
 */
static int reset_given(struct vm *vm, uint32_t nr_given)
{
	int ret = reset_rings(vm), nr = ret;

	if (ret < 0)
		return ret;
	if ((uint32_t)nr != nr_given)
		vm->ring_broken = true;
	while (ret > 0 && (uint32_t)nr < nr_given) {
		ret = reset_rings(vm);
		if (ret < 0)
			return ret;
		nr += ret;
	}
	return nr;
}

/*
 * The ring is full and none of its entries can be taken: after an overrun KVM waits
 * for one that it filled twice and that we saw once. Which, it does not say: it is
 * the one that counts when it is given back.
 *
 * By the vCPU's own thread: nobody fills the ring meanwhile.
 */
static int free_stuck_entry(struct vm_cpu *c)
{
	uint32_t mask = c->vm->ring_entries - 1;

	c->vm->ring_broken = true;
	for (uint32_t i = 0; i <= mask; i++, c->ring_next++) {
		struct kvm_dirty_gfn *e = &c->ring[c->ring_next & mask];
		int nr;

		if (__atomic_load_n(&e->flags, __ATOMIC_RELAXED) != 0)
			continue;
		give_back(e);
		nr = reset_rings(c->vm);
		if (nr > 0)
			c->ring_next += (uint32_t)nr;
		if (nr != 0)
			return nr;
		__atomic_store_n(&e->flags, 0, __ATOMIC_RELAXED);
	}
	return -EOVERFLOW;
}

/*
 * Full and empty once is the work of a collector that came first. Twice, and no
 * collector in between, is not.
 */
int vm_dirty_ring_full(struct vm_cpu *c)
{
	uint32_t nr;
	int ret;

	pthread_mutex_lock(&c->vm->ring_lock);
	nr = take_entries(c);
	ret = reset_given(c->vm, nr);
	c->nr_empty = nr == 0 && ret == 0 ? c->nr_empty + 1 : 0;
	if (c->nr_empty > 1)
		ret = free_stuck_entry(c);
	pthread_mutex_unlock(&c->vm->ring_lock);
	return ret < 0 ? ret : 0;
}

int vm_dirty_ring_collect(struct vm *vm, uint64_t *bitmap)
{
	uint64_t pages = vm_mem_pages(vm->mem);
	uint32_t nr = 0;
	int ret;

	if (vm->ring_entries == 0)
		return -EINVAL;
	pthread_mutex_lock(&vm->ring_lock);
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		nr += take_entries(&vm->cpus[i]);
		vm->cpus[i].nr_empty = 0;
	}
	ret = reset_given(vm, nr);
	if (ret >= 0) {
		if (vm->ring_broken)
			note_all(vm);
		bitmap_move(bitmap, vm->ring_bitmap, pages);
	}
	pthread_mutex_unlock(&vm->ring_lock);
	return ret < 0 ? ret : 0;
}
