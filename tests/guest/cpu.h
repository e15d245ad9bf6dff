/*
 * cpu.h: what each vCPU owns, and the way between CPL 0 and CPL 3.
 *
 * All real work runs at CPL 3. CPL 0 sets a vCPU up, takes the timer interrupt,
 * answers kernel_call(), and reports exceptions.
 */
#ifndef GUEST_CPU_H
#define GUEST_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"
#include "selectors.h"

#define PAGE_BYTES      4096
#define KERNEL_STACK    4096
#define USER_STACK      8192
#define IO_BITMAP_PORTS 0x1000 /* every port we use is below */

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1;
	uint64_t ist[7];
	uint64_t reserved2;
	uint16_t reserved3;
	uint16_t io_bitmap_offset;
	uint8_t io_bitmap[IO_BITMAP_PORTS / 8 + 1];
} __attribute__((packed));

/*
 * A vCPU's own. Others read the counters, and take stall_tsc with an atomic
 * exchange; everything else is touched by its vCPU alone.
 */
struct cpu {
	struct cpu *self;        /* CPU_SELF: FS:0 */
	volatile uint64_t ticks; /* CPU_TICKS: timer interrupts taken */
	uint32_t id;             /* also its APIC id */
	volatile bool up;

	/* The loop: see loop.c. */
	uint64_t last_tsc;
	uint64_t last_ns;
	volatile uint64_t turns;
	uint64_t stall_tsc; /* largest gap since the last heartbeat */
	uint64_t stall_ever_tsc;
	uint32_t failures_told;

	/* The test memory: see work.c. */
	uint64_t first_page, nr_pages;
	uint64_t working_pages;
	uint64_t filled_pages;
	uint64_t write_cursor, verify_cursor;
	uint64_t random;
	uint64_t paced_from_ns, paced_pages;
	volatile uint64_t writes, verified, errors;
	volatile uint64_t disk_reads; /* in pages */
	uint64_t pass_epoch, pass_cursor, pass_sum;
	volatile uint64_t pass_done_epoch;

	struct pvclock pvclock __attribute__((aligned(64)));
	struct tss tss __attribute__((aligned(64)));
	uint8_t kernel_stack[KERNEL_STACK] __attribute__((aligned(4096)));
	uint8_t user_stack[USER_STACK];
} __attribute__((aligned(4096)));

extern struct cpu cpus[CPUS_MAX];
extern uint32_t nr_cpus; /* running, once cpu_start_others() is done */

/* Found at CPL 0, where CPUID shows the guest's own leaves. */
struct machine {
	uint32_t nr_cpus;
	bool has_kvmclock;
	bool has_huge_pages; /* of 1 GiB */
};
extern struct machine machine;

enum kernel_op {
	KERNEL_HALT = 1,    /* until the next interrupt */
	KERNEL_INTERRUPTS,  /* open CPL 3 to interrupts */
	KERNEL_TRIPLE_FAULT /* does not return */
};

#define MSR_FS_BASE  0xc0000100
#define MSR_KVMCLOCK 0x4b564d01

/* Any vCPU, at CPL 3. */
void kernel_call(enum kernel_op op);

/* The first vCPU: bring up ids 1..wanted-1, each in main_ap(). False: which. */
bool cpu_start_others(uint32_t wanted, uint32_t *ret_missing);
/* Ends the halt of every other vCPU, or the one that it is about to begin. */
void cpu_wake_others(void);
/* This vCPU: let interrupts in as far as the local APIC is concerned. */
void cpu_interrupts_init(void);
/* This vCPU: a periodic interrupt. */
void cpu_timer_start(uint64_t hz);

/* main.c: where each vCPU arrives at CPL 3. */
void main_bsp(struct cpu *c);
void main_ap(struct cpu *c);

#endif
