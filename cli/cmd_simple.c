/* vmmd pause, resume, stop, wait, cancel, send: one request, one answer. */
#include <string.h>

#include "cli/client.h"
#include "cli/cmd.h"

struct settings {
	bool json;
	bool force;
};

static int set_json(void *settings, const char *value)
{
	struct settings *s = settings;

	(void)value;
	s->json = true;
	return 0;
}

static int set_force(void *settings, const char *value)
{
	struct settings *s = settings;

	(void)value;
	s->force = true;
	return 0;
}

static const struct cli_opt opts[] = {
	{ "json", NULL, "one JSON object on stdout", set_json },
	{ 0 },
};

static const struct cli_opt stop_opts[] = {
	{ "force", NULL,
	  "even when the guest, or pages of it, are lost for good", set_force },
	{ "json", NULL, "one JSON object on stdout", set_json },
	{ 0 },
};

/* A process that ends before it answers has ended all the same. */
static void settle_ended(struct client_answer *answer)
{
	if (!answer->ended)
		return;
	client_answer_fini(answer);
	*answer = (struct client_answer){
		.exit_status = CLI_DONE,
		.result = json_pack("{s:s, s:s}", "result", "ended", "reason",
				    "its process is gone"),
	};
}

/* The request is named like the command. */
static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct client_answer answer;
	struct settings s = { 0 };
	char **args;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &args, &ret))
		return ret;
	client_ask(args[0],
		   json_pack("{s:s, s:b}", "cmd", cmd->name, "force", s.force),
		   0, NULL, NULL, &answer);
	if (strcmp(cmd->name, "stop") == 0)
		settle_ended(&answer);
	return client_report(&answer, s.json);
}

static int run_wait(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct client_answer answer;
	struct settings s = { 0 };
	char **args;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &args, &ret))
		return ret;
	client_ask(args[0], json_pack("{s:s}", "cmd", "wait"), 0, NULL, NULL,
		   &answer);
	settle_ended(&answer);
	return client_report(&answer, s.json);
}

static int run_send(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct client_answer answer;
	struct settings s = { 0 };
	json_t *request;
	char **args;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &args, &ret))
		return ret;
	request = json_pack("{s:s, s:s}", "cmd", "serial-input", "data",
			    args[1]);
	if (!request)
		return cli_usage(cmd, "TEXT is not valid UTF-8");
	client_ask(args[0], request, 0, NULL, NULL, &answer);
	return client_report(&answer, s.json);
}

const struct cli_cmd cli_cmd_pause = {
	.name = "pause",
	.summary = "Stop a guest's vCPUs",
	.args = "NAME",
	.nr_args = 1,
	.opts = opts,
	.details = "Example:\n  vmmd pause a\n",
	.run = run,
};

const struct cli_cmd cli_cmd_resume = {
	.name = "resume",
	.summary = "Let a paused guest run again",
	.args = "NAME",
	.nr_args = 1,
	.opts = opts,
	.details = "A paused migration goes on with vmmd migrate --resume.\n\n"
		   "Example:\n  vmmd resume a\n",
	.run = run,
};

const struct cli_cmd cli_cmd_stop = {
	.name = "stop",
	.summary = "End a guest and its process",
	.args = "NAME",
	.nr_args = 1,
	.opts = stop_opts,
	.details =
		"Cancels a running migration or snapshot first. Refused with "
		"exit status 3 while a\n"
		"migration is paused after the guest was handed over.\n\n"
		"Example:\n  vmmd stop a\n",
	.run = run,
};

const struct cli_cmd cli_cmd_wait = {
	.name = "wait",
	.summary = "Wait until a guest's process has ended",
	.args = "NAME",
	.nr_args = 1,
	.opts = opts,
	.details = "Example:\n  vmmd wait a\n",
	.run = run_wait,
};

const struct cli_cmd cli_cmd_cancel = {
	.name = "cancel",
	.summary = "Cancel the migration or snapshot of a guest",
	.args = "NAME",
	.nr_args = 1,
	.opts = opts,
	.details = "The guest goes on here as before. Too late (exit status "
		   "1) once it was handed over.\n\n"
		   "Example:\n  vmmd cancel a\n",
	.run = run,
};

const struct cli_cmd cli_cmd_send = {
	.name = "send",
	.summary = "Type text at a guest's serial port",
	.args = "NAME TEXT",
	.nr_args = 2,
	.opts = opts,
	.details = "Example:\n  vmmd send a q\n",
	.run = run_send,
};
