/*
 * Ways into CPL 0: exceptions, the timer, and kernel_call().
 *
 * CPL 0 may be interpreted (a KVM without hardware virtualisation), so there is
 * as little of it as can be. For the same reason a call into CPL 0 is made with
 * UD2: it behaves the same everywhere, int n and syscall do not.
 */
#include "selectors.h"

	.text
	.code64

/* void kernel_call(op); the #UD handler knows this address. */
	.globl kernel_call, kernel_call_ud2
kernel_call:
kernel_call_ud2:
	ud2
	ret

	.globl timer_interrupt
timer_interrupt:
	pushq %rax
	incq %fs:CPU_TICKS
	movl $LAPIC_BASE + LAPIC_EOI, %eax
	movl $0, (%rax)
	popq %rax
	iretq

/* Only there to end a halt. */
	.globl wake_interrupt
wake_interrupt:
	pushq %rax
	movl $LAPIC_BASE + LAPIC_EOI, %eax
	movl $0, (%rax)
	popq %rax
	iretq

	.globl spurious_interrupt
spurious_interrupt:
	iretq

	/* Those exceptions that push an error code of their own. */
#define HAS_ERROR(v) ((0x60227d00 >> (v)) & 1)

	.macro exception vector
	.balign 16
	.if !HAS_ERROR(\vector)
	pushq $0
	.endif
	pushq $\vector
	jmp trap_common
	.endm

	.balign 16
	.globl exception_stubs
exception_stubs:
	.irp v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, \
		16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
	exception \v
	.endr

trap_common:
	pushq %rax
	pushq %rbx
	pushq %rcx
	pushq %rdx
	pushq %rsi
	pushq %rdi
	pushq %rbp
	pushq %r8
	pushq %r9
	pushq %r10
	pushq %r11
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, %rdi
	cld
	call trap
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %r11
	popq %r10
	popq %r9
	popq %r8
	popq %rbp
	popq %rdi
	popq %rsi
	popq %rdx
	popq %rcx
	popq %rbx
	popq %rax
	addq $16, %rsp
	iretq

	.section .note.GNU-stack, "", @progbits
