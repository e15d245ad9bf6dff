/*
 * cli/daemon.h: the process of a guest: run, receive and restore turn into it.
 *
 * Threads: called on the main thread, which then runs the loop until the guest
 *          has ended or left.
 */
#ifndef CLI_DAEMON_H
#define CLI_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/args.h"
#include "migrate/hardware.h"
#include "migrate/net.h"
#include "vmm/vm.h"

enum daemon_origin { FROM_KERNEL, FROM_PEER, FROM_SNAPSHOT };

/* Borrowed strings, alive until daemon_main() returns. */
struct daemon_config {
	enum daemon_origin origin;
	const char *name;
	struct cli_serial_spec serial;
	bool serial_given; /* else what is left for it */
	/*
	 * FROM_KERNEL: the machine's devices. Else where those that the guest
	 * brings along are on this host.
	 */
	struct vm_disk_config disks[MIG_DISKS_MAX];
	size_t nr_disks;
	struct vm_net_config nets[MIG_NETS_MAX];
	size_t nr_nets;
	struct vm_vsock_config vsock;
	bool vsock_given;
	struct cli_serial_spec console;
	bool console_given;
	uint32_t dirty_ring_entries;
	bool detach;
	bool json;

	/* FROM_KERNEL */
	uint64_t ram_bytes;
	uint64_t nr_cpus;
	enum vm_mem_backend mem_backend;
	bool rng;
	bool balloon;
	const char *kernel;
	const char *initrd; /* NULL: none */
	const char *cmdline;

	/* FROM_PEER */
	struct mig_addr listen;

	/* FROM_SNAPSHOT */
	const char *dir;
	bool lazy;
};

/* Returns the exit status; with detach also in the process that stays behind. */
int daemon_main(struct daemon_config *cfg);

#endif
