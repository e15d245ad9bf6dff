/* vmmd restore: a guest from a snapshot. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/guest_opts.h"

static const struct cli_opt opts[] = {
	GUEST_OPT_NAME,
	CLI_FLAG("lazy", struct guest_opts, cfg.lazy,
		 "start at once, read pages when they are needed"),
	GUEST_OPTS_HOST_SIDE,
	{ 0 },
};

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	static struct guest_opts o = { .cfg = { .origin = FROM_SNAPSHOT } };
	struct cli_call call;
	char *dir;
	int ret;

	if (!guest_opts_parse(cmd, argc, argv, &o, &call, &ret))
		return ret;
	/* The background process leaves the directory we were started in. */
	dir = realpath(call.args[0], NULL);
	if (!dir)
		return client_fail(call.json, "restore: %.1000s: %s",
				   call.args[0], strerror(errno));
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
		   "page is in.\n"
		   "A disk goes on with what it holds now, whatever it held "
		   "then: give copies of what\n"
		   "vmmd snapshot --disks made. Nothing in DIR is ever written "
		   "to.\n" GUEST_OPTS_HOST_SIDE_HELP
		   "Example:\n  vmmd restore /var/tmp/a.snap --name c --lazy "
		   "--detach\n",
	.run = run,
};
