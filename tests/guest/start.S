/*
 * From the PVH entry (32 bit, paging off, ebx = start_info) or an AP's SIPI to
 * 64-bit C at CPL 0. PVH: Xen's docs/misc/pvh.pandoc; note type 18 is
 * XEN_ELFNOTE_PHYS32_ENTRY in Xen's public/elfnote.h.
 */
#include "selectors.h"

#define CR0_LONG   0x80010033 /* PG WP NE ET MP PE */
#define CR4_LONG   0x620      /* OSXMMEXCPT OSFXSR PAE */
#define MSR_EFER   0xc0000080
#define EFER_LME   0x100
#define PTE_TABLE  0x67       /* present, writable, user, accessed, dirty */
#define PTE_PAGE   0xe7       /* and a leaf above 4 KiB */
#define PTE_DEVICE 0xff       /* and uncached */

	.section .note.Xen, "a", @note
	.balign 4
	.long 4, 8, 18
	.asciz "Xen"
	.quad pvh_start

	.text
	.code32
	.globl pvh_start
pvh_start:
	cli
	cld
	movl $gdt_pointer, %eax
	lgdt (%eax)
	movl $cpu_boot_stack_top, %esp
	movl $boot_bsp, %ebp

/* ebx: argument of the C function ebp; esp: its stack; GDT loaded. */
enter_long_mode:
	movl $SEL_KERNEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $CR4_LONG, %eax
	movl %eax, %cr4
	movl $page_root, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	movl $EFER_LME, %eax
	xorl %edx, %edx
	wrmsr
	movl $CR0_LONG, %eax
	movl %eax, %cr0
	ljmp $SEL_KERNEL_CODE, $1f

	.code64
1:	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl %ebx, %edi
	movl %ebp, %eax
	movl %esp, %esp		/* upper halves are undefined so far */
	call *%rax
	ud2

	.code32
ap_protected_mode:
	movl $SEL_KERNEL_DATA, %eax
	movl %eax, %ds
	movl %eax, %ss
	movl ap_boot_id, %ebx
	movl ap_boot_stack_top, %esp
	movl $boot_ap, %ebp
	jmp enter_long_mode

/* Copied below 1 MiB, where a SIPI can reach it; position independent. */
	.code16
	.globl ap_trampoline, ap_trampoline_end
ap_trampoline:
	cli
	movw %cs, %ax
	movw %ax, %ds
	lgdtl trampoline_gdt_pointer - ap_trampoline
	movl $0x11, %eax	/* CR0: ET PE */
	movl %eax, %cr0
	ljmpl $SEL_KERNEL_CODE32, $ap_protected_mode
trampoline_gdt_pointer:
	.word GDT_BYTES - 1
	.long gdt
ap_trampoline_end:

	.code64
/* void enter_user(void (*fn)(struct cpu *), struct cpu *, stack_top, rflags) */
	.globl enter_user
enter_user:
	pushq $SEL_USER_DATA
	pushq %rdx
	pushq %rcx
	pushq $SEL_USER_CODE
	pushq %rdi
	movq %rsi, %rdi
	movl $SEL_USER_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	xorl %ebp, %ebp
	iretq

	.data
	.balign 16
/*
 * Accessed bits are preset: nothing needs to write the table but LTR.
 * One 16-byte TSS descriptor per vCPU follows, filled in by cpu.c.
 */
	.globl gdt
gdt:
	.quad 0
	.quad 0x00af9b000000ffff	/* kernel code, 64 bit */
	.quad 0x00cf93000000ffff	/* kernel data */
	.quad 0x00cff3000000ffff	/* user data */
	.quad 0x00affb000000ffff	/* user code, 64 bit */
	.quad 0x00cf9b000000ffff	/* kernel code, 32 bit, on the way up */
	.fill 16 * CPUS_MAX, 1, 0
	.globl gdt_pointer
gdt_pointer:
	.word GDT_BYTES - 1
	.quad gdt

/*
 * The first 4 GiB, identity mapped in 2 MiB pages, built by the assembler: no
 * instruction at CPL 0 is spent on them. Everything is open to CPL 3. The top
 * GiB holds the local APIC and never RAM. memory.c adds what lies above.
 */
	.balign 4096
	.globl page_root, page_directory_pointers
page_root:
	.quad page_directory_pointers + PTE_TABLE
	.fill 511, 8, 0
page_directory_pointers:
	.quad page_directories + PTE_TABLE
	.quad page_directories + 0x1000 + PTE_TABLE
	.quad page_directories + 0x2000 + PTE_TABLE
	.quad page_directories + 0x3000 + PTE_TABLE
	.fill 508, 8, 0
page_directories:
	.set i, 0
	.rept 3 * 512
	.quad i * 0x200000 + PTE_PAGE
	.set i, i + 1
	.endr
	.rept 512
	.quad i * 0x200000 + PTE_DEVICE
	.set i, i + 1
	.endr

	.section .note.GNU-stack, "", @progbits
