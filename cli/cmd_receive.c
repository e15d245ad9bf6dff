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
	{ "listen", "tcp://ADDR:PORT",
	  "where to wait for the source; port 0 takes a free one", set_listen },
	GUEST_OPT_DISK,
	GUEST_OPT_NET,
	GUEST_OPT_SERIAL,
	GUEST_OPT_DIRTY_RING,
	GUEST_OPT_DETACH,
	GUEST_OPT_JSON,
	{ 0 },
};

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	static struct guest_opts o = { .cfg = { .origin = FROM_PEER } };
	char **args;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &o, &args, &ret))
		return ret;
	ret = guest_opts_check(cmd, &o);
	if (ret != CLI_DONE)
		return ret;
	if (!o.listen)
		return cli_usage(cmd, "--listen is needed");
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
		   "it can hand over a guest: use a network that you trust.\n\n"
		   "Example:\n  vmmd receive --name b --listen "
		   "tcp://127.0.0.1:4000 --detach\n",
	.run = run,
};
