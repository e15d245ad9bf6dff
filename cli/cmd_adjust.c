/* vmmd adjust: other limits for a migration that is under way. */
#include <errno.h>
#include <stdint.h>

#include "cli/args.h"
#include "cli/client.h"
#include "cli/cmd.h"

struct settings {
	json_t *request; /* owned */
	bool postcopy;
};

static int set_downtime_limit(void *settings, const char *value)
{
	struct settings *s = settings;
	uint64_t ms;

	if (cli_parse_u64(value, 0, UINT32_MAX, &ms) < 0)
		return -EINVAL;
	return json_object_set_new(s->request, "downtime_limit_ms",
				   json_integer((json_int_t)ms));
}

static int set_max_bandwidth(void *settings, const char *value)
{
	struct settings *s = settings;
	uint64_t bytes;

	if (cli_parse_size(value, &bytes) < 0 || bytes > INT64_MAX)
		return -EINVAL;
	return json_object_set_new(s->request, "max_bandwidth",
				   json_integer((json_int_t)bytes));
}

static const struct cli_opt opts[] = {
	{ .name = "downtime-limit",
	  .arg = "MS",
	  .help = "switch over when the rest fits in so many ms",
	  .set = set_downtime_limit },
	{ .name = "max-bandwidth",
	  .arg = "BYTES/s",
	  .help = "all channels together, with K, M, G or T (0: no limit)",
	  .set = set_max_bandwidth },
	CLI_FLAG("postcopy", struct settings, postcopy,
		 "switch over now; what is left follows when it is needed"),
	{ 0 },
};

static int adjust(const struct cli_call *call, struct settings *s)
{
	struct client_answer answer;
	bool nothing = json_object_size(s->request) == 0 && !s->postcopy;

	if (nothing)
		return cli_usage(call, "say what to change");
	json_object_set_new(s->request, "cmd", json_string("adjust"));
	json_object_set_new(s->request, "postcopy", json_boolean(s->postcopy));
	client_ask(call->args[0], json_incref(s->request), 0, NULL, NULL,
		   &answer);
	return client_report(&answer, call->json);
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct settings s = { .request = json_object() };
	struct cli_call call;
	int ret;

	if (cli_opts_parse(cmd, argc, argv, &s, &call, &ret))
		ret = adjust(&call, &s);
	json_decref(s.request);
	return ret;
}

const struct cli_cmd cli_cmd_adjust = {
	.name = "adjust",
	.summary = "Change the limits of a migration that is under way",
	.args = "NAME",
	.nr_args = 1,
	.opts = opts,
	.details = "What is not named stays as it is. --postcopy needs a "
		   "migration in mode hybrid.\n"
		   "Once the guest was handed over only the bandwidth can be "
		   "changed, and nothing\n"
		   "while the migration is paused.\n\n"
		   "Examples:\n  vmmd adjust a --max-bandwidth 0\n"
		   "  vmmd adjust a --postcopy\n",
	.run = run,
};
