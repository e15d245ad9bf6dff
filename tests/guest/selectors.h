/* Segment selectors and table sizes, shared by the assembler and C. */
#ifndef GUEST_SELECTORS_H
#define GUEST_SELECTORS_H

#define CPUS_MAX 64

#define SEL_KERNEL_CODE   0x08
#define SEL_KERNEL_DATA   0x10
#define SEL_USER_DATA     0x1b
#define SEL_USER_CODE     0x23
#define SEL_KERNEL_CODE32 0x28
#define SEL_TSS_FIRST     0x30
#define GDT_BYTES         (SEL_TSS_FIRST + 16 * CPUS_MAX)

#define VECTOR_TIMER    0x20
#define VECTOR_WAKE     0x21
#define VECTOR_SPURIOUS 0xff

/* Offsets in struct cpu, which FS points to. */
#define CPU_SELF  0
#define CPU_TICKS 8

#define LAPIC_BASE 0xfee00000
#define LAPIC_EOI  0xb0

#endif
