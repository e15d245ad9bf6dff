/*
 * vsock_fixture.h: a vsock device with a driver on one side and host programs on the
 * other, for tests.
 */
#ifndef TESTS_UNIT_VSOCK_FIXTURE_H
#define TESTS_UNIT_VSOCK_FIXTURE_H

#include "virtio_driver.h"

#include "vmm/virtio_vsock.h"

#define VSOCK_CID     42
#define VSOCK_ENTRIES 256
#define VSOCK_BUFFER  4096
/* What the guest of the tests has room for unless it says else. */
#define VSOCK_GUEST_ROOM (256u << 10)

struct vsock_fixture {
	struct vdrv d;
	struct virtio_vsock *s;
	char dir[32];
	char path[64];
	uint64_t buffers[VSOCK_ENTRIES]; /* by head; 0: not given */
};

/* buffers: how many the guest gives at first. The machine runs. */
void vsock_up(struct vsock_fixture *f, unsigned int buffers);
/* As vsock_up(), but neither rings' contents nor running: for vdrv_move(). */
void vsock_up_stopped(struct vsock_fixture *f);
void vsock_down(struct vsock_fixture *f);
void vsock_give(struct vsock_fixture *f, unsigned int nr);

/* The guest's packet, as its header says; type, CIDs and len are filled in. */
void vsock_packet(struct vsock_fixture *f, struct vsock_header h,
		  const void *data, uint32_t bytes);
/* The same of a stream with an amount of room that never changes. */
void vsock_say(struct vsock_fixture *f, enum vsock_op op, uint32_t guest_port,
	       uint32_t host_port);
/*
 * The next packet to the guest and its data, which fits in a buffer. The buffer
 * goes back to the device.
 */
struct vsock_header vsock_next(struct vsock_fixture *f, uint8_t *data);
/* The next packet is this one. */
struct vsock_header vsock_expect(struct vsock_fixture *f, enum vsock_op op,
				 uint32_t guest_port, uint32_t host_port);

/* A host program that dials; it has said nothing yet. */
int vsock_host(struct vsock_fixture *f);
/* One that listens at PATH_port, and one that accepts there. */
int vsock_host_program(struct vsock_fixture *f, uint32_t port);
int vsock_accept(int listener);
void vsock_write(int fd, const void *data, size_t bytes);
/* Waits for as many bytes. */
void vsock_read(int fd, void *data, size_t bytes);
/* Waits for the end of the stream. */
void vsock_read_end(int fd);
/* A stream to guest port 52, both sides agreed. Returns the host program's end. */
int vsock_stream(struct vsock_fixture *f, uint32_t *ret_host_port);

#endif
