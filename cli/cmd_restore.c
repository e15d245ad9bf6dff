/* vmmd restore: a guest from a snapshot. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/guest_opts.h"

static int set_lazy(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	(void)value;
	o->cfg.lazy = true;
	return 0;
}

static const struct cli_opt opts[] = {
	GUEST_OPT_NAME,
	{ "lazy", NULL, "start at once, read pages when they are needed",
	  set_lazy },
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
	static struct guest_opts o = { .cfg = { .origin = FROM_SNAPSHOT } };
	char **args, *dir;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &o, &args, &ret))
		return ret;
	ret = guest_opts_check(cmd, &o);
	if (ret != CLI_DONE)
		return ret;
	/* The background process leaves the directory we were started in. */
	dir = realpath(args[0], NULL);
	if (!dir)
		return client_fail(o.cfg.json, "restore: %.1000s: %s", args[0],
				   strerror(errno));
	o.cfg.dir = dir;
	ret = daemon_main(&o.cfg);
	free(dir);
	return ret;
}

const struct cli_cmd cli_cmd_restore = {
	.name = "restore",
	.summary = "Start a guest from a snapshot",
	.args = "DIR",
	.nr_args = 1,
	.opts = opts,
	.details = "--json prints result, start_ms, total_ms and faults: with "
		   "--detach when the guest\n"
		   "runs (result \"running\" while pages are still to come), "
		   "otherwise when every\n"
		   "page is in.\n\n"
		   "Example:\n  vmmd restore /var/tmp/a.snap --name c --lazy "
		   "--detach\n",
	.run = run,
};
