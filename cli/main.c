/* vmmd: run, move, save and restore one guest per process. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/log.h"

static const struct cli_cmd *const commands[] = {
	&cli_cmd_run,    &cli_cmd_receive,  &cli_cmd_restore, &cli_cmd_migrate,
	&cli_cmd_adjust, &cli_cmd_snapshot, &cli_cmd_list,    &cli_cmd_status,
	&cli_cmd_pause,  &cli_cmd_resume,   &cli_cmd_stop,    &cli_cmd_wait,
	&cli_cmd_cancel, &cli_cmd_send,     &cli_cmd_balloon, &cli_cmd_doctor,
};
#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static int help(void)
{
	size_t i;

	printf("Usage: vmmd COMMAND [ARGUMENT]...\n"
	       "Run a small guest on KVM and move it: to another process over "
	       "TCP, into files and back.\n\nCommands:\n");
	for (i = 0; i < NR_COMMANDS; i++)
		printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
	printf("\nvmmd COMMAND --help says more; vmmd --version prints the "
	       "version.\n"
	       "Exit status: 0 done, 1 failed (the guest is safe), 2 usage, "
	       "3 needs attention (paused).\n");
	return CLI_DONE;
}

/* Started with 0, 1 or 2 closed, a socket of ours could become stdout. */
static void fill_standard_fds(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static int refuse(int argc, char **argv)
{
	char text[128];

	snprintf(text, sizeof(text), "unknown command '%.80s'", argv[1]);
	cli_log("%s (see vmmd --help)", text);
	if (strcmp(argv[argc - 1], "--json") == 0)
		client_print_json(json_pack("{s:s, s:s}", "result", "usage",
					    "error", text));
	return CLI_USAGE;
}

int main(int argc, char **argv)
{
	size_t i;

	fill_standard_fds();

	/* A peer or reader that has gone is an error code, not our end. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* EFBIG says it as well */
	if (argc < 2) {
		cli_log("no command (see vmmd --help)");
		return CLI_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
	    strcmp(argv[1], "help") == 0)
		return help();
	if (strcmp(argv[1], "--version") == 0) {
		printf("vmmd %s\n", VMMD_VERSION);
		return CLI_DONE;
	}
	for (i = 0; i < NR_COMMANDS; i++) {
		if (strcmp(argv[1], commands[i]->name) == 0)
			return commands[i]->run(commands[i], argc - 1,
						argv + 1);
	}
	return refuse(argc, argv);
}
