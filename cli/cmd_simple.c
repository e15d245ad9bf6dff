/* vmmd pause, resume, stop, wait, cancel, send, balloon: one request each. */
#include <string.h>

#include "cli/args.h"
#include "cli/client.h"
#include "cli/cmd.h"

struct settings {
	bool force;
	bool powerdown;
};

static const struct cli_opt stop_opts[] = {
	CLI_FLAG("force", struct settings, force,
		 "even when the guest, or pages of it, are lost for good"),
	CLI_FLAG("powerdown", struct settings, powerdown,
		 "press its power button and wait until it has turned itself "
		 "off"),
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

static int ask(const struct cli_call *call, json_t *request)
{
	struct client_answer answer;

	client_ask(call->args[0], request, 0, NULL, NULL, &answer);
	return client_report(&answer, call->json);
}

/* The request is named like the command. */
static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_call call;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	return ask(&call, json_pack("{s:s}", "cmd", cmd->name));
}

/* For those after which the process is to be gone. */
static int ask_for_the_end(const struct cli_call *call, json_t *request)
{
	struct client_answer answer;

	client_ask(call->args[0], request, 0, NULL, NULL, &answer);
	settle_ended(&answer);
	return client_report(&answer, call->json);
}

static int run_stop(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct settings s = { 0 };
	struct cli_call call;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &s, &call, &ret))
		return ret;
	if (s.force && s.powerdown)
		return cli_usage(&call, "--force does not go with --powerdown");
	return ask_for_the_end(&call, json_pack("{s:s, s:b, s:b}", "cmd",
						"stop", "force", s.force,
						"powerdown", s.powerdown));
}

static int run_wait(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_call call;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	return ask_for_the_end(&call, json_pack("{s:s}", "cmd", "wait"));
}

static int run_send(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_call call;
	json_t *request;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	request = json_pack("{s:s, s:s}", "cmd", "serial-input", "data",
			    call.args[1]);
	if (!request)
		return cli_usage(&call, "TEXT is not valid UTF-8");
	return ask(&call, request);
}

static int run_balloon(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_call call;
	uint64_t bytes;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	if (cli_parse_size(call.args[1], &bytes) < 0 || bytes > INT64_MAX)
		return cli_usage(&call, "'%.80s' is no size", call.args[1]);
	return ask(&call, json_pack("{s:s, s:I}", "cmd", "balloon", "bytes",
				    (json_int_t)bytes));
}

const struct cli_cmd cli_cmd_pause = {
	.name = "pause",
	.summary = "Stop a guest's vCPUs",
	.args = "NAME",
	.nr_args = 1,
	.details = "Example:\n  vmmd pause a\n",
	.run = run,
};

const struct cli_cmd cli_cmd_resume = {
	.name = "resume",
	.summary = "Let a paused guest run again",
	.args = "NAME",
	.nr_args = 1,
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
		"migration is paused after the guest was handed over.\n"
		"--powerdown asks the guest, which may take its time or do "
		"nothing; interrupting\n"
		"this command does not take it back.\n\n"
		"Example:\n  vmmd stop a\n",
	.run = run_stop,
};

const struct cli_cmd cli_cmd_wait = {
	.name = "wait",
	.summary = "Wait until a guest's process has ended",
	.args = "NAME",
	.nr_args = 1,
	.details = "Example:\n  vmmd wait a\n",
	.run = run_wait,
};

const struct cli_cmd cli_cmd_cancel = {
	.name = "cancel",
	.summary = "Cancel the migration or snapshot of a guest",
	.args = "NAME",
	.nr_args = 1,
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
	.details = "Example:\n  vmmd send a q\n",
	.run = run_send,
};

const struct cli_cmd cli_cmd_balloon = {
	.name = "balloon",
	.summary = "Ask a guest to give back memory",
	.args = "NAME SIZE",
	.nr_args = 2,
	.details =
		"SIZE is what the guest shall do without, as a number of bytes "
		"or with K, M, G or T;\n"
		"0 gives it all back. The guest follows in its own time: vmmd "
		"status tells how far\n"
		"it is. Needs a guest that was started with --balloon.\n\n"
		"Example:\n  vmmd balloon a 256M\n",
	.run = run_balloon,
};
