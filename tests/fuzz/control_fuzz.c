/* What a peer says on the control connection, up to unpacked messages. */
#include "fuzz.h"

#include <sys/socket.h>
#include <unistd.h>

#include "migrate/hardware_codec.h"
#include "migrate/link.h"
#include "proto/control.pb-c.h"

static void lost(void *ctx, int err, const char *why)
{
	(void)ctx;
	FUZZ_CLAIM(err < 0 && why[0] != '\0');
}

/*
 * One byte says the type; two the length of its message; then the message: the
 * headers are well formed, so that what is fuzzed is behind them. A type of 0
 * sends the rest as it is.
 */
static void say(int fd, const uint8_t *data, size_t bytes)
{
	while (bytes > 3 && data[0] % 16 != 0) {
		struct proto_frame f = { .type = data[0] % 16 };
		uint8_t header[PROTO_FRAME_BYTES];

		f.required = data[0] & 16;
		f.bytes = data[1] | (uint32_t)(data[2] & 7) << 8;
		data += 3;
		bytes -= 3;
		if (f.bytes > bytes)
			f.bytes = (uint32_t)bytes;
		proto_frame_encode(&f, header);
		if (send(fd, header, sizeof(header), MSG_NOSIGNAL) < 0 ||
		    send(fd, data, f.bytes, MSG_NOSIGNAL) < 0)
			return;
		data += f.bytes;
		bytes -= f.bytes;
	}
	/* An error shows at the other end. */
	(void)!send(fd, data, bytes, MSG_NOSIGNAL);
}

/* The devices that a peer says its guest has. */
static void try_hardware(const Vmmd__Setup *setup)
{
	struct mig_hardware h;

	if (mig_hardware_take(setup->hardware, &h, NULL) < 0)
		return;
	FUZZ_CLAIM(h.nr_disks <= MIG_DISKS_MAX && h.nr_nets <= MIG_NETS_MAX);
	mig_hardware_fini(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	enum proto_type type;
	struct mig_link *link;
	ProtobufCMessage *msg;
	int fds[2];

	/* More than a socket takes would block us. */
	if (bytes > 16384 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return 0;
	say(fds[0], data, bytes);
	shutdown(fds[0], SHUT_WR);
	if (mig_link_new(fds[1], UINT32_MAX, lost, NULL, &link) == 0) {
		while (mig_link_recv_any(link, &type, &msg) == 0) {
			FUZZ_CLAIM(type > 0 && type < PROTO_NR_TYPES);
			if (type == PROTO_SETUP)
				try_hardware((Vmmd__Setup *)msg);
			protobuf_c_message_free_unpacked(msg, NULL);
		}
		mig_link_free(link);
	}
	close(fds[0]);
	return 0;
}
