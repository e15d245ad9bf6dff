#include "cli/cmd.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/log.h"

#define OPTS_MAX 24
#define HELP_VAL 1000

/*
 * What was given for each option of the table. One command line per process:
 * the settings keep pointers into it until exit.
 */
struct values {
	bool given[OPTS_MAX];
	const char *text[OPTS_MAX];
};

int cli_usage(const struct cli_cmd *cmd, const char *format, ...)
{
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	cli_log("%s: %s (see vmmd %s --help)", cmd->name, text, cmd->name);
	return CLI_USAGE;
}

static void print_help(const struct cli_cmd *cmd)
{
	const struct cli_opt *o;
	char left[64];

	printf("Usage: vmmd %s%s%s [OPTION]...\n%s.\n\nOptions:\n", cmd->name,
	       *cmd->args ? " " : "", cmd->args, cmd->summary);
	for (o = cmd->opts; o->name; o++) {
		snprintf(left, sizeof(left), "--%s%s%s", o->name,
			 o->arg ? " " : "", o->arg ? o->arg : "");
		printf("  %-27s%s%s\n", left,
		       strlen(left) > 26 ? "\n                             "
					 : "",
		       o->help);
	}
	printf("  %-27s%s\n", "--help", "print this and exit");
	if (cmd->details)
		printf("\n%s", cmd->details);
}

static int nr_opts(const struct cli_cmd *cmd)
{
	int nr = 0;

	while (cmd->opts[nr].name)
		nr++;
	return nr;
}

static int find_opt(const struct cli_cmd *cmd, const char *name)
{
	int i;

	for (i = 0; cmd->opts[i].name; i++) {
		if (strcmp(cmd->opts[i].name, name) == 0)
			return i;
	}
	return -ENOENT;
}

/* CLI_DONE also after --help: then *ret_help. */
static int read_argv(const struct cli_cmd *cmd, int argc, char **argv,
		     struct values *v, bool *ret_help)
{
	struct option longs[OPTS_MAX + 2] = { 0 };
	int nr = nr_opts(cmd), i, c;

	for (i = 0; i < nr; i++) {
		longs[i].name = cmd->opts[i].name;
		longs[i].has_arg = cmd->opts[i].arg ? 1 : 0;
		longs[i].val = i + 1;
	}
	longs[nr] = (struct option){ "help", 0, NULL, HELP_VAL };
	opterr = 0;
	optind = 1;
	while ((c = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
		if (c == HELP_VAL || c == 'h') {
			*ret_help = true;
			return CLI_DONE;
		}
		if (c == ':')
			return cli_usage(cmd, "'%.80s' needs a value",
					 argv[optind - 1]);
		if (c == '?')
			return cli_usage(cmd, "unknown option '%.80s'",
					 argv[optind - 1]);
		v->given[c - 1] = true;
		v->text[c - 1] = optarg;
	}
	return CLI_DONE;
}

/* A JSON value as the text that would stand on the command line. */
static int config_text(const struct cli_opt *opt, json_t *value,
		       const char **ret_text, bool *ret_given)
{
	*ret_text = NULL;
	*ret_given = true;
	if (!opt->arg) {
		*ret_given = json_is_true(value);
		return json_is_boolean(value) ? 0 : -EINVAL;
	}
	if (json_is_string(value))
		*ret_text = strdup(json_string_value(value));
	else if (json_is_integer(value))
		*ret_text = cli_line("%lld",
				     (long long)json_integer_value(value));
	return *ret_text ? 0 : -EINVAL;
}

static int read_config(const struct cli_cmd *cmd, const char *file,
		       struct values *v)
{
	json_error_t error;
	const char *key;
	json_t *root, *value;
	int ret = CLI_DONE, i;

	root = json_load_file(file, JSON_REJECT_DUPLICATES, &error);
	if (!json_is_object(root)) {
		json_decref(root);
		cli_log("%s: --config %s: %s", cmd->name, file,
			root ? "not a JSON object" : error.text);
		return CLI_FAILED;
	}
	json_object_foreach(root, key, value)
	{
		i = find_opt(cmd, key);
		if (i < 0 || strcmp(key, "config") == 0) {
			cli_log("%s: --config %s: unknown key \"%s\"",
				cmd->name, file, key);
			ret = CLI_FAILED;
			break;
		}
		if (v->given[i])
			continue; /* the command line wins */
		if (config_text(&cmd->opts[i], value, &v->text[i],
				&v->given[i]) < 0) {
			cli_log("%s: --config %s: \"%s\" wants %s", cmd->name,
				file, key,
				cmd->opts[i].arg ? cmd->opts[i].arg
						 : "true or false");
			ret = CLI_FAILED;
			break;
		}
	}
	json_decref(root);
	return ret;
}

static int apply(const struct cli_cmd *cmd, const struct values *v,
		 void *settings)
{
	int i;

	for (i = 0; cmd->opts[i].name; i++) {
		if (!v->given[i] || !cmd->opts[i].set)
			continue;
		if (cmd->opts[i].set(settings, v->text[i]) < 0)
			return cli_usage(cmd, "--%s: '%.80s' will not do: %s",
					 cmd->opts[i].name, v->text[i],
					 cmd->opts[i].help);
	}
	return CLI_DONE;
}

bool cli_opts_parse(const struct cli_cmd *cmd, int argc, char **argv,
		    void *settings, char ***ret_args, int *ret_exit)
{
	static struct values v;
	bool help = false;
	int ret, config;

	ret = read_argv(cmd, argc, argv, &v, &help);
	if (help)
		print_help(cmd);
	else if (ret == CLI_DONE && argc - optind != cmd->nr_args)
		ret = cli_usage(cmd, "wanted %s and options, %s was given",
				cmd->nr_args ? cmd->args : "nothing",
				argc - optind < cmd->nr_args ? "less" : "more");
	if (ret != CLI_DONE || help) {
		*ret_exit = ret;
		return false;
	}
	config = find_opt(cmd, "config");
	if (config >= 0 && v.given[config])
		ret = read_config(cmd, v.text[config], &v);
	if (ret == CLI_DONE)
		ret = apply(cmd, &v, settings);
	*ret_args = argv + optind;
	*ret_exit = ret;
	return ret == CLI_DONE;
}
