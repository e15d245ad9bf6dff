/* vmmd status: what a guest is at. */
#include <stdio.h>
#include <string.h>

#include "cli/client.h"
#include "cli/cmd.h"

#define MIB 1048576.0

static double number(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	const char *value = json_string_value(json_object_get(o, key));

	return value ? value : "";
}

static void print_text(const json_t *o, const char *key, const char *label)
{
	if (*text(o, key))
		printf("%-11s%s\n", label, text(o, key));
}

static void print_operation(const json_t *o)
{
	double total = number(o, "total_bytes"), left = number(o, "left_bytes");

	if (!o)
		return;
	printf("%-11s%s", text(o, "kind"), text(o, "phase"));
	if (number(o, "round") > 0)
		printf(" round %.0f", number(o, "round"));
	if (total > 0 && left <= total)
		printf(", %.0f%% (%.1f of %.1f MiB left)",
		       100 * (total - left) / total, left / MIB, total / MIB);
	printf(", %.1f MiB moved%s%s\n", number(o, "bytes") / MIB,
	       *text(o, "target") ? ", target " : "", text(o, "target"));
}

static void print_device(const json_t *o)
{
	const char *type = text(o, "type");

	printf("%-11s", type);
	if (strcmp(type, "disk") == 0)
		printf("%s, %.1f MiB%s%s\n", text(o, "path"),
		       number(o, "bytes") / MIB,
		       json_is_true(json_object_get(o, "read_only"))
			       ? ", read-only"
			       : "",
		       json_is_true(json_object_get(o, "direct")) ? ", direct"
								  : "");
	else if (strcmp(type, "net") == 0)
		printf("tap %s, mac %s\n", text(o, "tap"), text(o, "mac"));
	else if (strcmp(type, "vsock") == 0)
		printf("cid %.0f, %s\n", number(o, "cid"), text(o, "path"));
	else if (strcmp(type, "balloon") == 0)
		printf("%.1f MiB given back\n",
		       number(o, "actual_bytes") / MIB);
	else
		printf("yes\n");
}

static void print_status(const json_t *o)
{
	double missing = number(o, "missing_pages");
	const json_t *device;
	size_t i;

	printf("%-11s%s\n", "name", text(o, "name"));
	printf("%-11s%s\n", "state", text(o, "state"));
	printf("%-11s%.0f, up %.0f s\n", "process", number(o, "pid"),
	       number(o, "uptime_s"));
	if (json_object_get(o, "vcpus")) {
		printf("%-11s%.0f\n", "vcpus", number(o, "vcpus"));
		printf("%-11s%.0f MiB configured (%s), %.1f MiB resident\n",
		       "memory", number(o, "memory_bytes") / MIB,
		       text(o, "mem_backend"),
		       number(o, "resident_bytes") / MIB);
		if (missing > 0)
			printf("%-11s%.0f pages still to arrive\n", "missing",
			       missing);
		if (number(o, "dirty_ring_entries") > 0)
			printf("%-11s%.0f entries\n", "dirty ring",
			       number(o, "dirty_ring_entries"));
	}
	print_text(o, "kernel", "kernel");
	json_array_foreach(json_object_get(o, "devices"), i, device)
	{
		print_device(device);
	}
	print_text(o, "pty", "serial on");
	print_text(o, "console_pty", "console on");
	print_text(o, "listen", "listen");
	print_operation(json_object_get(o, "operation"));
	print_operation(json_object_get(o, "arrival"));
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct client_answer answer;
	struct cli_call call;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	client_ask(call.args[0], json_pack("{s:s}", "cmd", "status"), 0, NULL,
		   NULL, &answer);
	if (!answer.error && answer.result && !call.json)
		print_status(answer.result);
	return client_report(&answer, call.json);
}

const struct cli_cmd cli_cmd_status = {
	.name = "status",
	.summary = "Show what a guest is at",
	.args = "NAME",
	.nr_args = 1,
	.details = "States: starting, incoming, running, paused, busy, saving, "
		   "migrating,\n"
		   "paused-migration, paused-damaged, stopping.\n\n"
		   "Example:\n  vmmd status a\n",
	.run = run,
};
