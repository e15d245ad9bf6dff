/*
 * tests/lab/linux/vsock.c: a guest's end of a vsock: a program whose input and
 * output are the connection. Static, for guest.sh's initramfs.
 *
 *	vsock listen PORT PROGRAM [ARG...]	the first that connects
 *	vsock connect CID PORT PROGRAM [ARG...]
 *
 * Exit status: PROGRAM's; 1 when there is no connection, with the reason.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "vsock: %s: %s\n", what, strerror(errno));
	return -1;
}

static int listen_at(struct sockaddr_vm *a)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0), connection;

	if (fd < 0 || bind(fd, (struct sockaddr *)a, sizeof(*a)) < 0 ||
	    listen(fd, 1) < 0)
		return fail("listen");
	connection = accept(fd, NULL, NULL);
	return connection < 0 ? fail("accept") : connection;
}

static int connect_to(struct sockaddr_vm *a)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)a, sizeof(*a)) < 0)
		return fail("connect");
	return fd;
}

static unsigned int number(const char *text)
{
	return (unsigned int)strtoul(text, NULL, 10);
}

int main(int argc, char **argv)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK };
	char **program;
	int fd;

	if (argc > 3 && strcmp(argv[1], "listen") == 0) {
		a.svm_cid = VMADDR_CID_ANY;
		a.svm_port = number(argv[2]);
		program = argv + 3;
		fd = listen_at(&a);
	} else if (argc > 4 && strcmp(argv[1], "connect") == 0) {
		a.svm_cid = number(argv[2]);
		a.svm_port = number(argv[3]);
		program = argv + 4;
		fd = connect_to(&a);
	} else {
		fprintf(stderr, "usage: vsock listen PORT PROGRAM...\n"
				"       vsock connect CID PORT PROGRAM...\n");
		return 2;
	}
	if (fd < 0)
		return 1;
	if (dup2(fd, STDIN_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0)
		return 1;
	execvp(program[0], program);
	fail(program[0]);
	return 127;
}
