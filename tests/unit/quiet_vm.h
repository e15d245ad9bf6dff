/* tests/unit/quiet_vm.h: a machine whose events and output nobody wants. */
#ifndef TESTS_UNIT_QUIET_VM_H
#define TESTS_UNIT_QUIET_VM_H

#include <stddef.h>
#include <stdint.h>

#include "vmm/vm.h"

static void nothing(void *ctx)
{
	(void)ctx;
}

static size_t no_output(void *ctx, const uint8_t *data, size_t bytes)
{
	(void)ctx;
	(void)data;
	return bytes;
}

static const struct vm_ops quiet_vm_ops = {
	.event = nothing,
	.serial_output = no_output,
};

#endif
