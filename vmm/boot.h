/*
 * vmm/boot.h: put a kernel into guest memory and the first vCPU at its entry.
 *
 * Takes: ELF with a PVH note (Xen's "Physical Address of entry point" note,
 * XEN_ELFNOTE_PHYS32_ENTRY = 18; start_info as in Xen's
 * public/arch-x86/hvm/start_info.h), Linux bzImage and vmlinux by the 64-bit
 * boot protocol (Linux Documentation/arch/x86/boot.rst).
 *
 * Every length and offset in the files is checked before it is used.
 * Threads: the thread that owns the vm, before vm_start() or with all parked.
 */
#ifndef VMM_BOOT_H
#define VMM_BOOT_H

#include <stddef.h>

#include "vmm/vm.h"

#define VM_CMDLINE_BYTES_MAX 2048 /* with its NUL */

struct vm_boot {
	int kernel_fd; /* borrowed; regular file */
	int initrd_fd; /* borrowed; -1: none */
	const char *cmdline;
};

/*
 * -ENOEXEC: not a kernel we know; -EINVAL: damaged; -E2BIG/-ENOSPC: does not fit.
 * *err gets one line that says what is wrong and what would do.
 */
int vm_boot(struct vm *vm, const struct vm_boot *boot, char **err);
/*
 * A reset: RAM zero, devices and vCPUs as after power-on, then vm_boot().
 * All vCPUs parked, event taken.
 */
int vm_reboot(struct vm *vm, const struct vm_boot *boot, char **err);

#endif
