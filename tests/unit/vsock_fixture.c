#include "vsock_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void vsock_up_stopped(struct vsock_fixture *f)
{
	struct vm_vsock_config cfg = { .cid = VSOCK_CID, .path = f->path };
	struct vm *vm = vdrv_machine(UINT64_C(64) << 20);
	struct virtio_device *v = NULL;
	char *err = NULL;

	memset(f, 0, sizeof(*f));
	snprintf(f->dir, sizeof(f->dir), "/tmp/vsock-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	assert_int_equal(virtio_vsock_new(vm, &cfg, &v, &err), 0);
	f->s = (struct virtio_vsock *)v;
	vdrv_init(&f->d, vm, v, 0);
	for (unsigned int q = 0; q < VSOCK_NR_QUEUES; q++)
		vdrv_queue(&f->d, q, VSOCK_ENTRIES);
}

void vsock_up(struct vsock_fixture *f, unsigned int buffers)
{
	vsock_up_stopped(f);
	vsock_give(f, buffers);
	vdrv_start(&f->d);
}

void vsock_down(struct vsock_fixture *f)
{
	vdrv_fini(&f->d);
	assert_int_equal(access(f->path, F_OK), -1);
	assert_int_equal(rmdir(f->dir), 0);
}

static void give_one(struct vsock_fixture *f, uint64_t gpa)
{
	struct vdrv_piece p[2] = { { gpa, 20, true },
				   { gpa + 20, VSOCK_BUFFER - 20, true } };

	f->buffers[vdrv_add(&f->d, VSOCK_RX, p, 2)] = gpa;
}

void vsock_give(struct vsock_fixture *f, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		give_one(f, vdrv_alloc(&f->d, VSOCK_BUFFER));
	vdrv_kick(&f->d, VSOCK_RX);
}

void vsock_packet(struct vsock_fixture *f, struct vsock_header h,
		  const void *data, uint32_t bytes)
{
	uint32_t all = (uint32_t)sizeof(h) + bytes;
	struct vdrv_piece p = { vdrv_alloc(&f->d, all), all, false };
	uint16_t head;
	uint32_t used;

	h.src_cid = VSOCK_CID;
	h.dst_cid = VSOCK_HOST_CID;
	h.type = 1;
	h.len = bytes;
	memcpy(vdrv_hva(&f->d, p.gpa), &h, sizeof(h));
	if (bytes > 0)
		memcpy(vdrv_hva(&f->d, p.gpa) + sizeof(h), data, bytes);
	/* As a real driver: take back what is done, then add. */
	while (vdrv_used(&f->d, VSOCK_TX, &head, &used))
		;
	vdrv_add(&f->d, VSOCK_TX, &p, 1);
	vdrv_kick(&f->d, VSOCK_TX);
}

void vsock_say(struct vsock_fixture *f, enum vsock_op op, uint32_t guest_port,
	       uint32_t host_port)
{
	struct vsock_header h = { .op = (uint16_t)op,
				  .src_port = guest_port,
				  .dst_port = host_port,
				  .buf_alloc = VSOCK_GUEST_ROOM };

	vsock_packet(f, h, NULL, 0);
}

struct vsock_header vsock_next(struct vsock_fixture *f, uint8_t *data)
{
	struct vsock_header h;
	uint16_t head = 0;
	uint32_t bytes = 0;
	uint64_t gpa;
	int ms = VDRV_PATIENCE_S * 1000;

	while (!vdrv_used(&f->d, VSOCK_RX, &head, &bytes)) {
		if (ms-- == 0)
			fail_msg("no packet came");
		poll(NULL, 0, 1);
	}
	gpa = f->buffers[head];
	assert_int_not_equal(gpa, 0);
	f->buffers[head] = 0;
	memcpy(&h, vdrv_hva(&f->d, gpa), sizeof(h));
	assert_int_equal(bytes, sizeof(h) + h.len);
	assert_int_equal(h.src_cid, VSOCK_HOST_CID);
	assert_int_equal(h.dst_cid, VSOCK_CID);
	assert_int_equal(h.type, 1);
	if (h.len > 0)
		memcpy(data, vdrv_hva(&f->d, gpa) + sizeof(h), h.len);
	give_one(f, gpa);
	vdrv_kick(&f->d, VSOCK_RX);
	return h;
}

struct vsock_header vsock_expect(struct vsock_fixture *f, enum vsock_op op,
				 uint32_t guest_port, uint32_t host_port)
{
	uint8_t data[VSOCK_BUFFER];
	struct vsock_header h = vsock_next(f, data);

	assert_int_equal(h.op, op);
	assert_int_equal(h.dst_port, guest_port);
	assert_int_equal(h.src_port, host_port);
	return h;
}

static int unix_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	return fd;
}

int vsock_host(struct vsock_fixture *f)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = unix_socket();

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", f->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return fd;
}

int vsock_host_program(struct vsock_fixture *f, uint32_t port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = unix_socket();

	snprintf(a.sun_path, sizeof(a.sun_path), "%s_%u", f->path, port);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* Accepts the only one that comes, and takes the listener away. */
int vsock_accept(int listener)
{
	struct sockaddr_un a;
	socklen_t bytes = sizeof(a);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &bytes),
			 0);
	unlink(a.sun_path);
	close(listener);
	return fd;
}

void vsock_write(int fd, const void *data, size_t bytes)
{
	assert_int_equal(send(fd, data, bytes, MSG_NOSIGNAL), bytes);
}

static void wait_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, VDRV_PATIENCE_S * 1000) != 1)
		fail_msg("the host program hears nothing");
}

void vsock_read(int fd, void *data, size_t bytes)
{
	uint8_t *to = data;

	while (bytes > 0) {
		ssize_t got;

		wait_readable(fd);
		got = recv(fd, to, bytes, 0);
		assert_true(got > 0);
		to += got;
		bytes -= (size_t)got;
	}
}

void vsock_read_end(int fd)
{
	char byte;
	ssize_t got;

	wait_readable(fd);
	got = recv(fd, &byte, 1, 0);
	/* Reset where it was closed with something unread. */
	assert_true(got == 0 || (got < 0 && errno == ECONNRESET));
}

int vsock_stream(struct vsock_fixture *f, uint32_t *ret_host_port)
{
	struct vsock_header h;
	char line[64], want[64];
	int fd = vsock_host(f);
	int n;

	vsock_write(fd, "CONNECT 52\n", 11);
	h = vsock_next(f, NULL);
	assert_int_equal(h.op, VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, 52);
	vsock_say(f, VSOCK_OP_RESPONSE, 52, h.src_port);
	n = snprintf(want, sizeof(want), "OK %u\n", h.src_port);
	vsock_read(fd, line, (size_t)n);
	assert_memory_equal(line, want, n);
	*ret_host_port = h.src_port;
	return fd;
}
