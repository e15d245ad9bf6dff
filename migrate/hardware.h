/*
 * migrate/hardware.h: the virtio devices of a machine, as others must know them,
 * and what it is booted from.
 *
 * A peer or a snapshot describes them (struct mig_hardware). Who takes the guest
 * in may say where they lead to on his host (struct mig_host_side). Both make
 * what vm_new() needs (struct mig_plan); what came of it is compared with the
 * description, since the guest must not see a difference.
 *
 * Threads: pure functions but for what they open and close again: any thread.
 * Errors:  -errno; what speaks against a guest goes line by line to an objector.
 */
#ifndef MIGRATE_HARDWARE_H
#define MIGRATE_HARDWARE_H

#include "vmm/vm.h"

#define MIG_DISKS_MAX  16
#define MIG_NETS_MAX   8
#define MIG_QUEUES_MAX 64
#define MIG_CID_MIN    3 /* 0 to 2 are taken: vsock(7) */

struct mig_hardware {
	/* Their strings are owned. */
	struct vm_disk_info disks[MIG_DISKS_MAX];
	size_t nr_disks;
	struct vm_net_info nets[MIG_NETS_MAX];
	size_t nr_nets;
	bool has_vsock;
	struct vm_vsock_config vsock;
	bool console;
	bool rng;
	bool balloon;
	struct vm_boot_files boot_files; /* kernel NULL: none are known */
};

/* A copy of what vm has. */
int mig_hardware_of(struct vm *vm, struct mig_hardware *ret_hardware);
void mig_hardware_fini(struct mig_hardware *h);
/* Is there anything that a peer must know of? */
bool mig_hardware_is_any(const struct mig_hardware *h);

/*
 * The n-th disk (net) here instead of the path (tap) of the guest's n-th. All
 * zeros: everything is where it was. Borrowed strings.
 */
struct mig_host_side {
	const struct vm_disk_config *disks; /* read_only: it must be so */
	size_t nr_disks;
	const struct vm_net_config *nets; /* mac: zeros, or it must be so */
	size_t nr_nets;
	const struct vm_vsock_config *vsock; /* NULL; cid: likewise */
	bool console; /* there is one to lead somewhere */
};

/* One thing that speaks against it, as a line for people. */
typedef void mig_object(void *ctx, const char *line);
struct mig_objector {
	mig_object *object;
	void *ctx;
};

struct mig_plan {
	struct vm_disk_config disks[MIG_DISKS_MAX];
	struct vm_net_config nets[MIG_NETS_MAX];
	struct vm_vsock_config vsock;
};

/*
 * The devices of *cfg, which then points into *plan, whose strings are h's and
 * host's. Objects to counts and values that do not go together.
 */
void mig_hardware_plan(const struct mig_hardware *h,
		       const struct mig_host_side *host, struct mig_plan *plan,
		       struct vm_config *cfg, const struct mig_objector *o);
/*
 * Before vm_new(), which gives up at the first: objects to each disk and tap of
 * cfg that cannot be had on this host, or is not what the guest knows.
 */
void mig_hardware_probe(const struct mig_hardware *h,
			const struct vm_config *cfg,
			const struct mig_objector *o);
/* Objects to each difference between vm and what the guest knows. */
void mig_hardware_compare(const struct mig_hardware *h, struct vm *vm,
			  const struct mig_objector *o);

#endif
