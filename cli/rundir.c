#include "cli/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/args.h"
#include "cli/log.h"

#define FILE_NAME_BYTES (CLI_NAME_MAX + sizeof(".lock"))

int rundir_path(char ret_path[PATH_MAX])
{
	const char *dir = getenv("VMMD_RUN_DIR");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int bytes;

	if (dir && *dir)
		bytes = snprintf(ret_path, PATH_MAX, "%s", dir);
	else if (xdg && *xdg)
		bytes = snprintf(ret_path, PATH_MAX, "%s/vmmd", xdg);
	else
		bytes = snprintf(ret_path, PATH_MAX, "/run/vmmd");
	return bytes < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* Whoever can write here can take over our sockets: it must be only us. */
static int check_owner(int fd, const char *path, char **err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH))) {
		*err = cli_line("run directory %s: must belong to you and be "
				"writable by nobody else (mode 0700)",
				path);
		return -EPERM;
	}
	return 0;
}

int rundir_open(bool create, int *ret_dir_fd, char **err)
{
	char path[PATH_MAX];
	int fd, ret;

	*err = NULL;
	ret = rundir_path(path);
	if (ret == 0 && create && mkdir(path, 0700) < 0 && errno != EEXIST)
		ret = -errno;
	if (ret < 0)
		goto complain;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		ret = -errno;
		goto complain;
	}
	ret = check_owner(fd, path, err);
	if (ret < 0) {
		close(fd);
		goto complain;
	}
	*ret_dir_fd = fd;
	return 0;
complain:
	if (!*err)
		*err = cli_line("run directory %s: %s (VMMD_RUN_DIR names "
				"another)",
				path, strerror(-ret));
	return ret;
}

static void file_name(char ret_name[FILE_NAME_BYTES], const char *name,
		      const char *suffix)
{
	snprintf(ret_name, FILE_NAME_BYTES, "%s.%s", name, suffix);
}

/*
 * The lock is on the inode, the name on the directory entry: a process that is
 * ending removes its file, so what we locked counts only if it is still the one
 * that everybody else would open.
 */
static int lock_name(int dir_fd, const char *name, int *ret_fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	char file[FILE_NAME_BYTES];
	struct stat ours, named;
	int fd, ret;

	file_name(file, name, "lock");
	for (;;) {
		fd = openat(dir_fd, file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
			ret = errno == EAGAIN || errno == EACCES ? -EEXIST
								 : -errno;
			close(fd);
			return ret;
		}
		if (fstat(fd, &ours) == 0 &&
		    fstatat(dir_fd, file, &named, 0) == 0 &&
		    ours.st_ino == named.st_ino)
			break;
		close(fd);
	}
	*ret_fd = fd;
	return 0;
}

static void socket_address(int dir_fd, const char *name,
			   struct sockaddr_un *ret_address)
{
	*ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret_address->sun_path, sizeof(ret_address->sun_path),
		 "/proc/self/fd/%d/%s.sock", dir_fd, name);
}

/* We hold the lock: a socket that is there belongs to nobody alive. */
static int listen_on(int dir_fd, const char *name, int *ret_fd)
{
	struct sockaddr_un address;
	char file[FILE_NAME_BYTES];
	int fd, ret = 0;
	mode_t mask;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	file_name(file, name, "sock");
	unlinkat(dir_fd, file, 0);
	socket_address(dir_fd, name, &address);
	mask = umask(0177);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 16) < 0)
		ret = -errno;
	umask(mask);
	if (ret < 0)
		close(fd);
	else
		*ret_fd = fd;
	return ret;
}

int rundir_claim(const char *name, struct rundir_claim *ret_claim, char **err)
{
	struct rundir_claim claim = { .name = name };
	int ret;

	ret = rundir_open(true, &claim.dir_fd, err);
	if (ret < 0)
		return ret;
	ret = lock_name(claim.dir_fd, name, &claim.lock_fd);
	if (ret == -EEXIST)
		*err = cli_line("a guest named '%s' exists already (vmmd "
				"status %s)",
				name, name);
	if (ret < 0)
		goto close_dir;
	ret = listen_on(claim.dir_fd, name, &claim.listen_fd);
	if (ret < 0) {
		rundir_release(&claim, false);
		goto complain;
	}
	*ret_claim = claim;
	return 0;
close_dir:
	close(claim.dir_fd);
complain:
	if (!*err)
		*err = cli_line("cannot take the name '%s': %s", name,
				strerror(-ret));
	return ret;
}

int rundir_open_log(const struct rundir_claim *claim)
{
	char file[FILE_NAME_BYTES];
	int fd;

	file_name(file, claim->name, "log");
	fd = openat(claim->dir_fd, file,
		    O_WRONLY | O_CREAT | O_APPEND | O_TRUNC | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

void rundir_release(struct rundir_claim *claim, bool clean)
{
	char file[FILE_NAME_BYTES];

	file_name(file, claim->name, "sock");
	unlinkat(claim->dir_fd, file, 0);
	if (clean) {
		file_name(file, claim->name, "log");
		unlinkat(claim->dir_fd, file, 0);
	}
	/* Last: until here the name is ours. */
	file_name(file, claim->name, "lock");
	unlinkat(claim->dir_fd, file, 0);
	close(claim->lock_fd);
	close(claim->dir_fd);
}

int rundir_connect(int dir_fd, const char *name, int timeout_ms, int *ret_fd)
{
	struct timeval tv = { .tv_sec = timeout_ms / 1000,
			      .tv_usec = timeout_ms % 1000 * 1000 };
	struct sockaddr_un address;
	int fd, ret;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	socket_address(dir_fd, name, &address);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		/* ECONNREFUSED: the socket of a process that was killed. */
		ret = errno == ECONNREFUSED ? -ENOENT : -errno;
		close(fd);
		return ret;
	}
	*ret_fd = fd;
	return 0;
}
