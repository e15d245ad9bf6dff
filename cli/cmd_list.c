/* vmmd list: the guests of the run directory. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/client.h"
#include "cli/cmd.h"
#include "cli/log.h"
#include "cli/rundir.h"

#define ANSWER_MS 2000

/* "NAME.sock" to NAME in place; false: some other file. */
static bool guest_name(char *file)
{
	size_t bytes = strlen(file), suffix = strlen(".sock");

	if (bytes <= suffix || strcmp(file + bytes - suffix, ".sock") != 0)
		return false;
	file[bytes - suffix] = '\0';
	return cli_name_ok(file);
}

/* Its status; NULL for the socket of a process that is no more. */
static json_t *ask_guest(const char *name)
{
	struct client_answer a;
	json_t *status;
	int fd, dir_fd;
	char *err = NULL;

	if (rundir_open(false, &dir_fd, &err) < 0) {
		free(err);
		return NULL;
	}
	fd = -1;
	if (rundir_connect(dir_fd, name, ANSWER_MS, &fd) == 0)
		close(fd);
	close(dir_fd);
	if (fd < 0)
		return NULL;
	client_ask(name, json_pack("{s:s}", "cmd", "status"), ANSWER_MS, NULL,
		   NULL, &a);
	status = a.ended ? NULL : json_incref(a.result);
	if (!status && !a.ended)
		status = json_pack("{s:s, s:s, s:s*}", "name", name, "state",
				   "silent", "error", a.error);
	client_answer_fini(&a);
	return status;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static json_t *ask_all(const char *dir)
{
	json_t *guests = json_array(), *status;
	struct dirent **files;
	int nr, i;

	nr = scandir(dir, &files, NULL, by_name);
	if (nr < 0)
		return guests; /* no directory, no guests */
	for (i = 0; i < nr; i++) {
		status = guest_name(files[i]->d_name)
				 ? ask_guest(files[i]->d_name)
				 : NULL;
		if (status)
			json_array_append_new(guests, status);
		free(files[i]);
	}
	free(files);
	return guests;
}

static double mib(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key)) / 1048576;
}

static void print_table(const json_t *guests)
{
	const json_t *o;
	size_t i;

	printf("%-20s %-17s %8s %6s %12s %12s\n", "NAME", "STATE", "PID",
	       "VCPUS", "MEMORY", "RESIDENT");
	json_array_foreach(guests, i, o)
	{
		printf("%-20s %-17s %8.0f %6.0f %8.0f MiB %8.1f MiB\n",
		       json_string_value(json_object_get(o, "name")),
		       json_string_value(json_object_get(o, "state")),
		       json_number_value(json_object_get(o, "pid")),
		       json_number_value(json_object_get(o, "vcpus")),
		       mib(o, "memory_bytes"), mib(o, "resident_bytes"));
	}
}

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	struct cli_call call;
	char path[PATH_MAX];
	json_t *guests;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, NULL, &call, &ret))
		return ret;
	if (rundir_path(path) < 0)
		return client_fail(call.json,
				   "the run directory's name is too long");
	guests = ask_all(path);
	if (call.json) {
		client_print_json(json_pack("{s:o}", "guests", guests));
		return CLI_DONE;
	}
	print_table(guests);
	json_decref(guests);
	return CLI_DONE;
}

const struct cli_cmd cli_cmd_list = {
	.name = "list",
	.summary = "List the guests of the run directory",
	.args = "",
	.details = "--json: \"guests\" is an array of what vmmd status --json "
		   "prints.\n",
	.run = run,
};
