/*
 * cli/guest_opts.h: the options that run, receive and restore share.
 */
#ifndef CLI_GUEST_OPTS_H
#define CLI_GUEST_OPTS_H

#include "cli/cmd.h"
#include "cli/daemon.h"

/* What they are kept in while options are read. */
struct guest_opts {
	struct daemon_config cfg;
	const char *listen; /* of receive */
	bool devices;       /* --disk or --net was given */
};

int guest_opt_name(void *settings, const char *value);
int guest_opt_serial(void *settings, const char *value);
int guest_opt_dirty_ring(void *settings, const char *value);
int guest_opt_device(void *settings, const char *value);
int guest_opt_detach(void *settings, const char *value);
int guest_opt_json(void *settings, const char *value);

#define GUEST_OPT_NAME                                                         \
	{ "name", "NAME",                                                      \
	  "what to call the guest: up to 64 letters, digits, "                 \
	  "'_', '.' and '-'",                                                  \
	  guest_opt_name }
#define GUEST_OPT_SERIAL                                                       \
	{ "serial", "stdio|file:F|pty|null",                                   \
	  "where the serial port leads to (default stdio; null "               \
	  "with --detach)",                                                    \
	  guest_opt_serial }
#define GUEST_OPT_DIRTY_RING                                                   \
	{ "dirty-ring", "ENTRIES",                                             \
	  "track with dirty rings of this size, a power of two "               \
	  "(default: none)",                                                   \
	  guest_opt_dirty_ring }
#define GUEST_OPT_DISK                                                         \
	{ "disk", "path=F[,ro][,direct]", "not supported by this version",     \
	  guest_opt_device }
#define GUEST_OPT_NET                                                          \
	{ "net", "tap=T[,mac=M]", "not supported by this version",             \
	  guest_opt_device }
#define GUEST_OPT_DETACH                                                       \
	{ "detach", NULL, "go to the background when ready", guest_opt_detach }
#define GUEST_OPT_JSON                                                         \
	{ "json", NULL, "one JSON object on stdout", guest_opt_json }

/*
 * What all three check after parsing: a name, no devices that do not exist yet.
 * CLI_DONE, or the complaint was made.
 */
int guest_opts_check(const struct cli_cmd *cmd, const struct guest_opts *o);

#endif
