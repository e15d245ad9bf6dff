/*
 * migrate/hardware_codec.h: struct mig_hardware as a message and back
 * (hardware.proto).
 *
 * Threads: pure functions, any thread.
 * Errors:  -EBADMSG and a line in *err (may be NULL), -ENOMEM.
 */
#ifndef MIGRATE_HARDWARE_CODEC_H
#define MIGRATE_HARDWARE_CODEC_H

#include "migrate/hardware.h"
#include "proto/hardware.pb-c.h"

/* In Setup.required when a machine has any. */
#define MIG_FEATURE_HARDWARE "hardware"

/* A message under construction: strings are those of the mig_hardware. */
struct mig_hardware_msg {
	Vmmd__Hardware msg;
	Vmmd__Disk disks[MIG_DISKS_MAX];
	Vmmd__Disk *disk_list[MIG_DISKS_MAX];
	Vmmd__Net nets[MIG_NETS_MAX];
	Vmmd__Net *net_list[MIG_NETS_MAX];
	Vmmd__Vsock vsock;
	Vmmd__BootFiles boot_files;
};

/* *m stays where it is until it has been packed. */
void mig_hardware_fill(const struct mig_hardware *h,
		       struct mig_hardware_msg *m);
/* msg NULL: no hardware. Every count, length and value is checked. */
int mig_hardware_take(const Vmmd__Hardware *msg,
		      struct mig_hardware *ret_hardware, char **err);

#endif
