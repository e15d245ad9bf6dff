/* vmmd receive: a guest from another process. */
#include <errno.h>

#include "cli/guest_opts.h"

static int set_listen(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->listen = value;
	return mig_addr_parse(value, &o->cfg.listen);
}

static const struct cli_opt opts[] = {
	GUEST_OPT_NAME,
	{ .name = "listen",
	  .arg = "tcp://ADDR:PORT",
	  .help = "where to wait for the source; port 0 takes a free one",
	  .set = set_listen },
	GUEST_OPTS_HOST_SIDE,
	{ 0 },
};

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	static struct guest_opts o = { .cfg = { .origin = FROM_PEER } };
	struct cli_call call;
	int ret;

	if (!guest_opts_parse(cmd, argc, argv, &o, &call, &ret))
		return ret;
	if (!o.listen)
		return cli_usage(&call, "--listen is needed");
	return daemon_main(&o.cfg);
}

const struct cli_cmd cli_cmd_receive = {
	.name = "receive",
	.summary = "Wait for a guest that migrates to here",
	.args = "",
	.opts = opts,
	.details = "ADDR is a name, an IPv4 address or an [IPv6 address]. The "
		   "address really bound\n"
		   "is printed (--json: as \"listen\") as soon as it listens. "
		   "Whoever can connect to\n"
		   "it can hand over a guest, and names the files that it "
		   "has as disks unless --disk\n"
		   "does: use a network that you "
		   "trust.\n" GUEST_OPTS_HOST_SIDE_HELP
		   "Example:\n  vmmd receive --name b --listen "
		   "tcp://127.0.0.1:4000 --detach\n",
	.run = run,
};
