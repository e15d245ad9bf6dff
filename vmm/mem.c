/* vmm/mem.c: the mapping behind guest RAM, addresses, user-side dirty pages. */
#include "vmm/mem.h"

#include <assert.h>
#include <errno.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/bitmap.h"
#include "vmm/mem_internal.h"

static const char *const backend_names[VM_MEM_NR_BACKENDS] = {
	[VM_MEM_ANON] = "anon",
	[VM_MEM_MEMFD] = "memfd",
	[VM_MEM_HUGETLB] = "hugetlb",
};

static int open_memfd(struct vm_mem *m)
{
	unsigned int flags = MFD_CLOEXEC;

	if (m->backend == VM_MEM_HUGETLB)
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
	m->fd = memfd_create("guest-ram", flags);
	if (m->fd < 0)
		return -errno;
	return ftruncate(m->fd, (off_t)m->bytes) < 0 ? -errno : 0;
}

/*
 * Address space for RAM with room to align it, then RAM over a part of it: it
 * starts on a huge page, so that THP and KVM can use them.
 */
static int map_ram(struct vm_mem *m)
{
	int flags = MAP_FIXED;
	uintptr_t base;

	m->reserved_bytes = m->bytes + VM_HUGE_PAGE_BYTES;
	m->reserved = mmap(NULL, m->reserved_bytes, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->reserved == MAP_FAILED) {
		m->reserved = NULL;
		return -errno;
	}
	base = ((uintptr_t)m->reserved + VM_HUGE_PAGE_BYTES - 1) &
	       ~(uintptr_t)(VM_HUGE_PAGE_BYTES - 1);
	if (m->backend == VM_MEM_ANON)
		flags |= MAP_PRIVATE | MAP_ANONYMOUS;
	else
		flags |= MAP_SHARED;
	/*
	 * Huge pages are set aside now: a guest that finds none left later on
	 * would die of it, and this way it does not start.
	 */
	if (m->backend != VM_MEM_HUGETLB)
		flags |= MAP_NORESERVE;
	m->base = mmap((void *)base, m->bytes, PROT_READ | PROT_WRITE, flags,
		       m->fd, 0);
	return m->base == MAP_FAILED ? -errno : 0;
}

/*
 * Where an administrator wants huge pages for everybody, or for nobody, guests have
 * what he wants. Linux Documentation/admin-guide/mm/transhuge.rst
 */
static enum huge_pages what_host_wants(void)
{
	char text[64] = "";
	int fd = open("/sys/kernel/mm/transparent_hugepage/enabled",
		      O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return HUGE_NEVER;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n < 0 || strstr(text, "[never]"))
		return HUGE_NEVER;
	return strstr(text, "[always]") ? HUGE_FOR_ALL : HUGE_ON_REQUEST;
}

/* Anonymous RAM, just mapped. */
static void choose_huge(struct vm_mem *m)
{
	m->huge = what_host_wants();
	if (m->huge == HUGE_ON_REQUEST &&
	    madvise(m->base, m->bytes, MADV_NOHUGEPAGE) < 0)
		m->huge = HUGE_NEVER;
}

static void lay_out_slots(struct vm_mem *m)
{
	uint64_t low = m->bytes < VM_LOW_RAM_MAX ? m->bytes : VM_LOW_RAM_MAX;

	m->slots[0] = (struct vm_slot){ .gpa = 0, .offset = 0, .bytes = low };
	m->nr_slots = 1;
	if (m->bytes == low)
		return;
	m->slots[1] = (struct vm_slot){ .gpa = VM_HIGH_RAM_GPA,
					.offset = low,
					.bytes = m->bytes - low };
	m->nr_slots = 2;
}

/*
 * The bitmap lives as long as RAM, so that a mark may come at any time; until
 * it is used it is address space only.
 */
static int map_user_dirty(struct vm_mem *m)
{
	m->user_dirty = (_Atomic(uint64_t) *)bitmap_new(vm_mem_pages(m));
	return m->user_dirty ? 0 : -ENOMEM;
}

static bool size_is_good(uint64_t ram_bytes, enum vm_mem_backend backend)
{
	uint64_t page = backend == VM_MEM_HUGETLB ? VM_HUGE_PAGE_BYTES
						  : VM_PAGE_BYTES;

	return (unsigned int)backend < VM_MEM_NR_BACKENDS &&
	       ram_bytes >= VM_RAM_BYTES_MIN && ram_bytes <= VM_RAM_BYTES_MAX &&
	       ram_bytes % page == 0;
}

int vm_mem_new(uint64_t ram_bytes, enum vm_mem_backend backend,
	       struct vm_mem **ret_mem)
{
	struct vm_mem *m;
	int ret;

	if (!size_is_good(ram_bytes, backend))
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->fd = -1;
	m->bytes = ram_bytes;
	m->backend = backend;
	lay_out_slots(m);
	ret = backend == VM_MEM_ANON ? 0 : open_memfd(m);
	if (ret < 0)
		goto free_m;
	ret = map_ram(m);
	if (ret < 0)
		goto free_m;
	if (backend == VM_MEM_ANON)
		choose_huge(m);
	ret = map_user_dirty(m);
	if (ret < 0)
		goto free_m;
	*ret_mem = m;
	return 0;
free_m:
	vm_mem_free(m);
	return ret;
}

void vm_mem_free(struct vm_mem *m)
{
	if (!m)
		return;
	bitmap_free((uint64_t *)m->user_dirty, vm_mem_pages(m));
	if (m->reserved)
		munmap(m->reserved, m->reserved_bytes);
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}

const char *vm_mem_backend_name(enum vm_mem_backend backend)
{
	return (unsigned int)backend < VM_MEM_NR_BACKENDS
		       ? backend_names[backend]
		       : "unknown";
}

int vm_mem_backend_parse(const char *name, enum vm_mem_backend *ret_backend)
{
	for (unsigned int i = 0; i < VM_MEM_NR_BACKENDS; i++) {
		if (strcmp(name, backend_names[i]) == 0) {
			*ret_backend = (enum vm_mem_backend)i;
			return 0;
		}
	}
	return -EINVAL;
}

uint8_t *vm_mem_base(const struct vm_mem *m)
{
	return m->base;
}

uint64_t vm_mem_bytes(const struct vm_mem *m)
{
	return m->bytes;
}

uint64_t vm_mem_pages(const struct vm_mem *m)
{
	return m->bytes >> VM_PAGE_SHIFT;
}

enum vm_mem_backend vm_mem_backend(const struct vm_mem *m)
{
	return m->backend;
}

uint64_t vm_mem_host_page_bytes(const struct vm_mem *m)
{
	return m->backend == VM_MEM_HUGETLB ? VM_HUGE_PAGE_BYTES
					    : VM_PAGE_BYTES;
}

size_t vm_mem_slots(const struct vm_mem *m, const struct vm_slot **ret_slots)
{
	*ret_slots = m->slots;
	return m->nr_slots;
}

int vm_mem_gpa_to_offset(const struct vm_mem *m, uint64_t gpa, uint64_t bytes,
			 uint64_t *ret_offset)
{
	for (size_t i = 0; i < m->nr_slots; i++) {
		const struct vm_slot *s = &m->slots[i];

		if (gpa < s->gpa || gpa - s->gpa > s->bytes ||
		    bytes > s->bytes - (gpa - s->gpa))
			continue;
		*ret_offset = s->offset + (gpa - s->gpa);
		return 0;
	}
	return -EFAULT;
}

uint64_t vm_mem_offset_to_gpa(const struct vm_mem *m, uint64_t offset)
{
	const struct vm_slot *s = &m->slots[m->nr_slots - 1];

	if (offset < s->offset)
		s = &m->slots[0];
	return s->gpa + (offset - s->offset);
}

int vm_mem_write(struct vm_mem *m, uint64_t gpa, const void *buf, size_t bytes)
{
	uint64_t offset;
	int ret = vm_mem_gpa_to_offset(m, gpa, bytes, &offset);

	if (ret < 0)
		return ret;
	memcpy(m->base + offset, buf, bytes);
	vm_mem_mark_dirty(m, offset, bytes);
	return 0;
}

int vm_mem_read(const struct vm_mem *m, uint64_t gpa, void *buf, size_t bytes)
{
	uint64_t offset;
	int ret = vm_mem_gpa_to_offset(m, gpa, bytes, &offset);

	if (ret < 0)
		return ret;
	memcpy(buf, m->base + offset, bytes);
	return 0;
}

void vm_mem_mark_dirty(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	uint64_t page = offset >> VM_PAGE_SHIFT;
	uint64_t end;

	if (bytes == 0)
		return;
	/*
	 * The bytes are stored before the flag is read: a start that we do not
	 * see here comes before whatever its caller reads, bytes included.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	if (!atomic_load(&m->user_dirty_on))
		return;
	end = ((offset + bytes - 1) >> VM_PAGE_SHIFT) + 1;
	while (page < end) {
		uint64_t in_word = page % 64;
		uint64_t n = 64 - in_word < end - page ? 64 - in_word
						       : end - page;
		uint64_t mask = n == 64 ? UINT64_MAX
					: ((UINT64_C(1) << n) - 1) << in_word;

		atomic_fetch_or(&m->user_dirty[page / 64], mask);
		page += n;
	}
}

int vm_mem_user_dirty_start(struct vm_mem *m)
{
	size_t nr_words = bitmap_words(vm_mem_pages(m));

	if (atomic_load(&m->user_dirty_on))
		return -EALREADY;
	/* Also what a mark that raced with the last stop left behind. */
	for (size_t i = 0; i < nr_words; i++) {
		if (atomic_load_explicit(&m->user_dirty[i],
					 memory_order_relaxed))
			atomic_store(&m->user_dirty[i], 0);
	}
	atomic_store(&m->user_dirty_on, true);
	return 0;
}

void vm_mem_user_dirty_fetch(struct vm_mem *m, uint64_t *bitmap)
{
	size_t nr_words = bitmap_words(vm_mem_pages(m));

	for (size_t i = 0; i < nr_words; i++) {
		if (atomic_load_explicit(&m->user_dirty[i],
					 memory_order_relaxed))
			bitmap[i] |= atomic_exchange(&m->user_dirty[i], 0);
	}
}

void vm_mem_user_dirty_stop(struct vm_mem *m)
{
	atomic_store(&m->user_dirty_on, false);
}

int vm_mem_discard(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	uint64_t page = vm_mem_host_page_bytes(m);
	int ret;

	if (offset % page || bytes % page || offset > m->bytes ||
	    bytes > m->bytes - offset)
		return -EINVAL;
	if (bytes == 0)
		return 0;
	if (m->backend == VM_MEM_ANON)
		ret = madvise(m->base + offset, bytes, MADV_DONTNEED);
	else
		ret = fallocate(m->fd,
				FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)offset, (off_t)bytes);
	if (ret < 0)
		return -errno;
	vm_mem_mark_dirty(m, offset, bytes);
	return 0;
}

void vm_mem_hold(struct vm_mem *m)
{
	atomic_fetch_add(&m->nr_holds, 1);
}

void vm_mem_release(struct vm_mem *m)
{
	unsigned int before = atomic_fetch_sub(&m->nr_holds, 1);

	assert(before > 0);
	(void)before;
}

bool vm_mem_is_held(const struct vm_mem *m)
{
	return atomic_load(&m->nr_holds) > 0;
}

int vm_mem_give_back(struct vm_mem *m, uint64_t offset, uint64_t bytes)
{
	uint64_t page = vm_mem_host_page_bytes(m);
	uint64_t first, end;

	if (offset > m->bytes || bytes > m->bytes - offset)
		return -EINVAL;
	if (vm_mem_is_held(m))
		return -EBUSY;
	first = (offset + page - 1) / page * page;
	end = (offset + bytes) / page * page;
	return first < end ? vm_mem_discard(m, first, end - first) : 0;
}
