/*
 * cli/cmd.h: what a subcommand is, and how its options are read.
 *
 * One table per command drives parsing, --help, and (for run) --config.
 */
#ifndef CLI_CMD_H
#define CLI_CMD_H

#include <stdbool.h>
#include <stddef.h>

enum cli_exit {
	CLI_DONE = 0,
	CLI_FAILED = 1,    /* the guest is safe; the reason is on stderr */
	CLI_USAGE = 2,     /* nothing was tried */
	CLI_ATTENTION = 3, /* paused: somebody has to decide */
};

struct cli_opt {
	const char *name; /* without the dashes; NULL ends the table */
	const char *arg;  /* what --help calls the value; NULL: a flag */
	const char *help;
	/*
	 * Checks value and stores it in the command's own settings; keeps
	 * pointers into it. -EINVAL: it is not `arg`. NULL for a flag: the bool
	 * at `flag` of the settings becomes true.
	 */
	int (*set)(void *settings, const char *value);
	size_t flag;
	bool repeats; /* may be given several times; else the last one counts */
};

#define CLI_FLAG(_name, _type, _member, _help)                                 \
	{ .name = (_name), .help = (_help), .flag = offsetof(_type, _member) }

struct cli_cmd {
	const char *name;
	const char *summary;
	const char *args; /* positional ones, for the synopsis */
	int nr_args;
	/* NULL: none but --json and --help, which every command takes. */
	const struct cli_opt *opts;
	const char *details; /* below the options: notes, an example */
	int (*run)(const struct cli_cmd *cmd, int argc, char **argv);
};

/* A command line that has been read. */
struct cli_call {
	const struct cli_cmd *cmd;
	char **args; /* the positional ones, as many as cmd->nr_args */
	bool json;
};

/*
 * Reads argv[1..] into settings and *ret_call. false: the command is over and
 * *ret_exit says how; --help was answered or the complaint made. With an option
 * "config" in the table its file is read too; what stands on the command line
 * wins. Lives until exit.
 */
bool cli_opts_parse(const struct cli_cmd *cmd, int argc, char **argv,
		    void *settings, struct cli_call *ret_call, int *ret_exit);

/* One line and a pointer to --help on stderr; returns CLI_USAGE. */
__attribute__((format(printf, 2, 3))) int cli_usage(const struct cli_call *call,
						    const char *format, ...);

extern const struct cli_cmd cli_cmd_run;
extern const struct cli_cmd cli_cmd_receive;
extern const struct cli_cmd cli_cmd_restore;
extern const struct cli_cmd cli_cmd_migrate;
extern const struct cli_cmd cli_cmd_adjust;
extern const struct cli_cmd cli_cmd_snapshot;
extern const struct cli_cmd cli_cmd_list;
extern const struct cli_cmd cli_cmd_status;
extern const struct cli_cmd cli_cmd_pause;
extern const struct cli_cmd cli_cmd_resume;
extern const struct cli_cmd cli_cmd_stop;
extern const struct cli_cmd cli_cmd_wait;
extern const struct cli_cmd cli_cmd_cancel;
extern const struct cli_cmd cli_cmd_balloon;
extern const struct cli_cmd cli_cmd_send;
extern const struct cli_cmd cli_cmd_doctor;

#endif
