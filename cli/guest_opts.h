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
};

int guest_opt_name(void *settings, const char *value);
int guest_opt_serial(void *settings, const char *value);
int guest_opt_console(void *settings, const char *value);
int guest_opt_dirty_ring(void *settings, const char *value);
int guest_opt_disk(void *settings, const char *value);
int guest_opt_net(void *settings, const char *value);
int guest_opt_vsock(void *settings, const char *value);

#define GUEST_OPT_NAME                                                         \
	{ .name = "name",                                                      \
	  .arg = "NAME",                                                       \
	  .help = "what to call the guest: up to 64 letters, digits, "         \
		  "'_', '.' and '-'",                                          \
	  .set = guest_opt_name }
#define GUEST_OPT_DISK(_help)                                                  \
	{ .name = "disk",                                                      \
	  .arg = "path=F[,ro][,direct]",                                       \
	  .help = (_help),                                                     \
	  .set = guest_opt_disk,                                               \
	  .repeats = true }
#define GUEST_OPT_NET(_help)                                                   \
	{ .name = "net",                                                       \
	  .arg = "tap=T[,mac=M]",                                              \
	  .help = (_help),                                                     \
	  .set = guest_opt_net,                                                \
	  .repeats = true }
#define GUEST_OPT_VSOCK(_arg, _help)                                           \
	{ .name = "vsock",                                                     \
	  .arg = (_arg),                                                       \
	  .help = (_help),                                                     \
	  .set = guest_opt_vsock }
#define GUEST_OPT_SERIAL                                                       \
	{ .name = "serial",                                                    \
	  .arg = "stdio|file:F|pty|null",                                      \
	  .help = "where the serial port leads to (default stdio; null with "  \
		  "--detach or --console stdio)",                              \
	  .set = guest_opt_serial }
#define GUEST_OPT_CONSOLE(_help)                                               \
	{ .name = "console",                                                   \
	  .arg = "stdio|file:F|pty|null",                                      \
	  .help = (_help),                                                     \
	  .set = guest_opt_console }
#define GUEST_OPT_DIRTY_RING                                                   \
	{ .name = "dirty-ring",                                                \
	  .arg = "ENTRIES",                                                    \
	  .help = "track with dirty rings of this size, a power of two "       \
		  "(default: none)",                                           \
	  .set = guest_opt_dirty_ring }
#define GUEST_OPT_DETACH                                                       \
	CLI_FLAG("detach", struct guest_opts, cfg.detach,                      \
		 "go to the background when ready")

/* What receive and restore take to say where the devices of a guest are here. */
#define GUEST_OPTS_HOST_SIDE                                                   \
	GUEST_OPT_DISK("the guest's next disk is here (default: where it "     \
		       "was)"),                                                \
		GUEST_OPT_NET("the guest's next net is this tap (default: "    \
			      "the same name)"),                               \
		GUEST_OPT_VSOCK("path=F[,cid=N]",                              \
				"the guest's vsock is here (default: where "   \
				"it was)"),                                    \
		GUEST_OPT_SERIAL,                                              \
		GUEST_OPT_CONSOLE("where its virtio console leads to "         \
				  "(default null)"),                           \
		GUEST_OPT_DIRTY_RING, GUEST_OPT_DETACH

/* Below the options of both. */
#define GUEST_OPTS_HOST_SIDE_HELP                                              \
	"--disk and --net may be repeated: one for each that the guest has, "  \
	"in its order, or\n"                                                   \
	"none. Whether a disk is read-only, a mac and a cid are the guest's: " \
	"they may be said\n"                                                   \
	"here, but not changed.\n\n"

/*
 * cli_opts_parse() and what all three check after it. CLI_DONE and the name is
 * there, or *ret_exit of a command that is over, with false.
 */
bool guest_opts_parse(const struct cli_cmd *cmd, int argc, char **argv,
		      struct guest_opts *o, struct cli_call *ret_call,
		      int *ret_exit);

#endif
