/*
 * vmm/huge.h: private memory of our own in huge pages, where the kernel gives them.
 *
 * Aligned to VM_HUGE_PAGE_BYTES, zero, populated as it is touched. Without huge pages
 * it is small ones: slower, no more. Threads: any.
 */
#ifndef VMM_HUGE_H
#define VMM_HUGE_H

#include <stdbool.h>
#include <stddef.h>

void *huge_map(size_t bytes); /* NULL: no memory */
/* Of huge_map(), with its bytes. NULL is fine. */
void huge_unmap(void *map, size_t bytes);
/* It begins with a huge page; false where the kernel cannot tell (before Linux 6.7). */
bool huge_is(const void *map);

#endif
