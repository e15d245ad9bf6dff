#include "cli/guest_opts.h"

#include <errno.h>

#include "cli/args.h"
#include "cli/device_args.h"

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

int guest_opt_console(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.console_given = true;
	return cli_parse_serial(value, &o->cfg.console);
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

int guest_opt_disk(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	if (o->cfg.nr_disks == MIG_DISKS_MAX)
		return -EINVAL;
	return cli_parse_disk(value, &o->cfg.disks[o->cfg.nr_disks++]);
}

int guest_opt_net(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	if (o->cfg.nr_nets == MIG_NETS_MAX)
		return -EINVAL;
	return cli_parse_net(value, &o->cfg.nets[o->cfg.nr_nets++]);
}

int guest_opt_vsock(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.vsock_given = true;
	return cli_parse_vsock(value, &o->cfg.vsock);
}

static bool is_stdio(bool given, const struct cli_serial_spec *spec)
{
	return given && spec->kind == CLI_SERIAL_STDIO;
}

static int check(const struct cli_call *call, const struct guest_opts *o)
{
	bool serial = is_stdio(o->cfg.serial_given, &o->cfg.serial);
	bool console = is_stdio(o->cfg.console_given, &o->cfg.console);

	if (!o->cfg.name)
		return cli_usage(call, "--name is needed");
	if (o->cfg.detach && (serial || console))
		return cli_usage(call, "--%s stdio does not go with --detach",
				 serial ? "serial" : "console");
	if (serial && console)
		return cli_usage(call, "--serial and --console cannot both be "
				       "stdio");
	return CLI_DONE;
}

bool guest_opts_parse(const struct cli_cmd *cmd, int argc, char **argv,
		      struct guest_opts *o, struct cli_call *ret_call,
		      int *ret_exit)
{
	if (!cli_opts_parse(cmd, argc, argv, o, ret_call, ret_exit))
		return false;
	o->cfg.json = ret_call->json;
	*ret_exit = check(ret_call, o);
	return *ret_exit == CLI_DONE;
}
