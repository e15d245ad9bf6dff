#include "cli/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/client.h"
#include "cli/log.h"

#define OPTS_MAX  32
#define GIVEN_MAX 256
#define HELP_VAL  1000
#define JSON_VAL  1001

/*
 * What was given, in order. One command line per process: the settings keep
 * pointers into it until exit.
 */
struct values {
	struct value {
		int opt; /* index in the table */
		const char *text;
	} given[GIVEN_MAX];
	size_t nr;
};

int cli_usage(const struct cli_call *call, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	cli_log("%s: %s (see vmmd %s --help)", call->cmd->name, text,
		call->cmd->name);
	if (call->json)
		client_print_json(json_pack("{s:s, s:s}", "result", "usage",
					    "error", text));
	return CLI_USAGE;
}

static void print_opt(const char *name, const char *arg, const char *help)
{
	char left[64];

	snprintf(left, sizeof(left), "--%s%s%s", name, arg ? " " : "",
		 arg ? arg : "");
	printf("  %-27s%s%s\n", left,
	       strlen(left) > 26 ? "\n                             " : "",
	       help);
}

static const struct cli_opt *opts_of(const struct cli_cmd *cmd)
{
	static const struct cli_opt none[] = { { 0 } };

	return cmd->opts ? cmd->opts : none;
}

static void print_help(const struct cli_cmd *cmd)
{
	const struct cli_opt *o;

	printf("Usage: vmmd %s%s%s [OPTION]...\n%s.\n\nOptions:\n", cmd->name,
	       *cmd->args ? " " : "", cmd->args, cmd->summary);
	for (o = opts_of(cmd); o->name; o++)
		print_opt(o->name, o->arg, o->help);
	print_opt("json", NULL, "one JSON object on stdout");
	print_opt("help", NULL, "print this and exit");
	if (cmd->details)
		printf("\n%s", cmd->details);
}

static int find_opt(const struct cli_cmd *cmd, const char *name)
{
	const struct cli_opt *opts = opts_of(cmd);
	int i;

	for (i = 0; opts[i].name; i++) {
		if (strcmp(opts[i].name, name) == 0)
			return i;
	}
	return -ENOENT;
}

static int add_value(struct values *v, int opt, const char *text)
{
	if (v->nr == GIVEN_MAX)
		return -ENOSPC;
	v->given[v->nr++] = (struct value){ opt, text };
	return 0;
}

static void fill_longs(const struct cli_cmd *cmd, struct option *longs)
{
	const struct cli_opt *opts = opts_of(cmd);
	int i;

	for (i = 0; opts[i].name; i++) {
		longs[i].name = opts[i].name;
		longs[i].has_arg = opts[i].arg ? 1 : 0;
		longs[i].val = i + 1;
	}
	longs[i++] = (struct option){ "help", 0, NULL, HELP_VAL };
	longs[i] = (struct option){ "json", 0, NULL, JSON_VAL };
}

/* getopt_long() says which option it knows in optopt, and then its value irks. */
static int refuse_opt(const struct cli_call *call, int c, char **argv)
{
	if (c == ':')
		return cli_usage(call, "'%.80s' needs a value",
				 argv[optind - 1]);
	if (optopt != 0 && strncmp(argv[optind - 1], "--", 2) == 0)
		return cli_usage(call, "'%.80s': this option takes no value",
				 argv[optind - 1]);
	return cli_usage(call, "unknown option '%.80s'", argv[optind - 1]);
}

/* CLI_DONE also after --help: then *ret_help. */
static int read_argv(struct cli_call *call, int argc, char **argv,
		     struct values *v, bool *ret_help)
{
	struct option longs[OPTS_MAX + 3] = { 0 };
	int c;

	fill_longs(call->cmd, longs);
	opterr = 0;
	optind = 1;
	while ((c = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (c == HELP_VAL || c == 'h') {
			*ret_help = true;
			return CLI_DONE;
		}
		if (c == ':' || c == '?')
			return refuse_opt(call, c, argv);
		if (c == JSON_VAL)
			call->json = true;
		else if (add_value(v, c - 1, optarg) < 0)
			return cli_usage(call, "more than %d options",
					 GIVEN_MAX);
	}
	return CLI_DONE;
}

/* A JSON value as the text that would stand on the command line; NULL: none. */
static const char *config_text(const json_t *value)
{
	if (json_is_string(value))
		return strdup(json_string_value(value));
	if (json_is_integer(value))
		return cli_line("%lld", (long long)json_integer_value(value));
	return NULL;
}

/* One key; -EINVAL: its value is of no use. */
static int config_value(const struct cli_opt *opt, struct values *v, int i,
			const json_t *value)
{
	const json_t *item;
	const char *text;
	int ret = 0;
	size_t at;

	if (!opt->arg) {
		if (json_is_true(value))
			return add_value(v, i, NULL);
		return json_is_boolean(value) ? 0 : -EINVAL;
	}
	if (!opt->repeats || !json_is_array(value)) {
		text = config_text(value);
		return text ? add_value(v, i, text) : -EINVAL;
	}
	json_array_foreach(value, at, item)
	{
		text = config_text(item);
		if (ret == 0)
			ret = text ? add_value(v, i, text) : -EINVAL;
	}
	return ret;
}

static bool was_given(const struct values *v, size_t nr, int opt)
{
	while (nr > 0) {
		if (v->given[--nr].opt == opt)
			return true;
	}
	return false;
}

static const char *wanted(const struct cli_cmd *cmd, int i, char text[128])
{
	const struct cli_opt *opt = i >= 0 ? &opts_of(cmd)[i] : NULL;

	if (!opt || !opt->arg)
		return "true or false";
	snprintf(text, 128, "%s%s", opt->arg,
		 opt->repeats ? ", or a list of such" : "");
	return text;
}

/* nr_argv: values from the command line, which win. */
static int config_key(struct cli_call *call, const char *file, struct values *v,
		      size_t nr_argv, const char *key, const json_t *value)
{
	int i = find_opt(call->cmd, key), ret = 0;
	bool json = strcmp(key, "json") == 0;
	char text[128];

	if ((i < 0 && !json) || strcmp(key, "config") == 0)
		return client_fail(call->json,
				   "%s: --config %s: unknown key \"%s\"",
				   call->cmd->name, file, key);
	if (json)
		ret = json_is_boolean(value) ? 0 : -EINVAL;
	else if (!was_given(v, nr_argv, i))
		ret = config_value(&opts_of(call->cmd)[i], v, i, value);
	if (ret < 0)
		return client_fail(
			call->json, "%s: --config %s: \"%s\" wants %s",
			call->cmd->name, file, key, wanted(call->cmd, i, text));
	call->json = call->json || (json && json_is_true(value));
	return CLI_DONE;
}

static int read_config(struct cli_call *call, const char *file,
		       struct values *v)
{
	size_t nr_argv = v->nr;
	json_error_t error;
	const char *key;
	json_t *root, *value;
	int ret = CLI_DONE;

	root = json_load_file(file, JSON_REJECT_DUPLICATES, &error);
	if (!json_is_object(root)) {
		json_decref(root);
		return client_fail(call->json, "%s: --config %s: %s",
				   call->cmd->name, file,
				   root ? "not a JSON object" : error.text);
	}
	json_object_foreach(root, key, value)
	{
		ret = config_key(call, file, v, nr_argv, key, value);
		if (ret != CLI_DONE)
			break;
	}
	json_decref(root);
	return ret;
}

/* A later one of the same counts instead. */
static bool is_overruled(const struct values *v, size_t at)
{
	size_t i;

	for (i = at + 1; i < v->nr; i++) {
		if (v->given[i].opt == v->given[at].opt)
			return true;
	}
	return false;
}

static int apply(const struct cli_call *call, const struct values *v,
		 void *settings)
{
	const struct cli_opt *o;
	const char *text;
	size_t i;

	for (i = 0; i < v->nr; i++) {
		o = &opts_of(call->cmd)[v->given[i].opt];
		text = v->given[i].text;
		if (!o->repeats && is_overruled(v, i))
			continue;
		if (!o->arg)
			*(bool *)((char *)settings + o->flag) = true;
		else if (o->set && o->set(settings, text) < 0)
			return cli_usage(call, "--%s: '%.80s' will not do: %s",
					 o->name, text, o->help);
	}
	return CLI_DONE;
}

/* Whoever asked for JSON gets it for a complaint about what comes before, too. */
static bool asks_for_json(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0 ||
		    strncmp(argv[i], "--json=", 7) == 0)
			return true;
	}
	return false;
}

static const char *config_file(const struct cli_cmd *cmd,
			       const struct values *v)
{
	int config = find_opt(cmd, "config");
	size_t i;

	for (i = v->nr; config >= 0 && i > 0; i--) {
		if (v->given[i - 1].opt == config)
			return v->given[i - 1].text;
	}
	return NULL;
}

bool cli_opts_parse(const struct cli_cmd *cmd, int argc, char **argv,
		    void *settings, struct cli_call *ret_call, int *ret_exit)
{
	struct cli_call call = { cmd, NULL, asks_for_json(argc, argv) };
	static struct values v;
	bool help = false;
	const char *file;
	int ret;

	ret = read_argv(&call, argc, argv, &v, &help);
	if (help)
		print_help(cmd);
	else if (ret == CLI_DONE && argc - optind != cmd->nr_args)
		ret = cli_usage(&call, "wanted %s and options, %s was given",
				cmd->nr_args ? cmd->args : "nothing",
				argc - optind < cmd->nr_args ? "less" : "more");
	file = config_file(cmd, &v);
	if (ret == CLI_DONE && !help && file)
		ret = read_config(&call, file, &v);
	if (ret == CLI_DONE && !help)
		ret = apply(&call, &v, settings);
	call.args = argv + optind;
	*ret_call = call;
	*ret_exit = ret;
	return ret == CLI_DONE && !help;
}
