/*
 * A network card that came from elsewhere: its address stays, what it was given is
 * still there, and everybody learns where it is now.
 */
#include "net_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#define HDR sizeof(struct net_header)

#define RARP            0x8035
#define STATUS_UP       1
#define STATUS_ANNOUNCE 2

#define FEATURES                                                               \
	(VIRTIO_NET_F_STATUS | VIRTIO_NET_F_CTRL_VQ |                          \
	 VIRTIO_NET_F_GUEST_ANNOUNCE | VIRTIO_NET_F_MRG_RXBUF)

/* RFC 903: broadcast, "who am I" with the guest's address in both places. */
static void expect_rarp(struct net_fixture *f, const uint8_t mac[6])
{
	static const uint8_t request[10] = {
		0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3
	};
	uint8_t frame[128];

	assert_int_equal(net_wire_receive(f, RARP, frame, sizeof(frame)),
			 10 + 60);
	for (int i = 0; i < 6; i++)
		assert_int_equal(frame[10 + i], 0xff);
	assert_memory_equal(frame + 10 + 6, mac, 6);
	assert_memory_equal(frame + 10 + 12, request, sizeof(request));
	assert_memory_equal(frame + 10 + 22, mac, 6);
	assert_memory_equal(frame + 10 + 32, mac, 6);
}

static void acknowledge(struct net_fixture *f)
{
	uint64_t gpa = vdrv_alloc(&f->d, 64);
	struct vdrv_piece p[2] = { { gpa, 2, false }, { gpa + 32, 1, true } };
	uint16_t head;

	vdrv_hva(&f->d, gpa)[0] = 3;
	head = vdrv_add(&f->d, NET_CTRL, p, 2);
	vdrv_kick(&f->d, NET_CTRL);
	assert_int_equal(vdrv_wait(&f->d, NET_CTRL, head), 1);
	assert_int_equal(vdrv_hva(&f->d, gpa)[32], 0);
}

static void test_announced_once_per_move(void **state)
{
	struct net_fixture a, b;
	uint8_t mac[6], frame[100], got[256];
	struct net_header h = { 0 };
	uint64_t gpa;
	uint16_t head, out;

	(void)state;
	net_up(&a, "t0", FEATURES);
	net_up(&b, "t1", 0);
	memcpy(mac, a.n->mac, 6);
	assert_memory_not_equal(mac, b.n->mac, 6);
	/* Taken and not yet filled: goes along untouched. */
	head = net_give(&a, NET_BUF_BYTES, &gpa);
	vdrv_start(&a.d);
	net_frame(frame, sizeof(frame), 1);
	out = net_send(&a, &h, frame, sizeof(frame));
	vdrv_kick(&a.d, NET_TX);
	vdrv_wait(&a.d, NET_TX, out);
	net_wire_receive(&a, NET_ETHERTYPE, got, sizeof(got));
	net_check_frame(got + 10, sizeof(frame), 1);
	assert_int_equal(net_status(&a), STATUS_UP);

	vdrv_move(&a.d, &b.d);
	vdrv_start(&b.d);
	for (int i = 0; i < NET_ANNOUNCES; i++)
		expect_rarp(&b, mac);
	assert_memory_equal(b.n->mac, mac, 6);
	assert_memory_equal(b.n->v.config, mac, 6);
	vdrv_wait_interrupt(&b.d, 0);
	assert_int_equal(net_status(&b), STATUS_UP | STATUS_ANNOUNCE);
	acknowledge(&b);
	assert_int_equal(net_status(&b), STATUS_UP);
	net_frame(frame, sizeof(frame), 2);
	net_wire_send(&b, frame, sizeof(frame));
	assert_int_equal(vdrv_wait(&b.d, NET_RX, head), HDR + sizeof(frame));
	net_check_frame(vdrv_hva(&b.d, gpa) + HDR, sizeof(frame), 2);

	/* A pause is no move. */
	vdrv_pause(&b.d);
	vdrv_resume(&b.d);
	net_frame(frame, sizeof(frame), 3);
	head = net_send(&b, &h, frame, sizeof(frame));
	vdrv_kick(&b.d, NET_TX);
	vdrv_wait(&b.d, NET_TX, head);
	assert_int_equal(net_status(&b), STATUS_UP);
	net_down(&a);
	net_down(&b);
}

/* A pause between the announcements leaves none out. */
static void test_announcing_goes_on_after_a_pause(void **state)
{
	struct net_fixture a, b;
	uint8_t mac[6];

	(void)state;
	net_up(&a, "t0", 0);
	net_up(&b, "t1", 0);
	memcpy(mac, a.n->mac, 6);
	vdrv_start(&a.d);
	vdrv_move(&a.d, &b.d);
	vdrv_start(&b.d);
	for (int i = 0; i < NET_ANNOUNCES; i++) {
		expect_rarp(&b, mac);
		vdrv_pause(&b.d);
		vdrv_resume(&b.d);
	}
	/* A driver that did not agree is not asked. */
	assert_int_equal(net_status(&b), STATUS_UP);
	net_down(&a);
	net_down(&b);
}

static void test_bad_address_is_refused(void **state)
{
	static const uint8_t bad[2][6] = { { 0 }, { 3, 0, 0, 0, 0, 1 } };
	struct net_fixture a;
	uint8_t mac[6];

	(void)state;
	net_up(&a, "t0", 0);
	memcpy(mac, a.n->mac, 6);
	for (int i = 0; i < 2; i++)
		assert_int_equal(a.n->v.ops->load(&a.n->v, bad[i]), -EINVAL);
	assert_memory_equal(a.n->mac, mac, 6);
	net_down(&a);
}

/* What lies in the tap from before the guest came is not for it. */
static void test_stale_frames_are_thrown_away(void **state)
{
	struct net_fixture f;
	uint8_t frame[100];
	struct net_header h = { 0 };
	uint64_t gpa;
	uint16_t head, out;

	(void)state;
	net_up(&f, "t0", VIRTIO_NET_F_GUEST_CSUM);
	net_frame(frame, sizeof(frame), 1);
	net_wire_send(&f, frame, sizeof(frame));
	head = net_give(&f, NET_BUF_BYTES, &gpa);
	vdrv_start(&f.d);
	out = net_send(&f, &h, frame, sizeof(frame));
	vdrv_kick(&f.d, NET_TX);
	vdrv_wait(&f.d, NET_TX, out);
	net_frame(frame, sizeof(frame), 2);
	net_wire_send(&f, frame, sizeof(frame));
	vdrv_wait(&f.d, NET_RX, head);
	net_check_frame(vdrv_hva(&f.d, gpa) + HDR, sizeof(frame), 2);
	net_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_announced_once_per_move),
		cmocka_unit_test(test_announcing_goes_on_after_a_pause),
		cmocka_unit_test(test_bad_address_is_refused),
		cmocka_unit_test(test_stale_frames_are_thrown_away),
	};

	if (!net_world())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
