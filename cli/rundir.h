/*
 * cli/rundir.h: the directory in which guests are found.
 *
 * $VMMD_RUN_DIR, else $XDG_RUNTIME_DIR/vmmd, else /run/vmmd; mode 0700, ours
 * alone. Of the guest NAME it holds
 *
 *	NAME.lock  an OFD lock held as long as the guest's process lives
 *	NAME.sock  its control socket, 0600
 *	NAME.log   what a detached process had to say; gone after a clean end
 *
 * Sockets are reached through /proc/self/fd/DIR/NAME.sock, so that no length of
 * the directory's name meets the limit of sun_path.
 *
 * Threads: one. Errors: -errno and a line in *err, to be freed.
 */
#ifndef CLI_RUNDIR_H
#define CLI_RUNDIR_H

#include <limits.h>
#include <stdbool.h>

/* The path; -ENAMETOOLONG. Does not look at the disk. */
int rundir_path(char ret_path[PATH_MAX]);
/* Opens the directory (made when `create`) after checking whose it is. */
int rundir_open(bool create, int *ret_dir_fd, char **err);

/* One name, held by this process. */
struct rundir_claim {
	int dir_fd;
	int lock_fd;
	int listen_fd; /* NAME.sock, listening, non-blocking */
	const char *name;
};

/*
 * Takes name (borrowed) for this process: -EEXIST when a living one has it; what
 * a dead one left is replaced.
 */
int rundir_claim(const char *name, struct rundir_claim *ret_claim, char **err);
/* NAME.log opened for appending; -errno. */
int rundir_open_log(const struct rundir_claim *claim);
/*
 * Removes the files, the log only when `clean`, and lets go of the name.
 * listen_fd stays open: the caller may still have an eye on it.
 */
void rundir_release(struct rundir_claim *claim, bool clean);

/*
 * A connection to the process of guest `name`. timeout_ms > 0 bounds every
 * later read and write. -ENOENT: there is no such guest.
 */
int rundir_connect(int dir_fd, const char *name, int timeout_ms, int *ret_fd);

#endif
