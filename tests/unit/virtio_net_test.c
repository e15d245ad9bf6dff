/*
 * The network card as a driver and the wire see it: frames both ways, offloads,
 * mergeable buffers, stopping in the middle, hostile requests.
 */
#include "net_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define HDR sizeof(struct net_header)

ssize_t __wrap_writev(int fd, const struct iovec *iov, int nr);
ssize_t __real_writev(int fd, const struct iovec *iov, int nr);

/* The next so many writes to a tap find it full. */
static _Atomic int writes_to_refuse;
static _Atomic int writes_refused;

ssize_t __wrap_writev(int fd, const struct iovec *iov, int nr)
{
	if (atomic_load(&writes_to_refuse) > 0) {
		atomic_fetch_sub(&writes_to_refuse, 1);
		atomic_fetch_add(&writes_refused, 1);
		errno = EAGAIN;
		return -1;
	}
	return __real_writev(fd, iov, nr);
}

static void test_frames_go_both_ways(void **state)
{
	struct net_fixture f;
	struct net_header h = { .num_buffers = 7 };
	uint8_t frame[512], got[4096];
	uint64_t gpa;
	uint16_t head;

	(void)state;
	net_up(&f, "t0", 0);
	vdrv_start(&f.d);
	net_frame(frame, sizeof(frame), 1);
	head = net_send(&f, &h, frame, sizeof(frame));
	vdrv_kick(&f.d, NET_TX);
	assert_int_equal(vdrv_wait(&f.d, NET_TX, head), 0);
	assert_int_equal(net_wire_receive(&f, NET_ETHERTYPE, got, sizeof(got)),
			 10 + sizeof(frame));
	net_check_frame(got + 10, sizeof(frame), 1);

	head = net_give(&f, NET_BUF_BYTES, &gpa);
	vdrv_kick(&f.d, NET_RX);
	net_frame(frame, sizeof(frame), 2);
	net_wire_send(&f, frame, sizeof(frame));
	assert_int_equal(vdrv_wait(&f.d, NET_RX, head), HDR + sizeof(frame));
	memcpy(&h, vdrv_hva(&f.d, gpa), HDR);
	assert_int_equal(h.num_buffers, 1);
	assert_int_equal(h.gso_type, 0);
	net_check_frame(vdrv_hva(&f.d, gpa) + HDR, sizeof(frame), 2);
	vdrv_wait_interrupt(&f.d, 1 + NET_RX);
	net_down(&f);
}

/* Frames in the kernel wait for the guest to give buffers. */
static void test_frames_wait_for_buffers(void **state)
{
	struct net_fixture f;
	uint8_t frame[100];
	uint64_t gpa;
	uint16_t head;

	(void)state;
	net_up(&f, "t0", VIRTIO_F_EVENT_IDX);
	vdrv_start(&f.d);
	for (uint32_t i = 0; i < 3; i++) {
		net_frame(frame, sizeof(frame), i);
		net_wire_send(&f, frame, sizeof(frame));
	}
	for (uint32_t i = 0; i < 3; i++) {
		head = net_give(&f, NET_BUF_BYTES, &gpa);
		vdrv_kick(&f.d, NET_RX);
		vdrv_wait(&f.d, NET_RX, head);
		net_check_frame(vdrv_hva(&f.d, gpa) + HDR, sizeof(frame), i);
	}
	net_down(&f);
}

static bool is_dirty(const uint64_t *bitmap, uint64_t gpa)
{
	uint64_t page = gpa / VM_PAGE_BYTES;

	return bitmap[page / 64] >> page % 64 & 1;
}

/*
 * A frame over many small buffers, the header itself in pieces. All of them count
 * as written, for KVM's log knows nothing of it.
 */
static void test_merged_buffers(void **state)
{
	enum { NR = 9, PIECE = 60, FRAME = 1000 };
	struct net_fixture f;
	uint64_t *dirty, gpa[NR + 1][2];
	uint16_t heads[NR + 1], num;
	uint8_t frame[FRAME], got[HDR + FRAME];
	size_t bytes = 0;

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_MRG_RXBUF);
	dirty = calloc(vm_mem_pages(f.d.vm->mem) / 64, 8);
	for (int i = 0; i <= NR; i++) {
		struct vdrv_piece p[2] = { { 0, 11, true },
					   { 0, 2 * PIECE, true } };

		for (int j = 0; j < 2; j++)
			gpa[i][j] = p[j].gpa = vdrv_alloc(&f.d, p[j].bytes);
		heads[i] = vdrv_add(&f.d, NET_RX, p, 2);
	}
	assert_int_equal(vm_mem_user_dirty_start(f.d.vm->mem), 0);
	vdrv_start(&f.d);
	net_frame(frame, FRAME, 5);
	net_wire_send(&f, frame, FRAME);
	for (int i = 0; bytes < HDR + FRAME; i++) {
		uint32_t n = vdrv_wait(&f.d, NET_RX, heads[i]);

		assert_true(i < NR && n <= 11 + 2 * PIECE);
		assert_true(n == 11 + 2 * PIECE || bytes + n == HDR + FRAME);
		memcpy(got + bytes, vdrv_hva(&f.d, gpa[i][0]), 11);
		memcpy(got + bytes + 11, vdrv_hva(&f.d, gpa[i][1]), n - 11);
		bytes += n;
	}
	memcpy(&num, got + 10, 2);
	assert_int_equal(num, 8);
	net_check_frame(got + HDR, FRAME, 5);
	vm_mem_user_dirty_fetch(f.d.vm->mem, dirty);
	for (int i = 0; i < 8; i++) {
		assert_true(is_dirty(dirty, gpa[i][0]));
		assert_true(is_dirty(dirty, gpa[i][1]));
	}
	assert_false(is_dirty(dirty, gpa[NR][0]));
	assert_true(is_dirty(dirty, f.d.queues[NET_RX].used_gpa));
	free(dirty);
	net_down(&f);
}

/* Too long for what the guest gave: lost, and the buffer serves the next. */
static void test_long_frame_is_dropped(void **state)
{
	const uint64_t features[2] = { 0, VIRTIO_NET_F_MRG_RXBUF };
	struct net_fixture f;
	uint8_t frame[500];
	uint64_t gpa;
	uint16_t head;

	(void)state;
	for (int i = 0; i < 2; i++) {
		net_up(&f, "t0", features[i]);
		head = net_give(&f, HDR + 100, &gpa);
		vdrv_start(&f.d);
		net_frame(frame, 101, 1);
		net_wire_send(&f, frame, 101);
		net_frame(frame, sizeof(frame), 2);
		net_wire_send(&f, frame, sizeof(frame));
		net_frame(frame, 100, 3);
		net_wire_send(&f, frame, 100);
		assert_int_equal(vdrv_wait(&f.d, NET_RX, head), HDR + 100);
		net_check_frame(vdrv_hva(&f.d, gpa) + HDR, 100, 3);
		net_down(&f);
	}
}

/* An IPv4 TCP segment that is far larger than the MTU, its checksum undone. */
static size_t big_tcp(uint8_t *frame, struct net_header *h)
{
	static const uint8_t ether[14] = { 0xff, 0xff, 0xff, 0xff, 0xff,
					   0xff, 2,    0,    0,    0,
					   0,    1,    8,    0 };
	static const uint8_t ip[20] = {
		0x45, 0, 0x13, 0x9c, 0, 1, 0,  0, 64, 6,
		0,    0, 10,   9,    9, 2, 10, 9, 9,  1
	};
	static const uint8_t tcp[20] = { 0x10, 0,    0x20, 0,   0, 0,
					 0,    1,    0,    0,   0, 1,
					 0x50, 0x10, 0xff, 0xff };
	const size_t bytes = 14 + 0x139c; /* ip's total length */

	*h = (struct net_header){ .flags = 1,    /* needs a checksum */
				  .gso_type = 1, /* TCP over IPv4 */
				  .hdr_len = 54,
				  .gso_size = 1000,
				  .csum_start = 34,
				  .csum_offset = 16 };
	memset(frame, 'x', bytes);
	memcpy(frame, ether, sizeof(ether));
	memcpy(frame + 14, ip, sizeof(ip));
	memcpy(frame + 34, tcp, sizeof(tcp));
	return bytes;
}

static void test_segments_leave_in_one_piece(void **state)
{
	struct net_fixture f;
	struct net_header h, seen = { 0 };
	uint8_t frame[8192], got[8192];
	size_t bytes;

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_CSUM | VIRTIO_NET_F_HOST_TSO4);
	vdrv_start(&f.d);
	bytes = big_tcp(frame, &h);
	net_send(&f, &h, frame, bytes);
	vdrv_kick(&f.d, NET_TX);
	assert_int_equal(net_wire_receive(&f, 0x0800, got, sizeof(got)),
			 10 + bytes);
	memcpy(&seen, got, 10);
	assert_int_equal(seen.flags & 1, 1);
	assert_int_equal(seen.gso_type, 1);
	assert_int_equal(seen.gso_size, 1000);
	assert_memory_equal(got + 10, frame, bytes);
	net_down(&f);
}

/* With TSO in one piece over several buffers, without it in MTU-sized ones. */
static void test_segments_arrive_as_agreed(void **state)
{
	const uint64_t features[2] = { VIRTIO_NET_F_MRG_RXBUF |
					       VIRTIO_NET_F_GUEST_CSUM |
					       VIRTIO_NET_F_GUEST_TSO4,
				       VIRTIO_NET_F_MRG_RXBUF };
	struct net_fixture f;
	struct net_header h;
	uint8_t frame[8192];

	(void)state;
	for (int i = 0; i < 2; i++) {
		size_t bytes = big_tcp(frame, &h);
		struct iovec out[2] = { { &h, 10 }, { frame, bytes } };
		uint16_t ready;
		struct net_header seen;
		uint64_t gpa[8];
		uint16_t heads[8];

		net_up(&f, "t0", features[i]);
		for (int j = 0; j < 8; j++)
			heads[j] = net_give(&f, NET_BUF_BYTES, &gpa[j]);
		vdrv_start(&f.d);
		/* Once a frame went out, the offloads are set. */
		net_frame(frame, 100, 0);
		ready = net_send(&f, &(struct net_header){ 0 }, frame, 100);
		vdrv_kick(&f.d, NET_TX);
		vdrv_wait(&f.d, NET_TX, ready);
		bytes = big_tcp(frame, &h);
		assert_int_equal(__real_writev(f.wire, out, 2), 10 + bytes);
		assert_int_equal(vdrv_wait(&f.d, NET_RX, heads[0]),
				 i == 0 ? NET_BUF_BYTES : HDR + 54 + 1000);
		memcpy(&seen, vdrv_hva(&f.d, gpa[0]), HDR);
		assert_int_equal(seen.gso_type, i == 0 ? 1 : 0);
		assert_int_equal(seen.flags & 1, i == 0 ? 1 : 0);
		assert_int_equal(seen.num_buffers, i == 0 ? 3 : 1);
		vdrv_wait(&f.d, NET_RX, heads[1]);
		net_down(&f);
	}
}

/*
 * A machine that is paused and resumed all the time loses no frame, doubles none
 * and keeps them in order, either way.
 */
static void test_pauses_lose_nothing(void **state)
{
	enum { FRAMES = 300, BYTES = 900 };
	struct net_fixture f;
	struct net_header h = { 0 };
	uint64_t gpa_of[NET_ENTRIES];
	uint16_t heads[NET_ENTRIES];
	uint8_t frame[BYTES], got[2048];
	uint32_t bytes, sent = 0, received = 0, given = 0;
	uint64_t gpa;
	uint16_t head;

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_MRG_RXBUF);
	vdrv_start(&f.d);
	while (received < FRAMES) {
		/* Always some that no frame has filled yet. */
		for (; given - received < NET_ENTRIES / 2; given++) {
			head = net_give(&f, NET_BUF_BYTES, &gpa);
			gpa_of[given % NET_ENTRIES] = gpa;
			heads[given % NET_ENTRIES] = head;
			vdrv_kick(&f.d, NET_RX);
		}
		if (sent < FRAMES) {
			net_frame(frame, BYTES, sent);
			net_wire_send(&f, frame, BYTES);
			head = net_send(&f, &h, frame, BYTES);
			vdrv_kick(&f.d, NET_TX);
			if (sent % 2 == 0) /* the others go after the pause */
				vdrv_wait(&f.d, NET_TX, head);
		}
		vdrv_pause(&f.d);
		vdrv_resume(&f.d);
		if (sent == FRAMES)
			usleep(1000); /* else nothing lets its thread get anywhere */
		if (sent < FRAMES) {
			if (sent % 2 != 0)
				vdrv_wait(&f.d, NET_TX, head);
			net_wire_receive(&f, NET_ETHERTYPE, got, sizeof(got));
			net_check_frame(got + 10, BYTES, sent++);
		}
		while (vdrv_used(&f.d, NET_RX, &head, &bytes)) {
			uint32_t i = received++ % NET_ENTRIES;

			/* The oldest: none was forgotten by a pause. */
			assert_int_equal(head, heads[i]);
			assert_int_equal(bytes, HDR + BYTES);
			net_check_frame(vdrv_hva(&f.d, gpa_of[i]) + HDR, BYTES,
					received - 1);
		}
	}
	net_down(&f);
}

/* A full tap: the frame stays in the ring and goes once, when there is room. */
static void test_full_tap_is_waited_for(void **state)
{
	struct net_fixture f;
	struct net_header h = { 0 };
	uint8_t frame[200], got[2048];
	uint16_t heads[3];

	(void)state;
	net_up(&f, "t0", 0);
	atomic_store(&writes_refused, 0);
	atomic_store(&writes_to_refuse, 5);
	vdrv_start(&f.d);
	for (uint32_t i = 0; i < 3; i++) {
		net_frame(frame, sizeof(frame), i);
		heads[i] = net_send(&f, &h, frame, sizeof(frame));
	}
	vdrv_kick(&f.d, NET_TX);
	for (uint32_t i = 0; i < 3; i++) {
		vdrv_wait(&f.d, NET_TX, heads[i]);
		net_wire_receive(&f, NET_ETHERTYPE, got, sizeof(got));
		net_check_frame(got + 10, sizeof(frame), i);
	}
	assert_int_equal(atomic_load(&writes_refused), 5);
	net_down(&f);
}

/* Adds a request for the device, and waits for the answer. */
static uint32_t ask(struct net_fixture *f, unsigned int queue,
		    const struct vdrv_piece *pieces, unsigned int nr)
{
	uint16_t head = vdrv_add(&f->d, queue, pieces, nr);

	vdrv_kick(&f->d, queue);
	return vdrv_wait(&f->d, queue, head);
}

/* Frames without sense are lost; the good one behind them is not. */
static void test_hostile_frames(void **state)
{
	struct net_fixture f;
	struct net_header bad = { .flags = 1,
				  .gso_type = 0x7f,
				  .csum_start = 0xffff,
				  .csum_offset = 0xffff };
	struct net_header good = { 0 };
	struct vdrv_piece p = { 0 }, many[NET_ENTRIES];
	uint8_t frame[300], got[2048];

	(void)state;
	net_up(&f, "t0", 0);
	vdrv_start(&f.d);
	p.gpa = vdrv_alloc(&f.d, 1 << 20);
	for (p.bytes = 1; p.bytes <= HDR + 14; p.bytes++)
		assert_int_equal(ask(&f, NET_TX, &p, 1), 0);
	p.bytes = 1 << 20;
	assert_int_equal(ask(&f, NET_TX, &p, 1), 0);
	for (int i = 0; i < NET_ENTRIES; i++)
		many[i] = (struct vdrv_piece){ p.gpa, 16 << 10, false };
	assert_int_equal(ask(&f, NET_TX, many, NET_ENTRIES), 0);
	p.is_writable = true; /* nothing to send in it */
	assert_int_equal(ask(&f, NET_TX, &p, 1), 0);
	net_frame(frame, sizeof(frame), 1);
	net_send(&f, &bad, frame, sizeof(frame));
	net_frame(frame, sizeof(frame), 2);
	net_send(&f, &good, frame, sizeof(frame));
	vdrv_kick(&f.d, NET_TX);
	net_wire_receive(&f, NET_ETHERTYPE, got, sizeof(got));
	net_check_frame(got + 10, sizeof(frame), 2);
	net_down(&f);
}

static void test_tiny_receive_buffer_breaks(void **state)
{
	struct net_fixture f;
	uint64_t gpa;

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_MRG_RXBUF);
	net_give(&f, HDR, &gpa);
	net_give(&f, HDR - 1, &gpa);
	vdrv_start(&f.d);
	assert_string_equal(vdrv_wait_broken(&f.d),
			    "a receive buffer has no room for the header");
	net_down(&f);
}

static uint8_t control(struct net_fixture *f, uint8_t class, uint8_t command,
		       uint32_t bytes)
{
	uint64_t gpa = vdrv_alloc(&f->d, 64);
	struct vdrv_piece p[2] = { { gpa, bytes, false },
				   { gpa + 32, 4, true } };

	vdrv_hva(&f->d, gpa)[0] = class;
	vdrv_hva(&f->d, gpa)[1] = command;
	vdrv_hva(&f->d, gpa)[32] = 0xee;
	assert_int_equal(ask(f, NET_CTRL, p, 2), 1);
	return vdrv_hva(&f->d, gpa)[32];
}

static void test_control_queue_refuses(void **state)
{
	struct net_fixture f;
	struct vdrv_piece p = { 0 };

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_GUEST_ANNOUNCE);
	vdrv_start(&f.d);
	assert_int_equal(control(&f, 3, 0, 2), 0);
	assert_int_equal(control(&f, 3, 1, 2), 1);
	assert_int_equal(control(&f, 0, 0, 3), 1);
	assert_int_equal(control(&f, 3, 0, 1), 1);
	assert_int_equal(control(&f, 3, 0, 3), 1);
	p = (struct vdrv_piece){ vdrv_alloc(&f.d, 64), 2, false };
	vdrv_add(&f.d, NET_CTRL, &p, 1);
	vdrv_kick(&f.d, NET_CTRL);
	assert_string_equal(vdrv_wait_broken(&f.d),
			    "a control request has no room for the answer");
	net_down(&f);
}

/* Somebody deletes the interface: the guest sees no link, and frames go nowhere. */
static void test_deleted_tap_is_a_pulled_cable(void **state)
{
	struct net_fixture f;
	struct net_header h = { 0 };
	uint8_t frame[100];
	uint64_t gpa;
	uint16_t head;

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_STATUS);
	net_give(&f, NET_BUF_BYTES, &gpa);
	vdrv_start(&f.d);
	assert_int_equal(net_status(&f), 1);
	net_frame(frame, sizeof(frame), 1);
	head = net_send(&f, &h, frame, sizeof(frame));
	vdrv_kick(&f.d, NET_TX);
	vdrv_wait(&f.d, NET_TX, head);
	while (vdrv_interrupts(&f.d, 0) > 0)
		;
	net_delete("t0");
	vdrv_wait_interrupt(&f.d, 0);
	assert_int_equal(net_status(&f), 0);
	head = net_send(&f, &h, frame, sizeof(frame));
	vdrv_kick(&f.d, NET_TX);
	vdrv_wait(&f.d, NET_TX, head);
	net_down(&f);
}

static void refused(const char *tap, const uint8_t mac[6], int ret,
		    const char *why)
{
	struct vm *vm = vdrv_machine(UINT64_C(4) << 20);
	struct vm_net_config cfg = { .tap = tap };
	struct virtio_device *v = NULL;
	char *err = NULL;

	memcpy(cfg.mac, mac, 6);
	assert_int_equal(virtio_net_new(vm, 0, &cfg, &v, &err), ret);
	assert_non_null(err);
	assert_non_null(strstr(err, why));
	assert_null(v);
	free(err);
	vdrv_machine_free(vm);
}

static void test_bad_configs_are_refused(void **state)
{
	static const uint8_t none[6], group[6] = { 1, 2, 3, 4, 5, 6 };
	struct net_fixture f;

	(void)state;
	net_up(&f, "t0", 0);
	refused("t0", none, -EBUSY, "somebody else");
	refused("lo", none, -EINVAL, "not a tap");
	refused("", none, -EINVAL, "not a name");
	refused("a/b", none, -EINVAL, "not a name");
	refused("tap%d", none, -EINVAL, "not a name");
	refused("sixteen-bytes-is", none, -EINVAL, "not a name");
	refused("t1", group, -EINVAL, "group");
	/* Of those made up: one station's, locally administered. */
	assert_int_equal(f.n->mac[0] & 3, 2);
	assert_memory_equal(f.n->v.config, f.n->mac, 6);
	net_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames_go_both_ways),
		cmocka_unit_test(test_frames_wait_for_buffers),
		cmocka_unit_test(test_merged_buffers),
		cmocka_unit_test(test_long_frame_is_dropped),
		cmocka_unit_test(test_segments_leave_in_one_piece),
		cmocka_unit_test(test_segments_arrive_as_agreed),
		cmocka_unit_test(test_pauses_lose_nothing),
		cmocka_unit_test(test_full_tap_is_waited_for),
		cmocka_unit_test(test_hostile_frames),
		cmocka_unit_test(test_tiny_receive_buffer_breaks),
		cmocka_unit_test(test_control_queue_refuses),
		cmocka_unit_test(test_deleted_tap_is_a_pulled_cable),
		cmocka_unit_test(test_bad_configs_are_refused),
	};

	if (!net_world())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
