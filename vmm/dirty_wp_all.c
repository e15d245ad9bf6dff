/*
 * vmm/dirty_wp_all.c: all memory write-protected by one ioctl, whose cost does
 * not grow with memory, on a kernel that has the patches of kernel-patch/.
 *
 * It is for those only: the numbers are far from the ones that kernels get from
 * upstream, which therefore answer 0, EINVAL and ENOTTY. KVM answers 0, too, where
 * protecting is not how it finds written pages (PML, dirty rings).
 */
#include <linux/kvm.h>

#include "compat/linux.h"
#include "vmm/dirty.h"
#include "vmm/vm_internal.h"

void vm_wp_all_caps(int fd, struct vm_dirty_caps *ret_caps)
{
	int flags = vm_kvm_cap(fd, KVM_CAP_DIRTY_LOG_FLAGS);

	ret_caps->wp_all = vm_kvm_cap(fd, KVM_CAP_X86_WRITE_PROTECT_ALL) == 1;
	ret_caps->log_flags = flags & KVM_DIRTY_LOG_NO_PROTECT;
}

int vm_wp_all_enable_flags(struct vm *vm, bool on)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_DIRTY_LOG_FLAGS,
		.args = { on ? KVM_DIRTY_LOG_NO_PROTECT : 0 },
	};

	return vm_ioctl(vm->fd, KVM_ENABLE_CAP, &cap);
}

int vm_wp_all_protect(struct vm *vm)
{
	struct kvm_x86_write_protect_all all = { .flags = 0 };

	return vm_ioctl(vm->fd, KVM_X86_WRITE_PROTECT_ALL, &all);
}

int vm_wp_all_drop(struct vm *vm)
{
	struct kvm_x86_write_protect_all all = {
		.flags = KVM_X86_WRITE_PROTECT_ALL_DROP
	};

	return vm_ioctl(vm->fd, KVM_X86_WRITE_PROTECT_ALL, &all);
}
