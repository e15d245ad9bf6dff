/* vmmd snapshot: a running guest into a directory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/args.h"
#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/progress.h"

struct settings {
	bool stop;
	bool disks;
};

static const struct cli_opt opts[] = {
	CLI_FLAG("stop", struct settings, stop,
		 "keep the guest stopped until all is written"),
	CLI_FLAG("disks", struct settings, disks,
		 "copy its writable disks too, with the guest stopped"),
	{ 0 },
};

static void print_summary(const char *name, const char *dir, const json_t *r)
{
	const json_t *f = json_object_get(r, "wp_faults");
	const json_t *d = json_object_get(r, "disks");

	printf("%s saved to %s in %.1f ms: paused %.2f ms, %.1f MiB written, "
	       "%.0f pages saved just before a write\n",
	       name, dir, json_number_value(json_object_get(r, "total_ms")),
	       json_number_value(json_object_get(r, "pause_ms")),
	       json_number_value(json_object_get(r, "bytes_written")) / 1048576,
	       json_number_value(json_object_get(f, "count")));
	if (json_number_value(json_object_get(d, "count")) > 0)
		printf("  disks       %.0f copied in %.1f ms of the pause, "
		       "%.0f of them by sharing blocks\n",
		       json_number_value(json_object_get(d, "count")),
		       json_number_value(json_object_get(d, "copy_ms")),
		       json_number_value(json_object_get(d, "cloned")));
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct progress progress = { 0 };
	struct client_answer answer;
	struct settings s = { 0 };
	struct cli_call call;
	char **args, *dir;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &call, &ret))
		return ret;
	args = call.args;
	/* It is the guest's process that writes, and it has left our directory. */
	dir = cli_absolute(args[1]);
	if (!dir)
		return cli_usage(&call, "'%.80s' cannot name a directory",
				 args[1]);
	client_ask(args[0],
		   json_pack("{s:s, s:s, s:b, s:b}", "cmd", "snapshot", "dir",
			     dir, "stop", s.stop, "disks", s.disks),
		   0, progress_show, &progress, &answer);
	progress_end();
	if (!answer.error && answer.result && !call.json)
		print_summary(args[0], dir, answer.result);
	free(dir);
	return client_report(&answer, call.json);
}

const struct cli_cmd cli_cmd_snapshot = {
	.name = "snapshot",
	.summary = "Save a guest to a directory while it runs",
	.args = "NAME DIR",
	.nr_args = 2,
	.opts = opts,
	.details =
		"DIR must not exist; it appears when the snapshot is complete. "
		"Whatever fails, the\n"
		"guest goes on and nothing is left behind.\n"
		"Without --disks a snapshot holds memory, vCPUs and devices, "
		"and promises nothing\n"
		"about disks. With it, each writable one is copied to "
		"DIR/diskN.raw as of the same\n"
		"instant: at once where the file system can share blocks "
		"(reflinks, on the same one),\n"
		"else byte by byte, and the guest stands still for as long as "
		"that takes.\n\n"
		"Example:\n  vmmd snapshot a /var/tmp/a.snap\n",
	.run = run,
};
