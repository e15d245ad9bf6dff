/*
 * What compilers call of their own accord, even freestanding. -mgeneral-regs-only
 * holds here as everywhere.
 */
#include <stddef.h>

void *memset(void *to, int value, size_t bytes);
void *memcpy(void *to, const void *from, size_t bytes);

void *memset(void *to, int value, size_t bytes)
{
	void *p = to;

	__asm__ volatile("rep stosb"
			 : "+D"(p), "+c"(bytes)
			 : "a"(value)
			 : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
	void *p = to;

	__asm__ volatile("rep movsb"
			 : "+D"(p), "+S"(from), "+c"(bytes)
			 :
			 : "memory");
	return to;
}
