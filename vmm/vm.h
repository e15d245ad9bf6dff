/*
 * vmm/vm.h: one virtual machine: KVM, RAM, vCPU threads, devices.
 *
 * Owns:    the KVM fds, RAM, devices, vCPU threads. One per process.
 * Life:    vm_new, (vm_boot | vm_state_load), vm_start, ..., vm_free.
 *          After vm_start all vCPUs are parked: vm_resume lets the guest run.
 * Threads: new/boot/start/free and pause/resume/save/load from one thread at a
 *          time (whoever runs the current operation); the rest says for itself.
 * Errors:  -errno; vm_error() has the sentence for people.
 */
#ifndef VMM_VM_H
#define VMM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vmm/mem.h"
#include "vmm/state.h"

struct vm;
struct kvm_cpuid_entry2;

struct vm_ops {
	/*
	 * The guest stopped itself (vm_event_peek says how); all vCPUs are
	 * parking. Called on a vCPU thread: post a message and return.
	 */
	void (*event)(void *ctx);
	/*
	 * Serial output, on a vCPU thread: takes up to `bytes` bytes, returns
	 * how many, 0 when the sink is full (then the guest's transmitter stays
	 * busy until vm_serial_output_ready()). Must not block.
	 */
	size_t (*serial_output)(void *ctx, const uint8_t *data, size_t bytes);
	/* The same for the virtio console, on its worker thread. */
	size_t (*console_output)(void *ctx, const uint8_t *data, size_t bytes);
};

/* Devices beyond what every machine has. Strings are borrowed during vm_new(). */
struct vm_disk_config {
	const char *path; /* a raw file or a block device */
	bool read_only;
	bool direct; /* O_DIRECT */
};

struct vm_net_config {
	const char *tap;
	uint8_t mac[6]; /* all zeros: vm_new() makes one up */
};

struct vm_vsock_config {
	uint32_t cid;     /* the guest's, 3 or more */
	const char *path; /* unix socket: PATH; the guest's dials: PATH_port */
};

/*
 * What a reset boots, by name: it goes with the guest from host to host. vm_new()
 * keeps a copy and does not look at the files.
 */
struct vm_boot_files {
	const char *kernel;  /* absolute; NULL: a reset ends the guest */
	const char *initrd;  /* NULL: none */
	const char *cmdline; /* NULL: empty */
};

/* The copy is to be ended with fini, which takes all NULL. */
int vm_boot_files_copy(const struct vm_boot_files *from,
		       struct vm_boot_files *ret_to);
void vm_boot_files_fini(struct vm_boot_files *f);

struct vm_config {
	uint64_t ram_bytes;
	bool ram_later;       /* KVM does not get it before vm_add_ram() */
	unsigned int nr_cpus; /* 1..VM_CPUS_MAX */
	enum vm_mem_backend mem_backend;
	/*
	 * Entries of each vCPU's dirty ring, a power of two; 0 for none. KVM
	 * wants it before the first vCPU, and with it there is no dirty log.
	 */
	uint32_t dirty_ring_entries;
	/* What the guest's CPUID shall be; NULL: what this host supports. */
	const struct kvm_cpuid_entry2 *cpuid;
	size_t nr_cpuid;
	uint32_t tsc_khz; /* 0: the host's */
	struct vm_boot_files boot_files;
	/* Their order is the order of PCI slots. */
	const struct vm_disk_config *disks;
	size_t nr_disks;
	const struct vm_net_config *nets;
	size_t nr_nets;
	const struct vm_vsock_config *vsock; /* NULL: none */
	bool console;
	bool rng;
	bool balloon;
};

/*
 * Opens /dev/kvm and builds the machine; nothing runs yet, no RAM is touched.
 * On failure *err (may be NULL) gets one line for people, to be freed.
 */
int vm_new(const struct vm_config *cfg, const struct vm_ops *ops, void *ctx,
	   struct vm **ret_vm, char **err);
/*
 * For a machine made with ram_later: once, before it runs or its state is loaded. RAM
 * itself can be used before. Where KVM needs a word per page of its own (without
 * two-dimensional paging) this takes half a millisecond per GiB. err: as vm_new().
 */
int vm_add_ram(struct vm *vm, char **err);
/*
 * Stops and joins the threads of vCPUs and devices, closes KVM, unmaps RAM. Any
 * userfaultfd over the RAM must have been closed or unregistered before (a vCPU
 * or a device waiting for a page would never come out).
 */
void vm_free(struct vm *vm);

struct vm_mem *vm_mem(struct vm *vm);
const struct vm_boot_files *vm_boot_files(const struct vm *vm); /* borrowed */
unsigned int vm_nr_cpus(const struct vm *vm);
uint32_t vm_tsc_khz(const struct vm *vm);
uint32_t vm_dirty_ring_entries(const struct vm *vm);
/* The CPUID in force, borrowed. */
size_t vm_cpuid(const struct vm *vm, const struct kvm_cpuid_entry2 **ret);
/* Indices of the MSRs that vm_state_save() saves, borrowed. */
size_t vm_msr_indices(const struct vm *vm, const uint32_t **ret);
uint32_t vm_xsave_bytes(const struct vm *vm);

/* Starts the vCPU threads, parked. Takes SIGUSR1 for kicking them. */
int vm_start(struct vm *vm);
/*
 * Parks every vCPU: kicks it out of KVM_RUN, completes a half-done port or MMIO
 * access, and when all are parked stops the devices, which finish what they have
 * begun. After an event vCPUs park by themselves, devices only here. Idempotent. A
 * vCPU or device that waits for a missing page comes out only when the page does,
 * and a disk may be slow, so this may block: never call it on the main thread.
 */
int vm_pause(struct vm *vm);
/* No-op when running; -ECANCELED while an event is pending. */
int vm_resume(struct vm *vm);
bool vm_is_running(struct vm *vm); /* any thread */
/* Which vCPU runs on the thread with this id, or -1. Any thread. */
int vm_cpu_of_thread(const struct vm *vm, pid_t tid);
/*
 * While on, a vCPU that has waited for something other than its guest gets a core
 * soon (slice.h): for as long as pages are missing. Any thread.
 */
void vm_cpus_wake_soon(struct vm *vm, bool on);

/*
 * The guest's own end. peek: any thread. take: hands the event over exactly
 * once; whoever takes it acts on it. An event that nobody has taken is part of
 * the saved state and happens on the other side instead.
 */
enum vm_event vm_event_peek(struct vm *vm);
enum vm_event vm_event_take(struct vm *vm);
/* One line on VM_EVENT_CRASH; borrowed. */
const char *vm_event_reason(struct vm *vm);

/* All vCPUs parked. Leaves the machine able to go on as if nothing happened. */
int vm_state_save(struct vm *vm, struct vm_state *ret_state, char **err);
/*
 * Into a machine just made by vm_new() with the same shape (-EINVAL otherwise);
 * everything is checked before it is used. elapsed_ns: how much guest time (TSC,
 * kvmclock) moves on from state; 0 goes on where it stopped. KVM looks into RAM
 * while MSRs are set (the guest's kvmclock page): with RAM under a userfaultfd,
 * its fault threads must be serving already.
 */
int vm_state_load(struct vm *vm, const struct vm_state *state,
		  uint64_t elapsed_ns, char **err);

/* Bytes typed at the serial port: how many were taken. Main thread. */
size_t vm_serial_input(struct vm *vm, const uint8_t *data, size_t bytes);
/* The sink has room again. Main thread. */
void vm_serial_output_ready(struct vm *vm);
/* The virtio console's; without one, input is taken and dropped. */
size_t vm_console_input(struct vm *vm, const uint8_t *data, size_t bytes);
void vm_console_output_ready(struct vm *vm);

/*
 * A disk belongs to one machine at a time: OFD locks (fcntl(2)), exclusive, or
 * shared for read-only ones. lock takes all or none: -EBUSY and a line that names
 * the disk. A machine must hold them whenever it runs. All vCPUs parked.
 */
int vm_disks_lock(struct vm *vm, char **err);
void vm_disks_unlock(struct vm *vm);

/*
 * What a peer must know of the disks and nets of a machine to have the same:
 * borrowed names, i < nr of vm_config.
 */
struct vm_disk_info {
	const char *path;
	uint64_t bytes;
	uint64_t features; /* offered to the guest */
	uint32_t nr_queues;
	bool read_only;
	bool direct;
};
struct vm_net_info {
	const char *tap;
	uint64_t features;
	uint32_t nr_queues;
	uint8_t mac[6];
};
size_t vm_nr_disks(struct vm *vm);
void vm_disk_info(struct vm *vm, size_t i, struct vm_disk_info *ret_info);
size_t vm_nr_nets(struct vm *vm);
void vm_net_info(struct vm *vm, size_t i, struct vm_net_info *ret_info);
/* NULL: the machine has none. */
const struct vm_vsock_config *vm_vsock_info(struct vm *vm);
bool vm_has_console(struct vm *vm);
bool vm_has_rng(struct vm *vm);
bool vm_has_balloon(struct vm *vm);

/*
 * Presses the power button: a guest that listens (true) will power off in its own
 * time. Otherwise it learns of it when it begins to. Any thread, after vm_new().
 */
bool vm_power_button(struct vm *vm);

/*
 * How much memory the guest shall give back (-ENODEV: no balloon); it does so
 * in its own time. actual: how much it has given.
 */
int vm_balloon_set(struct vm *vm, uint64_t bytes);
uint64_t vm_balloon_actual(struct vm *vm);

#endif
