/*
 * page.h: what a test page holds, exactly, for (seed, name, version, touches).
 *
 *	word 0		PAGE_MAGIC ^ name
 *	     1		version
 *	     2		seed
 *	     3, 4	touches, and a hash of it: all that a light write changes
 *	     5..511	a stream from (seed, name, version): incompressible
 *
 * The name is the page's gpa, or stands for the block of the disk that it is.
 * So a page that is lost, stale, of another address, of another guest, torn or
 * zero differs from what its record says, in more words than one. With
 * zero=N one version in N is a page of zeros instead, and has to be just that.
 * A page whose record says version 0 was never written and reads as zeros.
 */
#ifndef GUEST_PAGE_H
#define GUEST_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"

#define PAGE_WORDS 512
#define PAGE_MAGIC UINT64_C(0x7465737470616765)

struct page_error {
	uint64_t gpa;
	uint32_t word;
	uint64_t want;
	uint64_t got;
};

/* Owner only. The next version of the whole page. */
void page_write(uint64_t page);
/* Owner only. Two words; a page of zeros or never written is written whole. */
void page_touch(uint64_t page);
/* Owner only. Every word against the record. */
bool page_verify(uint64_t page, struct page_error *ret_error);

/* The same for any page of memory, by another name than its own. */
void page_fill(uint64_t gpa, uint64_t name, uint32_t version);
bool page_check(uint64_t gpa, uint64_t name, uint32_t version, uint32_t touches,
		struct page_error *ret_error);

#endif
