/* vmm/mem_internal.h: what mem.c and populate.c (and its test) share. */
#ifndef VMM_MEM_INTERNAL_H
#define VMM_MEM_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "vmm/mem.h"

/* When RAM may be in transparent huge pages; on request: RAM wants none of itself. */
enum huge_pages { HUGE_NEVER, HUGE_ON_REQUEST, HUGE_FOR_ALL };

struct vm_mem {
	/* Set by vm_mem_new(), constant after: any thread. */
	uint8_t *base;
	uint64_t bytes;
	enum vm_mem_backend backend;
	int fd; /* -1 for anonymous memory */
	enum huge_pages huge;
	void *reserved; /* address space around base */
	size_t reserved_bytes;
	struct vm_slot slots[VM_SLOTS_MAX];
	size_t nr_slots;
	/* Any thread, atomically. */
	_Atomic(uint64_t) *user_dirty;
	atomic_bool user_dirty_on;
	atomic_uint nr_holds;
};

/*
 * The two ways to look at page tables: vm_mem_scan_populated() takes the second
 * where the first says -ENOTTY. Tests take either.
 */
int vm_mem_scan_ioctl(const struct vm_mem *m, uint64_t offset, uint64_t bytes,
		      uint64_t *bitmap);
int vm_mem_scan_pagemap(const struct vm_mem *m, uint64_t offset, uint64_t bytes,
			uint64_t *bitmap);

#endif
