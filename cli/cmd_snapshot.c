/* vmmd snapshot: a running guest into a directory. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/log.h"
#include "cli/progress.h"

struct settings {
	bool stop;
	bool json;
};

static int set_stop(void *settings, const char *value)
{
	struct settings *s = settings;

	(void)value;
	s->stop = true;
	return 0;
}

static int set_json(void *settings, const char *value)
{
	struct settings *s = settings;

	(void)value;
	s->json = true;
	return 0;
}

static const struct cli_opt opts[] = {
	{ "stop", NULL, "keep the guest stopped until all is written",
	  set_stop },
	{ "json", NULL, "one JSON object on stdout", set_json },
	{ 0 },
};

/* It is the guest's process that writes, and it has left our directory. */
static char *absolute(const char *dir)
{
	char cwd[PATH_MAX];

	if (dir[0] == '/')
		return strdup(dir);
	if (!getcwd(cwd, sizeof(cwd)))
		return NULL;
	return cli_line("%s/%s", cwd, dir);
}

static void print_summary(const char *name, const char *dir, const json_t *r)
{
	const json_t *f = json_object_get(r, "wp_faults");

	printf("%s saved to %s in %.1f ms: paused %.2f ms, %.1f MiB written, "
	       "%.0f pages saved just before a write\n",
	       name, dir, json_number_value(json_object_get(r, "total_ms")),
	       json_number_value(json_object_get(r, "pause_ms")),
	       json_number_value(json_object_get(r, "bytes_written")) / 1048576,
	       json_number_value(json_object_get(f, "count")));
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct progress progress = { 0 };
	struct client_answer answer;
	struct settings s = { 0 };
	char **args, *dir;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &args, &ret))
		return ret;
	dir = *args[1] ? absolute(args[1]) : NULL;
	if (!dir)
		return cli_usage(cmd, "'%.80s' cannot name a directory",
				 args[1]);
	client_ask(args[0],
		   json_pack("{s:s, s:s, s:b}", "cmd", "snapshot", "dir", dir,
			     "stop", s.stop),
		   0, progress_show, &progress, &answer);
	progress_end();
	if (!answer.error && answer.result && !s.json)
		print_summary(args[0], dir, answer.result);
	free(dir);
	return client_report(&answer, s.json);
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
		"guest goes on and nothing is left behind.\n\n"
		"Example:\n  vmmd snapshot a /var/tmp/a.snap\n",
	.run = run,
};
