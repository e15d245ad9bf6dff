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
	 * Checks value (NULL for a flag) and stores it in the command's own
	 * settings; keeps pointers into it. -EINVAL: it is not `arg`.
	 */
	int (*set)(void *settings, const char *value);
};

struct cli_cmd {
	const char *name;
	const char *summary;
	const char *args; /* positional ones, for the synopsis */
	int nr_args;
	const struct cli_opt *opts;
	const char *details; /* below the options: notes, an example */
	int (*run)(const struct cli_cmd *cmd, int argc, char **argv);
};

/*
 * Reads argv[1..] into settings and *ret_args (the positional ones, as many as
 * cmd->nr_args). false: the command is over and *ret_exit says how; --help was
 * answered or the complaint made. With an option "config" in the table its file
 * is read too; what stands on the command line wins. Lives until exit.
 */
bool cli_opts_parse(const struct cli_cmd *cmd, int argc, char **argv,
		    void *settings, char ***ret_args, int *ret_exit);

/* One line and a pointer to --help on stderr; returns CLI_USAGE. */
__attribute__((format(printf, 2, 3))) int cli_usage(const struct cli_cmd *cmd,
						    const char *format, ...);

extern const struct cli_cmd cli_cmd_run;
extern const struct cli_cmd cli_cmd_receive;
extern const struct cli_cmd cli_cmd_restore;
extern const struct cli_cmd cli_cmd_migrate;
extern const struct cli_cmd cli_cmd_snapshot;
extern const struct cli_cmd cli_cmd_list;
extern const struct cli_cmd cli_cmd_status;
extern const struct cli_cmd cli_cmd_pause;
extern const struct cli_cmd cli_cmd_resume;
extern const struct cli_cmd cli_cmd_stop;
extern const struct cli_cmd cli_cmd_wait;
extern const struct cli_cmd cli_cmd_cancel;
extern const struct cli_cmd cli_cmd_send;
extern const struct cli_cmd cli_cmd_doctor;

#endif
