/* vmmd migrate: move a running guest to a process that receives. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/args.h"
#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/progress.h"
#include "migrate/net.h"
#include "migrate/source.h"
#include "migrate/stats.h"

struct settings {
	enum mig_mode mode;
	uint64_t channels;
	uint64_t downtime_limit_ms;
	uint64_t max_bandwidth;
	const char *tracker;
	bool resume;
};

static int set_mode(void *settings, const char *value)
{
	struct settings *s = settings;

	return mig_mode_parse(value, &s->mode);
}

static int set_channels(void *settings, const char *value)
{
	struct settings *s = settings;

	return cli_parse_u64(value, 1, MIG_CHANNELS_MAX, &s->channels);
}

static int set_downtime_limit(void *settings, const char *value)
{
	struct settings *s = settings;

	return cli_parse_u64(value, 0, UINT32_MAX, &s->downtime_limit_ms);
}

static int set_max_bandwidth(void *settings, const char *value)
{
	struct settings *s = settings;
	uint64_t bytes;

	/* It travels as a JSON integer, which has a sign. */
	if (cli_parse_size(value, &bytes) < 0 || bytes > INT64_MAX)
		return -EINVAL;
	s->max_bandwidth = bytes;
	return 0;
}

static int set_tracker(void *settings, const char *value)
{
	struct settings *s = settings;

	s->tracker = value; /* the process that has the guest knows them */
	return 0;
}

static const struct cli_opt opts[] = {
	{ .name = "mode",
	  .arg = "precopy|postcopy|hybrid",
	  .help = "how memory travels (default hybrid)",
	  .set = set_mode },
	{ .name = "channels",
	  .arg = "N",
	  .help = "data connections, 1 to 16 (default 2)",
	  .set = set_channels },
	{ .name = "downtime-limit",
	  .arg = "MS",
	  .help = "switch over when the rest fits in so many ms (default 20)",
	  .set = set_downtime_limit },
	{ .name = "max-bandwidth",
	  .arg = "BYTES/s",
	  .help = "all channels together, with K, M, G or T (default 0: no "
		  "limit)",
	  .set = set_max_bandwidth },
	{ .name = "tracker",
	  .arg = "auto|log|manual|ring|wp-all",
	  .help = "how written pages are found (default auto; see vmmd doctor)",
	  .set = set_tracker },
	CLI_FLAG("resume", struct settings, resume,
		 "go on with a migration that is paused"),
	{ 0 },
};

static double real(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static void print_part(const char *name, const json_t *l)
{
	printf("    %-9s p50 %.0f us, p99 %.0f us, max %.0f us\n", name,
	       real(l, "p50_us"), real(l, "p99_us"), real(l, "max_us"));
}

static void print_faults(const json_t *r)
{
	const json_t *f = json_object_get(r, "faults");
	const json_t *blocked = json_object_get(r, "blocked_ms"), *ms;
	size_t i;

	printf("  faults      %.0f: p50 %.0f us, p99 %.0f us, max %.0f us\n",
	       real(f, "count"), real(f, "p50_us"), real(f, "p99_us"),
	       real(f, "max_us"));
	print_part("request", json_object_get(r, "fault_request"));
	print_part("wire", json_object_get(r, "fault_wire"));
	print_part("place", json_object_get(r, "fault_place"));
	printf("  blocked     ms of each vCPU:");
	json_array_foreach(blocked, i, ms)
		printf(" %.1f", json_number_value(ms));
	printf(", of others: %.1f\n", real(r, "blocked_others_ms"));
	printf("  postcopied  %.0f pages had come before and were stale, "
	       "%.0f came twice\n",
	       real(r, "pages_stale"), real(r, "pages_duplicate"));
}

static void print_summary(const char *name, const char *uri, const json_t *r)
{
	const json_t *d = json_object_get(r, "downtime");
	const json_t *f = json_object_get(r, "faults");
	const json_t *p = json_object_get(r, "pauses");
	const json_t *y = json_object_get(r, "syncs");
	const char *how = json_string_value(json_object_get(r, "switchover"));

	printf("%s moved to %s in %.1f ms (%s, switchover in %s)\n", name, uri,
	       real(r, "total_ms"),
	       json_string_value(json_object_get(r, "mode")), how ? how : "?");
	printf("  downtime    %.2f ms: stop %.2f, sync %.2f, pages %.2f, state "
	       "%.2f, commit %.2f, start %.2f\n",
	       real(r, "downtime_ms"), real(d, "stop_ms"), real(d, "sync_ms"),
	       real(d, "pages_ms"), real(d, "state_ms"), real(d, "commit_ms"),
	       real(d, "start_ms"));
	if (real(p, "count") > 1)
		printf("  pauses      %.0f, together %.2f ms, longest %.2f "
		       "ms\n",
		       real(p, "count"), real(p, "sum_ms"), real(p, "max_ms"));
	printf("  phases      setup %.1f ms, precopy %.1f ms in %.0f rounds, "
	       "postcopy %.1f ms\n",
	       real(r, "setup_ms"), real(r, "precopy_ms"), real(r, "rounds"),
	       real(r, "postcopy_ms"));
	printf("  pages       %.0f sent, %.0f zero, %.0f never populated\n",
	       real(r, "pages_sent"), real(r, "pages_zero"),
	       real(r, "pages_skipped"));
	printf("  network     %.1f MiB over %.0f channels at %.1f MiB/s\n",
	       real(r, "bytes_sent") / 1048576, real(r, "channels"),
	       real(r, "throughput_bytes_per_s") / 1048576);
	printf("  tracker     %s: start %.2f ms, %.0f syncs together %.2f ms, "
	       "longest %.2f ms\n",
	       json_string_value(json_object_get(r, "tracker")),
	       real(y, "start_ms"), real(y, "count"), real(y, "sum_ms"),
	       real(y, "max_ms"));
	if (real(f, "count") > 0)
		print_faults(r);
}

static json_t *make_request(const struct settings *s, const char *uri)
{
	if (s->resume)
		return json_pack("{s:s, s:s, s:b}", "cmd", "migrate", "uri",
				 uri, "resume", 1);
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "cmd",
			 "migrate", "uri", uri, "mode", mig_mode_name(s->mode),
			 "channels", (json_int_t)s->channels,
			 "downtime_limit_ms", (json_int_t)s->downtime_limit_ms,
			 "max_bandwidth", (json_int_t)s->max_bandwidth,
			 "tracker", s->tracker);
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct settings s = {
		.mode = MIG_MODE_HYBRID,
		.channels = MIG_CHANNELS_DEFAULT,
		.downtime_limit_ms = MIG_DOWNTIME_LIMIT_MS_DEFAULT,
		.tracker = "auto",
	};
	struct progress progress = { 0 };
	struct client_answer answer;
	struct mig_addr addr;
	struct cli_call call;
	char **args;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &call, &ret))
		return ret;
	args = call.args;
	if (mig_addr_parse(args[1], &addr) < 0)
		return cli_usage(&call, "'%.80s' is not tcp://ADDR:PORT",
				 args[1]);
	client_ask(args[0], make_request(&s, args[1]), 0, progress_show,
		   &progress, &answer);
	progress_end();
	if (!answer.error && answer.result && !call.json)
		print_summary(args[0], args[1], answer.result);
	return client_report(&answer, call.json);
}

const struct cli_cmd cli_cmd_migrate = {
	.name = "migrate",
	.summary = "Move a guest to a process that receives",
	.args = "NAME tcp://ADDR:PORT",
	.nr_args = 2,
	.opts = opts,
	.details =
		"precopy   copies memory while the guest runs and switches "
		"when "
		"little is left\n"
		"postcopy  switches at once; pages follow when they are "
		"needed\n"
		"hybrid    precopy, then postcopy if that does not converge\n\n"
		"Exit status 1: the guest runs on at the source. 3: the "
		"connection broke after the\n"
		"guest was handed over; go on with --resume. A migration goes "
		"on when this command\n"
		"is interrupted; vmmd cancel stops it.\n\n"
		"Example:\n  vmmd migrate a tcp://127.0.0.1:4000 --mode "
		"precopy --json\n",
	.run = run,
};
