/*
 * vmm/mem.h: guest RAM: one host mapping, where it sits in guest physical
 * space, who may have written it, and which of it was ever populated.
 *
 * RAM is one contiguous host mapping. A byte of it is named by its offset (from
 * the start of the mapping), a page by offset / VM_PAGE_BYTES; bitmaps, the
 * wire and snapshots all use that order. Guest physical space has a hole below
 * 4 GiB for MMIO, so RAM shows up in one or two slots (memslots):
 *
 *	offset 0            .. VM_LOW_RAM_MAX	gpa 0
 *	offset VM_LOW_RAM_MAX .. ram_bytes	gpa 4 GiB
 *
 * Owns:    the mapping, its memfd, the user-side dirty bitmap.
 * Threads: everything but new/free may be called from any thread; see each.
 * Units:   gpa and offset in bytes, page in VM_PAGE_BYTES.
 * Errors:  -errno.
 *
 * Invariant (promise 4): nothing here reads or writes a page that the guest or
 * a device did not ask for. RAM is mapped MAP_NORESERVE and stays unpopulated.
 */
#ifndef VMM_MEM_H
#define VMM_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VM_PAGE_BYTES    UINT64_C(4096)
#define VM_PAGE_SHIFT    12
#define VM_LOW_RAM_MAX   (UINT64_C(3) << 30) /* RAM below the 32-bit hole */
#define VM_HIGH_RAM_GPA  (UINT64_C(4) << 30) /* where the rest starts */
#define VM_RAM_BYTES_MAX (UINT64_C(512) << 30)
#define VM_RAM_BYTES_MIN (UINT64_C(2) << 20)
#define VM_SLOTS_MAX     2

/* x86-64: of hugetlb memory, and transparent huge pages. */
#define VM_HUGE_PAGE_BYTES (UINT64_C(2) << 20)

enum vm_mem_backend {
	VM_MEM_ANON,
	VM_MEM_MEMFD,
	VM_MEM_HUGETLB, /* memfd of 2 MiB pages */
	VM_MEM_NR_BACKENDS
};

/* One KVM memslot; its index is its KVM slot number. */
struct vm_slot {
	uint64_t gpa;
	uint64_t offset;
	uint64_t bytes;
};

struct vm_mem;

/*
 * Map ram_bytes (page aligned, MIN..MAX; a multiple of 2 MiB for hugetlb)
 * without touching it. -EINVAL on a bad size, -ENOMEM, or what mmap/memfd_create
 * said.
 */
int vm_mem_new(uint64_t ram_bytes, enum vm_mem_backend backend,
	       struct vm_mem **ret_mem);
void vm_mem_free(struct vm_mem *m);

const char *vm_mem_backend_name(enum vm_mem_backend backend);
/* "anon", "memfd", "hugetlb"; -EINVAL for anything else. */
int vm_mem_backend_parse(const char *name, enum vm_mem_backend *ret_backend);

uint8_t *vm_mem_base(const struct vm_mem *m);
uint64_t vm_mem_bytes(const struct vm_mem *m);
uint64_t vm_mem_pages(const struct vm_mem *m);
enum vm_mem_backend vm_mem_backend(const struct vm_mem *m);
/* The host's page size under this RAM: 4 KiB, or 2 MiB for hugetlb. */
uint64_t vm_mem_host_page_bytes(const struct vm_mem *m);
/* 1 or 2; *ret_slots points into m. */
size_t vm_mem_slots(const struct vm_mem *m, const struct vm_slot **ret_slots);

/* gpa..gpa+bytes must lie in one slot, else -EFAULT. bytes may be 0. */
int vm_mem_gpa_to_offset(const struct vm_mem *m, uint64_t gpa, uint64_t bytes,
			 uint64_t *ret_offset);
uint64_t vm_mem_offset_to_gpa(const struct vm_mem *m, uint64_t offset);

/*
 * The one way in which this process writes guest memory: copies and marks the
 * pages in the user-side dirty bitmap, which KVM's logs know nothing of.
 * Any thread. -EFAULT outside RAM, and then nothing was written.
 */
int vm_mem_write(struct vm_mem *m, uint64_t gpa, const void *buf, size_t bytes);
int vm_mem_read(const struct vm_mem *m, uint64_t gpa, void *buf, size_t bytes);

/*
 * For writers that cannot go through vm_mem_write() (disk reads that the kernel
 * stores straight into RAM): call it AFTER the bytes are in place, so that a
 * fetch that misses the mark also came before the store was complete and a
 * later fetch will see it.
 */
void vm_mem_mark_dirty(struct vm_mem *m, uint64_t offset, uint64_t bytes);

/*
 * User-side dirty bitmap. start: from now on marks are kept (-EALREADY when
 * running); fetch: OR what was marked since the last fetch into bitmap (one bit
 * per page, vm_mem_pages() bits) and forget it; stop: drop it. start, fetch and
 * stop by one thread; marks from any.
 */
int vm_mem_user_dirty_start(struct vm_mem *m);
void vm_mem_user_dirty_fetch(struct vm_mem *m, uint64_t *bitmap);
void vm_mem_user_dirty_stop(struct vm_mem *m);

/*
 * Set the bits of pages in [offset, offset + bytes) that are populated, i.e.
 * may hold anything but zeros; touches none of them. PAGEMAP_SCAN or
 * /proc/self/pagemap for anonymous memory, SEEK_DATA for memfds. bitmap covers
 * all RAM; bits outside the range and bits already set are left as they are.
 * Pages that map the shared zero page do not count as populated. Unpopulated
 * pages that a userfaultfd write-protects do: scan before protecting.
 */
int vm_mem_scan_populated(const struct vm_mem *m, uint64_t offset,
			  uint64_t bytes, uint64_t *bitmap);
/*
 * For what is about to be written for the first time, while no userfaultfd watches:
 * all its pages at once, where a fault for each costs more than filling it; a huge
 * page where there is one to be had and all of it is meant. What is there stays.
 * Nothing depends on it, so it cannot fail. Inside RAM. Any thread.
 */
void vm_mem_populate(struct vm_mem *m, uint64_t offset, uint64_t bytes);
/*
 * The block of 2 MiB at offset (aligned) becomes a huge page if all of it is
 * populated, in anonymous memory: 1; else, where it is one, and where the host wants
 * none, nothing is done: 0. What is in it stays. Who touches it meanwhile waits, and so
 * does whoever has another page fault that needs mmap_lock. -ENOMEM: no huge page is
 * to be had. What is discarded meanwhile may be populated again, with zeros. -EAGAIN: a
 * page was in use. Others of MADV_COLLAPSE (Linux 6.1): this
 * block cannot be one now. Before Linux 6.7, 1 also where it is one. Any thread.
 */
int vm_mem_collapse(struct vm_mem *m, uint64_t offset);
/*
 * Nobody else makes huge what the guest populates, and vm_mem_collapse() can tell what
 * is: so it is worth calling again. Any thread.
 */
bool vm_mem_stays_small(const struct vm_mem *m);
/*
 * Back to never-populated zeros, marked dirty. Host-page aligned. Any thread.
 */
int vm_mem_discard(struct vm_mem *m, uint64_t offset, uint64_t bytes);
/*
 * While anybody holds RAM, what the guest offers to give back stays where it is:
 * a page that is still to arrive would be fetched once more, old content and all,
 * when it is touched after it was discarded, and one that is still to be saved
 * would be saved as zeros. Counted; any thread, with the devices stopped: so a
 * give_back is either over or sees the hold. release may come at any time.
 */
void vm_mem_hold(struct vm_mem *m);
void vm_mem_release(struct vm_mem *m);
/* Who touches RAM may have to wait. Constant false, or true until it is released. */
bool vm_mem_is_held(const struct vm_mem *m);
/*
 * The guest does not need what is there: vm_mem_discard() of the whole host pages
 * inside [offset, offset + bytes), which need not be aligned. -EBUSY, and nothing
 * done, while RAM is held. A running device's worker.
 */
int vm_mem_give_back(struct vm_mem *m, uint64_t offset, uint64_t bytes);
/* Bytes of RAM resident in host memory now; for memfds those in swap too. */
uint64_t vm_mem_resident_bytes(const struct vm_mem *m);

#endif
