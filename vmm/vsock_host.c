/* vmm/vsock_host.c: where host programs and the guest's sockets meet. */
#include "vmm/virtio_vsock.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/vm_internal.h"

#define BACKLOG     64
#define PORT_DIGITS 10

static int open_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

static int connect_to(int fd, const struct sockaddr_un *a)
{
	return connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 ? -errno
								       : 0;
}

/* A socket that nobody listens on was left behind by one who died. */
static bool is_left_over(const struct sockaddr_un *a)
{
	int fd = open_socket();
	bool left;

	if (fd < 0)
		return false;
	left = connect_to(fd, a) == -ECONNREFUSED;
	close(fd);
	return left;
}

static int bind_to(int fd, const struct sockaddr_un *a)
{
	const struct sockaddr *sa = (const struct sockaddr *)a;

	if (bind(fd, sa, sizeof(*a)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return -errno;
	if (!is_left_over(a) || unlink(a->sun_path) < 0)
		return -EADDRINUSE;
	return bind(fd, sa, sizeof(*a)) < 0 ? -errno : 0;
}

int vsock_host_listen(const char *path, int *ret_fd, char **err)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, ret;

	/* The longest name is that with a port behind it. */
	if (strlen(path) + 1 + PORT_DIGITS >= sizeof(a.sun_path))
		return vm_err(err, -ENAMETOOLONG,
			      "vsock %s: the path is too long", path);
	memcpy(a.sun_path, path, strlen(path));
	fd = open_socket();
	if (fd < 0)
		return vm_err(err, fd, "vsock %s: %s", path, strerror(-fd));
	ret = bind_to(fd, &a);
	if (ret < 0)
		goto close_fd;
	/* Before it listens nobody gets in. */
	if (chmod(path, 0600) < 0 || listen(fd, BACKLOG) < 0) {
		ret = -errno;
		unlink(path);
		goto close_fd;
	}
	*ret_fd = fd;
	return 0;
close_fd:
	close(fd);
	return vm_err(err, ret, "vsock %s: %s", path, strerror(-ret));
}

int vsock_host_dial(const char *path, uint32_t port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = open_socket();
	int ret;

	if (fd < 0)
		return fd;
	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%" PRIu32, path, port);
	ret = connect_to(fd, &a);
	if (ret == 0)
		return fd;
	close(fd);
	return ret;
}
