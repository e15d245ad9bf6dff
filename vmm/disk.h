/*
 * vmm/disk.h: the file or block device behind a guest's disk.
 *
 * Owns:    one open file description. It does the I/O and carries the lock, so
 *          that a process that was killed keeps the disk until its last request
 *          has come to an end: the kernel holds the description for both.
 * Threads: one at a time; fd and the constants from any.
 * Life:    open, (lock, unlock)..., close.
 * Units:   bytes; SECTOR is the 512 of virtio, whatever the disk's own.
 * Errors:  -errno, and one line for people in *err (vm_err()).
 */
#ifndef VMM_DISK_H
#define VMM_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "vmm/vm.h"

#define VM_DISK_SECTOR_BYTES 512u
#define VM_DISK_ALIGN_MAX    4096u

struct vm_disk {
	/* Constant after vm_disk_open(). */
	int fd;
	char *path;
	/*
	 * What the guest is told for ever: a file that shrinks later gives I/O
	 * errors at its end, one that grows keeps the rest for itself.
	 */
	uint64_t bytes;
	bool read_only;
	bool direct;
	bool is_block;
	/* Smallest piece of the disk that can be asked for by itself. */
	uint32_t logical_bytes;
	/*
	 * What offsets, lengths and memory of an O_DIRECT request must be a
	 * multiple of; 1 without `direct`.
	 */
	uint32_t align;
	/* The thread that locks. */
	bool locked;
};

int vm_disk_open(const struct vm_disk_config *cfg, struct vm_disk *ret_disk,
		 char **err);
/* Gives up the lock too. */
void vm_disk_close(struct vm_disk *d);

/*
 * An OFD lock on the whole disk: exclusive, or shared for a read-only one.
 * -EBUSY when somebody else has it. Idempotent.
 */
int vm_disk_lock(struct vm_disk *d, char **err);
/*
 * Before it is given up, what another host must find on the disk is put there.
 * Nothing may be in flight.
 */
void vm_disk_unlock(struct vm_disk *d);

#endif
