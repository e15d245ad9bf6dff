/*
 * compat/linux.h: kernel interfaces newer than Debian 12's linux-libc-dev (6.1).
 *
 * Each is guarded by its own name and gives the version that brought it; a
 * kernel without it answers ENOTTY or EINVAL and the caller falls back.
 */
#ifndef COMPAT_LINUX_H
#define COMPAT_LINUX_H

#include <linux/fs.h>
#include <linux/kvm.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>

/* Linux 6.1: uapi/asm-generic/mman-common.h */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Linux 6.8: uapi/linux/userfaultfd.h */
#ifndef UFFDIO_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#define UFFDIO_MOVE       _IOWR(UFFDIO, 0x05, struct uffdio_move)

struct uffdio_move {
	__u64 dst;
	__u64 src;
	__u64 len;
	__u64 mode;
	__s64 move;
};
#endif

/* PAGEMAP_SCAN, Linux 6.7: uapi/linux/fs.h */
#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)

#define PAGE_IS_WPALLOWED  (1 << 0)
#define PAGE_IS_WRITTEN    (1 << 1)
#define PAGE_IS_FILE       (1 << 2)
#define PAGE_IS_PRESENT    (1 << 3)
#define PAGE_IS_SWAPPED    (1 << 4)
#define PAGE_IS_PFNZERO    (1 << 5)
#define PAGE_IS_HUGE       (1 << 6)
#define PAGE_IS_SOFT_DIRTY (1 << 7)

struct page_region {
	__u64 start;
	__u64 end;
	__u64 categories;
};

struct pm_scan_arg {
	__u64 size;
	__u64 flags;
	__u64 start;
	__u64 end;
	__u64 walk_end;
	__u64 vec;
	__u64 vec_len;
	__u64 max_pages;
	__u64 category_inverted;
	__u64 category_mask;
	__u64 category_anyof_mask;
	__u64 return_mask;
};
#endif

/*
 * Write-protecting all memory of a guest at once: no released kernel, but one with
 * the patches in kernel-patch/, whose README.md says how to be sure of it.
 * KVM_DIRTY_LOG_NO_PROTECT goes where struct kvm_dirty_log has its padding1.
 */
#ifndef KVM_X86_WRITE_PROTECT_ALL
#define KVM_CAP_X86_WRITE_PROTECT_ALL 0x57500001
#define KVM_CAP_DIRTY_LOG_FLAGS       0x57500002
#define KVM_X86_WRITE_PROTECT_ALL                                              \
	_IOW(KVMIO, 0xfa, struct kvm_x86_write_protect_all)
#define KVM_X86_WRITE_PROTECT_ALL_DROP (1ULL << 0)
#define KVM_DIRTY_LOG_NO_PROTECT       (1U << 0)

struct kvm_x86_write_protect_all {
	__u64 flags;
	__u64 padding[7];
};
#endif

#endif
