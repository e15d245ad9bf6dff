#include "cli/guest_opts.h"

#include <errno.h>

#include "cli/args.h"
#include "cli/client.h"

/* KVM's own bounds are checked when the ring is made. */
#define DIRTY_RING_ENTRIES_MAX 65536

int guest_opt_name(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.name = value;
	return cli_name_ok(value) ? 0 : -EINVAL;
}

int guest_opt_serial(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.serial_given = true;
	return cli_parse_serial(value, &o->cfg.serial);
}

int guest_opt_dirty_ring(void *settings, const char *value)
{
	struct guest_opts *o = settings;
	uint64_t entries;

	if (cli_parse_u64(value, 1, DIRTY_RING_ENTRIES_MAX, &entries) < 0)
		return -EINVAL;
	if (entries & (entries - 1))
		return -EINVAL;
	o->cfg.dirty_ring_entries = (uint32_t)entries;
	return 0;
}

int guest_opt_device(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	(void)value;
	o->devices = true;
	return 0;
}

int guest_opt_detach(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	(void)value;
	o->cfg.detach = true;
	return 0;
}

int guest_opt_json(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	(void)value;
	o->cfg.json = true;
	return 0;
}

int guest_opts_check(const struct cli_cmd *cmd, const struct guest_opts *o)
{
	if (!o->cfg.name)
		return cli_usage(cmd, "--name is needed");
	if (o->devices)
		return client_fail(o->cfg.json,
				   "%s: disks and network devices are not "
				   "supported by this version",
				   cmd->name);
	if (o->cfg.detach && o->cfg.serial_given &&
	    o->cfg.serial.kind == CLI_SERIAL_STDIO)
		return cli_usage(cmd, "--serial stdio does not go with "
				      "--detach");
	return CLI_DONE;
}
