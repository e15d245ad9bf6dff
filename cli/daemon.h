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
#include "migrate/net.h"
#include "vmm/mem.h"

enum daemon_origin { FROM_KERNEL, FROM_PEER, FROM_SNAPSHOT };

/* Borrowed strings, alive until daemon_main() returns. */
struct daemon_config {
	enum daemon_origin origin;
	const char *name;
	struct cli_serial_spec serial;
	bool serial_given; /* else stdio, or null with detach */
	uint32_t dirty_ring_entries;
	bool detach;
	bool json;

	/* FROM_KERNEL */
	uint64_t ram_bytes;
	uint64_t nr_cpus;
	enum vm_mem_backend mem_backend;
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
