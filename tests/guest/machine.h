/*
 * The few instructions that C cannot say.
 *
 * No VEX, no string input: a KVM that interprets some of the guest has to know
 * whatever touches a port or a page table.
 */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <stdint.h>

#define barrier() __asm__ volatile("" ::: "memory")

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void outw(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline void outsb(uint16_t port, const void *data, uint64_t bytes)
{
	__asm__ volatile("rep outsb"
			 : "+S"(data), "+c"(bytes)
			 : "d"(port)
			 : "memory");
}

/* Ordered after every earlier load: a reading is never older than a check. */
static inline uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}

static inline void mmio_write(uint64_t gpa, uint32_t value)
{
	__asm__ volatile("movl %0, %1"
			 :
			 : "r"(value), "m"(*(volatile uint32_t *)gpa)
			 : "memory");
}

static inline uint32_t mmio_read(uint64_t gpa)
{
	uint32_t value;

	__asm__ volatile("movl %1, %0"
			 : "=r"(value)
			 : "m"(*(volatile uint32_t *)gpa)
			 : "memory");
	return value;
}

static inline void mmio_write16(uint64_t gpa, uint16_t value)
{
	__asm__ volatile("movw %0, %1"
			 :
			 : "r"(value), "m"(*(volatile uint16_t *)gpa)
			 : "memory");
}

static inline uint16_t mmio_read16(uint64_t gpa)
{
	uint16_t value;

	__asm__ volatile("movw %1, %0"
			 : "=r"(value)
			 : "m"(*(volatile uint16_t *)gpa)
			 : "memory");
	return value;
}

static inline void mmio_write8(uint64_t gpa, uint8_t value)
{
	__asm__ volatile("movb %0, %1"
			 :
			 : "q"(value), "m"(*(volatile uint8_t *)gpa)
			 : "memory");
}

static inline uint8_t mmio_read8(uint64_t gpa)
{
	uint8_t value;

	__asm__ volatile("movb %1, %0"
			 : "=q"(value)
			 : "m"(*(volatile uint8_t *)gpa)
			 : "memory");
	return value;
}

#endif
