/*
 * vmm/vm_internal.h: what the files of vmm/ share and nobody else sees.
 *
 * Lock order: vm->devices_lock, a device's lock, then vm->lock, msix.lock (pci.h)
 * and then vm->msi_lock; vm->ring_lock alone.
 */
#ifndef VMM_VM_INTERNAL_H
#define VMM_VM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/device.h"
#include "vmm/dirty.h"
#include "vmm/vm.h"

struct virtio_device;

struct vm_cpu {
	/* Set by vm_cpu_new(), constant after: any thread. */
	struct vm *vm;
	unsigned int index; /* also its APIC id */
	int fd;
	size_t run_bytes;
	/*
	 * Shared with KVM. immediate_exit: any thread, by atomics. The rest:
	 * the vCPU's thread; whoever runs the operation while it is parked.
	 */
	struct kvm_run *run;
	bool io_pending; /* as run: KVM still waits for the answer to an exit */
	/* vm->ring_lock */
	struct kvm_dirty_gfn *ring;
	uint32_t ring_next;
	unsigned int nr_empty; /* full rings in a row without an entry */
	/* The thread that starts and frees the vm. */
	pthread_t thread;
	bool has_thread;
	_Atomic pid_t tid; /* written by the thread; 0: not begun, or ended */
	bool wakes_soon;   /* under lock: its thread has a short slice */
};

/* Those that the machine has, NULL where not. */
struct vm_virtio_devices {
	struct virtio_device **disks, **nets; /* owned arrays */
	size_t nr_disks, nr_nets;
	struct virtio_device *console, *rng, *vsock, *balloon;
};

struct vm {
	/* Set by vm_new(), constant after: any thread. */
	const struct vm_ops *ops;
	void *ctx;
	int kvm_fd;
	int fd;
	struct vm_mem *mem;
	unsigned int nr_cpus;
	struct vm_cpu *cpus;
	uint32_t ring_entries; /* of each vCPU; 0: no rings */
	struct kvm_cpuid_entry2 *cpuid;
	size_t nr_cpuid;
	uint32_t *msrs;
	size_t nr_msrs;
	uint32_t xsave_bytes;
	bool has_sregs2;
	bool has_tsc_offset; /* and the guest's TSC is not scaled */
	uint32_t tsc_khz;
	struct vm_boot_files boot_files;
	struct vm_state power_on; /* vCPUs and irqchip as they were born */
	/* Filled by vm_device_add() before vm_start(). */
	struct vm_device *devices[VM_DEVICES_MAX];
	size_t nr_devices;
	struct vm_device *serial; /* one of devices, as the next two */
	struct vm_device *pci;    /* the host bridge; NULL: no PCI */
	struct vm_virtio_devices virtio;

	/* Written under lock; run also read without it. */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* of any of these */
	atomic_bool run;        /* vCPUs shall run */
	bool quit;              /* vCPU threads shall return */
	bool wake_soon;         /* vCPU threads shall have short slices */
	unsigned int nr_threads;
	unsigned int nr_parked;
	enum vm_event event; /* not yet taken */
	bool ended;          /* an event came since the last resume */
	char reason[VM_REASON_BYTES];

	/* Held while devices start and stop, which may wait for a page. */
	pthread_mutex_t devices_lock;
	bool devices_run; /* between vm_resume() and vm_pause() */

	/* The thread that tracks dirty pages. */
	bool logging;
	enum vm_dirty_log log_how;

	pthread_mutex_t ring_lock;
	uint64_t *ring_bitmap; /* harvested and not yet collected */
	bool ring_broken;      /* for good: all pages count as written */

	pthread_mutex_t msi_lock;
	struct kvm_irq_routing *routes; /* owned; NULL: KVM's own */
};

/* kvm.c */

/* Opens /dev/kvm and checks what every machine needs of it. */
int vm_kvm_open(int *ret_fd, char **err);
/* KVM_CHECK_EXTENSION on /dev/kvm or a vm's fd; 0 for "no" and for errors. */
int vm_kvm_cap(int fd, int cap);
/* ioctl() that returns -errno. */
int vm_ioctl(int fd, unsigned long request, void *arg);
int vm_ioctl_num(int fd, unsigned long request, unsigned long arg);
/*
 * Sets *err, unless err is NULL or *err already has a line, and returns ret, so
 * that a failure reads `return vm_err(err, -EINVAL, "...")`.
 */
int vm_err(char **err, int ret, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* vcpu.c */

int vm_cpu_new(struct vm *vm, unsigned int index, char **err);
void vm_cpu_free(struct vm_cpu *c);
/* The body of its thread while the machine runs: returns when it may not. */
void vm_cpu_run(struct vm_cpu *c);

/* run.c */

int vm_run_init(struct vm *vm);
void vm_run_fini(struct vm *vm);
/* Ends and joins the threads of all vCPUs that have one. */
void vm_cpus_stop(struct vm *vm);
/*
 * A device tells what the guest asked for, on a vCPU thread, from its read or
 * write op. The first event wins, then all vCPUs park. reason may be NULL.
 */
void vm_event_post(struct vm *vm, enum vm_event ev, const char *reason);

/*
 * ops->start and ops->stop of every device, if not done yet. All vCPUs parked.
 * vm_resume() and vm_pause() call them.
 */
void vm_devices_start(struct vm *vm);
void vm_devices_stop(struct vm *vm);
bool vm_devices_run(struct vm *vm); /* started, not stopped; any thread */

/* irq.c: messages (MSIs) and doorbells as eventfds. */

int vm_irq_init(struct vm *vm);
void vm_irq_fini(struct vm *vm);
/* nr GSIs in a row for messages. Before vm_start(). */
int vm_msi_alloc(struct vm *vm, unsigned int nr, unsigned int *ret_first_gsi);
/* A write to eventfd fd sends the GSI's message from now on. */
int vm_msi_attach(struct vm *vm, unsigned int gsi, int fd);
/* What the message is. Any thread; cheap when it is that already. */
int vm_msi_route(struct vm *vm, unsigned int gsi, uint64_t address,
		 uint32_t data);
/* A guest's 2-byte write to gpa rings (no longer) eventfd fd, without an exit. */
int vm_doorbell(struct vm *vm, uint64_t gpa, int fd, bool on);

/* vcpu_state.c: all vCPUs parked. */

/*
 * vCPU 0's registers, for boot: all vCPUs parked or not started yet. get is what
 * power-on or the last set left; change what the boot protocol says and set.
 */
int vm_vcpu_get_entry(struct vm *vm, struct kvm_regs *ret_regs,
		      struct kvm_sregs *ret_sregs);
int vm_vcpu_set_entry(struct vm *vm, const struct kvm_regs *regs,
		      const struct kvm_sregs *sregs);

int vm_cpu_save(struct vm_cpu *c, struct vm_cpu_state *ret_state, char **err);
int vm_cpu_load(struct vm_cpu *c, const struct vm_cpu_state *s, char **err);
void vm_cpu_state_fini(struct vm_cpu_state *s);
int vm_msr_list(int kvm_fd, uint32_t **ret_indices, size_t *ret_nr);

/* state.c: all vCPUs parked. */

/* Everything but time, devices and the event. */
int vm_state_save_chips(struct vm *vm, struct vm_state *ret_state, char **err);
/*
 * vCPUs and interrupt controllers back to power-on; guest time runs on. RAM and
 * devices are vm_mem_discard()'s and vm_bus_reset()'s.
 */
int vm_reset_cpus(struct vm *vm, char **err);

/* clock.c: all vCPUs parked. */

int vm_clock_save(struct vm *vm, struct vm_state *s, char **err);
int vm_clock_load(struct vm *vm, const struct vm_state *s, uint64_t elapsed_ns,
		  char **err);

/* dirty.c */

/* Shows all RAM to KVM, with these KVM_MEM_* flags. */
int vm_dirty_set_slots(struct vm *vm, uint32_t flags);
/* Turns rings on, before the first vCPU; each vCPU maps its own. */
int vm_dirty_ring_init(struct vm *vm);
int vm_dirty_ring_map(struct vm_cpu *c);
void vm_dirty_ring_unmap(struct vm_cpu *c);
void vm_dirty_fini(struct vm *vm);
/* KVM_EXIT_DIRTY_RING_FULL, on the vCPU's thread. */
int vm_dirty_ring_full(struct vm_cpu *c);

/* dirty_wp_all.c */

/* fd: /dev/kvm or a vm's. Fills wp_all and log_flags. */
void vm_wp_all_caps(int fd, struct vm_dirty_caps *ret_caps);
/* From now on KVM_GET_DIRTY_LOG looks at its flags, or ignores them again. */
int vm_wp_all_enable_flags(struct vm *vm, bool on);
/* The next store to any page is a fault that marks it. No time to speak of. */
int vm_wp_all_protect(struct vm *vm);
/* No more faults than those already on their way. */
int vm_wp_all_drop(struct vm *vm);

/* bus.c */

/* One access of 1, 2, 4 or 8 bytes. Nobody there: reads give ones. */
void vm_bus_access(struct vm *vm, enum vm_bus bus, uint64_t addr, uint8_t *data,
		   unsigned int bytes, bool is_write);
/* ops->reset of every device. All vCPUs parked. */
void vm_bus_reset(struct vm *vm);
void vm_bus_fini(struct vm *vm);

/*
 * serial.c, cmos.c, platform.c: allocate a device with its ops and ranges set.
 * vm_new() gives it to vm_device_add(), which initialises its lock and vm
 * pointer, then resets it; from then on it is the vm's.
 */
int vm_serial_new(struct vm *vm, struct vm_device **ret_device);
int vm_cmos_new(struct vm *vm, struct vm_device **ret_device);
int vm_platform_new(struct vm *vm, struct vm_device **ret_device);

/* pci.c: the host bridge, as above. One per machine; vm->pci is it. */
int vm_pci_host_new(struct vm *vm, struct vm_device **ret_device);

/*
 * devices.c: makes the devices that cfg asks for, in the order of vm.h, and puts
 * them behind the host bridge.
 */
int vm_virtio_new(struct vm *vm, const struct vm_config *cfg, char **err);
void vm_virtio_fini(struct vm *vm);

/*
 * Port 0xcf9, which lies in the middle of those of PCI's configuration mechanism:
 * for the host bridge, which claims them all. Takes the platform's lock; may be
 * called with another device's held.
 */
uint8_t vm_platform_cf9_read(struct vm *vm);
void vm_platform_cf9_write(struct vm *vm, uint8_t value);

#endif
