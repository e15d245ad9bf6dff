/*
 * vmm/virtio.h: what every virtio device is made of (virtio 1.2, split rings,
 * modern only): queues in guest memory, a worker thread, registers behind PCI.
 *
 *	virtio.c	life of a device: worker thread, start, stop, reset
 *	virtqueue.c	rings: guest memory in, checked chains out
 *	virtio_pci.c	the registers the guest sees (section 4.1)
 *	virtio_state.c	all of it as one table of fields, and back
 *	virtio_blk.c, virtio_net.c, ...	one device each: fill in virtio_ops
 *
 * The guest is hostile: every index, address and length that comes out of guest
 * memory is read once, checked, and only then used. A ring that makes no sense
 * stops the device (DEVICE_NEEDS_RESET, section 2.1.2); it never stops the VMM.
 *
 * Threads: everything that touches guest memory runs on the device's own worker
 *          thread (an ev_loop), because guest memory may be missing and a touch
 *          then waits for the far side. The worker holds no lock while it does.
 *          Registers belong to vCPU threads, under the device lock. The worker
 *          NEVER takes the device lock: a vCPU that resets the device holds it
 *          while it waits for the worker to stop. What both need is atomic or
 *          under a lock of its own that nobody holds for long.
 *
 * Running: a device runs (its worker looks at rings) exactly while the driver
 *          has set DRIVER_OK, nothing needs a reset, and the machine runs.
 *          Ring state (next_avail, next_used, ...) belongs to the worker while
 *          the device runs and to whoever holds the device stopped otherwise.
 *
 * Stopping: virtio_stop() returns when the worker is out of the rings and no
 *          request is in flight: each is then either done and in the used ring
 *          (and marked dirty) or not yet taken. So the state that is saved has no
 *          requests in it, and none can be lost or done twice by a move.
 *          A worker that waits for a missing page comes out when the page does.
 */
#ifndef VMM_VIRTIO_H
#define VMM_VIRTIO_H

#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/device.h"
#include "vmm/mem.h"
#include "vmm/pci.h"

#define VIRTIO_QUEUES_MAX        16
#define VIRTIO_QUEUE_ENTRIES_MAX 256
#define VIRTIO_CONFIG_BYTES_MAX  64
#define VIRTIO_CHAIN_SEGS_MAX    256 /* a longer chain is a broken ring */
#define VIRTIO_NO_VECTOR         0xffff

/* Device status, section 2.1. */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01
#define VIRTIO_STATUS_DRIVER      0x02
#define VIRTIO_STATUS_DRIVER_OK   0x04
#define VIRTIO_STATUS_FEATURES_OK 0x08
#define VIRTIO_STATUS_NEEDS_RESET 0x40
#define VIRTIO_STATUS_FAILED      0x80

/* Feature bits of section 6; those of devices stand in their own files. */
#define VIRTIO_F_INDIRECT_DESC (UINT64_C(1) << 28)
#define VIRTIO_F_EVENT_IDX     (UINT64_C(1) << 29)
#define VIRTIO_F_VERSION_1     (UINT64_C(1) << 32)

struct virtio_device;

struct virtio_queue {
	/* Constant after virtio_device_init(). */
	struct virtio_device *dev;
	unsigned int index;
	uint16_t entries_max;
	int kick_fd; /* eventfd: the guest rang (ioeventfd), or we did */
	/* Registers: device lock; the driver's until enabled. */
	uint16_t entries;
	bool enabled;
	_Atomic uint16_t vector; /* the worker reads it too */
	uint64_t desc_gpa, avail_gpa, used_gpa;
	/* Ring state: see "Running" above. Pointers are set by start. */
	const uint8_t *desc, *avail;
	uint8_t *used;
	uint64_t used_offset; /* in RAM, for dirty marks */
	uint16_t next_avail;  /* next entry of avail to be taken */
	uint16_t next_used;   /* next entry of used to be filled */
	uint16_t
		signalled_used; /* next_used when virtio_notify() last looked */
	ev_io kick;             /* the worker's */
};

/*
 * One request: pieces of guest RAM, those the device reads first, then those it
 * writes. All are inside RAM; any of them may still be missing or change under
 * our eyes: copy what must not change before checking it.
 */
struct virtio_chain {
	uint16_t head;
	unsigned int nr_out; /* iov[0 .. nr_out) the device reads */
	unsigned int nr_in;  /* iov[nr_out .. nr_out + nr_in) it writes */
	uint64_t out_bytes, in_bytes;
	struct iovec iov[VIRTIO_CHAIN_SEGS_MAX];
};

struct virtio_ops {
	const char *name; /* "virtio-blk": with a number, its state's name */
	uint16_t type;    /* virtio device id, section 5 */
	uint32_t pci_class;
	/*
	 * The guest changed bytes of the device configuration space (only of a
	 * device that sets config_writable). vCPU thread, device lock. May be
	 * NULL.
	 */
	void (*config_written)(struct virtio_device *v, unsigned int offset,
			       unsigned int bytes);
	/*
	 * On the worker. start: the device begins to run: add own ev watchers,
	 * features are agreed; a failure breaks the device. kicked: look at this
	 * queue (also called once per enabled queue after each start, so that a
	 * device finds what it could not finish when it was stopped). stop: take
	 * watchers away; return when nothing of the device is in flight any
	 * more. It follows each start that went well, on a device that broke
	 * too. start and stop may be NULL.
	 */
	int (*start)(struct virtio_device *v);
	void (*kicked)(struct virtio_device *v, struct virtio_queue *q);
	void (*stop)(struct virtio_device *v);
	/* The driver reset it, or the machine was: stopped, device lock. Or NULL. */
	void (*reset)(struct virtio_device *v);
	/*
	 * The device's own state, beside the transport's: ids from 0x1000.
	 * Offsets count from the struct that save and load get. As in
	 * vm_device_ops; nr_fields 0: none. Stopped, device lock.
	 */
	const struct vm_field *fields;
	size_t nr_fields;
	size_t state_bytes;
	void (*save)(struct virtio_device *v, void *state);
	int (*load)(struct virtio_device *v, const void *state);
	/* Frees what the device owns and the struct itself. */
	void (*free)(struct virtio_device *v);
};

/* Embedded first in each device's own struct (calloc'd by its _new). */
struct virtio_device {
	struct vm_pci_function pci;
	/* Constant after virtio_device_init(). */
	const struct virtio_ops *ops;
	char name[32]; /* "virtio-blk0" */
	struct vm_mem *mem;
	uint64_t offered; /* features */
	unsigned int nr_queues;
	bool config_writable;
	unsigned int config_bytes;
	/* Written under the device lock; the atomics are read by any thread. */
	uint64_t accepted;      /* features, final once FEATURES_OK */
	_Atomic uint8_t status; /* without NEEDS_RESET: that is broken's */
	_Atomic uint16_t config_vector;
	bool machine_runs; /* between vm_resume() and vm_pause() */
	/* Why it needs a reset; NULL: it does not. Set by the worker. */
	_Atomic(const char *) broken;
	_Atomic uint8_t isr;
	/* Any thread, under config_lock: taken last, never held for long. */
	pthread_mutex_t config_lock;
	uint8_t config[VIRTIO_CONFIG_BYTES_MAX]; /* _new fills it */
	uint8_t config_generation;
	struct virtio_queue queues[VIRTIO_QUEUES_MAX];
	/* Ring state: loaded from elsewhere, and not run since. */
	bool loaded;
	/* The rest is virtio.c's, virtio_pci.c's and virtio_state.c's. */
	struct virtio_worker *worker;
	struct virtio_pci_regs *regs;
	struct vm_device_ops device_ops;
	struct vm_field *fields; /* owned: of transport and device */
};

/*
 * The _new of a device calls this after calloc: names it ops->name + index, sets
 * up queues (entries each, a power of two), PCI identity and capabilities.
 * offered: the device's own feature bits; the common ones are added. On failure
 * the caller frees. virtio_device_fini() undoes it and is called by the core
 * before ops->free; a _new that fails after init calls it itself.
 */
int virtio_device_init(struct virtio_device *v, const struct virtio_ops *ops,
		       struct vm *vm, unsigned int index,
		       unsigned int nr_queues, uint16_t entries,
		       uint64_t offered, unsigned int config_bytes);
void virtio_device_fini(struct virtio_device *v);
/* The worker's loop: watchers only from ops->start, kicked, stop and callbacks. */
struct ev_loop *virtio_loop(struct virtio_device *v);
/* The driver agreed to this feature. Worker, or device lock. */
bool virtio_has(const struct virtio_device *v, uint64_t feature);

/*
 * Starts and stops the worker's work, not the thread. By vm_pause(), vm_resume()
 * (through vm_device_ops), by reset and by DRIVER_OK; not on the worker. start
 * does nothing without DRIVER_OK or when broken, and does not wait. stop may wait
 * for a missing page or a slow disk. Idempotent.
 */
void virtio_start(struct virtio_device *v);
void virtio_stop(struct virtio_device *v);
/*
 * The ring or the request cannot be made sense of: sets DEVICE_NEEDS_RESET, tells
 * the driver, and looks at no ring until it resets. Worker.
 */
void virtio_broken(struct virtio_device *v, const char *why);
/*
 * Device configuration changed: fill `bytes` at offset of config, new
 * generation, configuration interrupt. Any thread, with the device lock or
 * without.
 */
void virtio_config_changed(struct virtio_device *v, unsigned int offset,
			   const void *data, unsigned int bytes);
/*
 * Runs fn(v) on the worker soon. Any thread. What was posted several times before
 * it ran runs once; a device that is stopped drops it, and its start (or kicked)
 * has to look for itself. At most VIRTIO_POSTS_MAX different ones per device.
 */
#define VIRTIO_POSTS_MAX 8
void virtio_post(struct virtio_device *v, void (*fn)(struct virtio_device *v));

/*
 * virtqueue.c. All on the worker of a running device.
 *
 * pop: 1 and the next request; 0 none; a negative errno when the ring is broken,
 * and then virtio_broken() was called already. With EVENT_IDX or not, a queue
 * that was found empty rings again when the guest adds to it. 0 too when the
 * device shall stop, so that a guest that keeps adding cannot hold it up: loops
 * over pop need no check of their own. And 0 for a queue that the driver has not
 * enabled.
 * put_back: undoes the last pop (nothing was done with it); n calls the last n.
 */
int virtio_pop(struct virtio_queue *q, struct virtio_chain *ret_chain);
void virtio_put_back(struct virtio_queue *q);
/*
 * The request is done; written_bytes of its writable part were filled. The used
 * ring's page is marked dirty here; the caller has marked what it wrote. Requests
 * may be pushed in any order. Nothing on a device that broke.
 */
void virtio_push(struct virtio_queue *q, uint16_t head, uint32_t written_bytes);
/* Several that the driver sees at once or not at all. */
struct virtio_used {
	uint16_t head;
	uint32_t written_bytes;
};
void virtio_push_many(struct virtio_queue *q, const struct virtio_used *done,
		      unsigned int nr);
/* Interrupts the driver if it wants to hear of what was pushed. */
void virtio_notify(struct virtio_queue *q);
/*
 * Copies between the readable (writable) part of a chain, from byte `at` of it,
 * and buf. Returns how many bytes there were, at most bytes. fill marks dirty.
 */
size_t virtio_drain(const struct virtio_chain *c, uint64_t at, void *buf,
		    size_t bytes);
size_t virtio_fill(struct virtio_device *v, const struct virtio_chain *c,
		   uint64_t at, const void *buf, size_t bytes);
/*
 * [at, at + bytes) of the writable part was stored to by the kernel on our
 * behalf: marks it dirty. After the bytes are in place, before virtio_push().
 */
void virtio_mark(struct virtio_device *v, const struct virtio_chain *c,
		 uint64_t at, uint64_t bytes);

#endif
