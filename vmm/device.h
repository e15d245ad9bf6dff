/*
 * vmm/device.h: what every device looks like to the machine.
 *
 * A device claims I/O port or MMIO ranges on the bus, raises interrupts through
 * its vm, writes guest memory only through vm_mem_write()/vm_mem_mark_dirty(),
 * and saves and loads its state as a plain struct described by a field table.
 *
 * Threads: read and write are called on vCPU threads, with the device's lock
 *          held by the bus; save, load and reset with the lock held and all
 *          vCPUs stopped. Anything else that touches a device takes the lock.
 * Life:    vm_device_add() initialises lock and vm and lends the device to the
 *          vm until vm_free(), which calls ops->free.
 */
#ifndef VMM_DEVICE_H
#define VMM_DEVICE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct vm;

/*
 * One field of a device's state struct. Ids are for ever: a field that goes
 * away leaves its id unused. On load an unknown id is skipped and a missing one
 * keeps the value that reset gave it.
 */
enum vm_field_kind {
	VM_FIELD_UINT, /* 1, 2, 4 or 8 bytes, host order in the struct */
	VM_FIELD_BYTES /* an array of exactly `bytes` bytes */
};

struct vm_field {
	uint32_t id;
	enum vm_field_kind kind;
	uint32_t offset;
	uint32_t bytes;
};

#define VM_FIELD(_id, _kind, _type, _member)                                   \
	{ .id = (_id),                                                         \
	  .kind = (_kind),                                                     \
	  .offset = (uint32_t)offsetof(_type, _member),                        \
	  .bytes = (uint32_t)sizeof(((_type *)0)->_member) }

struct vm_device;

struct vm_device_ops {
	const char *name; /* also the key of its state: unique in a vm */
	/* offset from the start of the range; bytes is 1, 2, 4 or 8. */
	void (*read)(struct vm_device *d, unsigned int range, uint64_t offset,
		     uint8_t *data, unsigned int bytes);
	void (*write)(struct vm_device *d, unsigned int range, uint64_t offset,
		      const uint8_t *data, unsigned int bytes);
	void (*reset)(struct vm_device *d);
	/*
	 * For a device that works beside the vCPUs: stop returns when it has
	 * come to rest (no request in flight, no more touch of guest memory) and
	 * it stays so until start. By vm_pause(), after the last vCPU parked, and
	 * by vm_resume(), before the first goes; without the lock, which they may
	 * take. A machine is born stopped. NULL: has nothing to stop.
	 */
	void (*stop)(struct vm_device *d);
	void (*start)(struct vm_device *d);
	/* The state struct; NULL fields for a device without state. */
	const struct vm_field *fields;
	size_t nr_fields;
	size_t state_bytes;
	void (*save)(struct vm_device *d, void *state);
	/* state came from outside: check it, -EINVAL leaves the device as is. */
	int (*load)(struct vm_device *d, const void *state);
	void (*free)(struct vm_device *d);
};

enum vm_bus { VM_BUS_PIO, VM_BUS_MMIO };

#define VM_DEVICE_RANGES_MAX 4

/* Embedded first in each device's own struct. */
struct vm_device {
	const struct vm_device_ops *ops;
	struct vm *vm; /* set by vm_device_add() */
	pthread_mutex_t lock;
	struct vm_device_range {
		enum vm_bus bus;
		uint64_t base;
		uint64_t bytes;
	} ranges[VM_DEVICE_RANGES_MAX];
	unsigned int nr_ranges;
};

/*
 * Puts d on the bus. Only before vm_start(). -EBUSY when a range overlaps or
 * the name is taken, -ENOSPC when the table is full.
 */
int vm_device_add(struct vm *vm, struct vm_device *d);
/* All of them, in the order they were added; *ret_devices points into the vm. */
size_t vm_devices(struct vm *vm, struct vm_device *const **ret_devices);

/* Level of a GSI on the in-kernel irqchip. Any thread. */
int vm_irq_set(struct vm *vm, unsigned int gsi, int level);

#endif
