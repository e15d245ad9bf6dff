/*
 * Thousands of requests on several queues, with the device stopped, started and
 * moved in their midst: each is done exactly once, and right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/virtio_blk_fixture.h"

#define NR_QUEUES    4
#define NR_SLOTS     24 /* in flight on each queue */
#define SLOT_SECTORS 32 /* each has a part of the disk of its own */
#define SLOT_BYTES   (SLOT_SECTORS * UINT64_C(512))
#define DISK_BYTES   (NR_QUEUES * NR_SLOTS * SLOT_BYTES)

/* One request at a time; what the disk must hold is known in between. */
struct slot {
	bool busy;
	uint32_t type;
	uint32_t sector; /* in its part */
	uint32_t nr_sectors;
	uint64_t data_gpa;
	uint8_t want[SLOT_BYTES];
};

struct stress {
	struct blkt t;
	struct slot slots[NR_QUEUES][NR_SLOTS];
	int slot_of[NR_QUEUES][BLKT_ENTRIES]; /* by head */
	uint64_t random;
	uint64_t nr_done;
	unsigned int nr_busy;
};

static uint64_t next_random(struct stress *s)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return s->random;
}

static uint64_t first_sector(unsigned int queue, unsigned int slot)
{
	return (uint64_t)(queue * NR_SLOTS + slot) * SLOT_SECTORS;
}

static uint16_t submit_range(struct stress *s, unsigned int queue,
			     unsigned int i)
{
	struct slot *slot = &s->slots[queue][i];
	const struct {
		uint64_t sector;
		uint32_t nr_sectors, flags;
	} range = { first_sector(queue, i) + slot->sector, slot->nr_sectors,
		    next_random(s) % 2 };

	memset(slot->want + slot->sector * 512, 0, slot->nr_sectors * 512);
	memcpy(vdrv_hva(&s->t.d, slot->data_gpa), &range, sizeof(range));
	return blkt_submit(&s->t, queue, i, BLK_T_WRITE_ZEROES, 0,
			   slot->data_gpa, sizeof(range));
}

static uint16_t submit_data(struct stress *s, unsigned int queue,
			    unsigned int i)
{
	struct slot *slot = &s->slots[queue][i];
	uint8_t *data = vdrv_hva(&s->t.d, slot->data_gpa);
	uint32_t bytes = slot->nr_sectors * 512;
	uint32_t cut = 1 + (uint32_t)(next_random(s) % (bytes - 1));
	bool in = slot->type == BLK_T_IN;
	const struct vdrv_piece pieces[] = {
		{ slot->data_gpa, cut, in },
		{ slot->data_gpa + cut, bytes - cut, in },
	};

	if (in) {
		memset(data, 0xdd, bytes);
	} else {
		blkt_pattern(data, 0, bytes, next_random(s));
		memcpy(slot->want + slot->sector * 512, data, bytes);
	}
	return blkt_submit_pieces(&s->t, queue, i, slot->type,
				  first_sector(queue, i) + slot->sector, pieces,
				  2);
}

static void submit(struct stress *s, unsigned int queue, unsigned int i)
{
	struct slot *slot = &s->slots[queue][i];
	uint64_t r = next_random(s);
	uint16_t head;

	slot->sector = r >> 8 & (SLOT_SECTORS - 1);
	slot->nr_sectors = 1 + (r >> 16) % (SLOT_SECTORS - slot->sector);
	slot->type = r % 16 == 0  ? BLK_T_FLUSH
		     : r % 16 < 3 ? BLK_T_WRITE_ZEROES
		     : r % 2      ? BLK_T_OUT
				  : BLK_T_IN;
	if (slot->type == BLK_T_FLUSH)
		head = blkt_submit(&s->t, queue, i, BLK_T_FLUSH, 0, 0, 0);
	else if (slot->type == BLK_T_WRITE_ZEROES)
		head = submit_range(s, queue, i);
	else
		head = submit_data(s, queue, i);
	assert_int_equal(s->slot_of[queue][head], -1);
	s->slot_of[queue][head] = (int)i;
	slot->busy = true;
	s->nr_busy++;
}

/* Submits where nothing is busy; every queue gets a kick. */
static void submit_all(struct stress *s)
{
	for (unsigned int q = 0; q < NR_QUEUES; q++) {
		for (unsigned int i = 0; i < NR_SLOTS; i++)
			if (!s->slots[q][i].busy)
				submit(s, q, i);
		vdrv_kick(&s->t.d, q);
	}
}

static void check(struct stress *s, unsigned int queue, uint16_t head)
{
	int i = s->slot_of[queue][head];
	struct slot *slot;

	assert_true(i >= 0); /* else nobody asked for it: done twice */
	s->slot_of[queue][head] = -1;
	slot = &s->slots[queue][i];
	assert_true(slot->busy);
	assert_int_equal(blkt_status(&s->t, queue, (unsigned int)i), BLK_S_OK);
	if (slot->type == BLK_T_IN)
		assert_memory_equal(vdrv_hva(&s->t.d, slot->data_gpa),
				    slot->want + slot->sector * 512,
				    slot->nr_sectors * 512);
	slot->busy = false;
	s->nr_busy--;
	s->nr_done++;
}

static unsigned int collect(struct stress *s)
{
	unsigned int n = 0;
	uint16_t head;
	uint32_t bytes;

	for (unsigned int q = 0; q < NR_QUEUES; q++)
		for (; vdrv_used(&s->t.d, q, &head, &bytes); n++)
			check(s, q, head);
	return n;
}

static void collect_all(struct stress *s)
{
	for (int idle = 0; s->nr_busy > 0; idle++) {
		if (collect(s) > 0)
			idle = 0;
		if (idle > VDRV_PATIENCE_S * 10000)
			fail_msg("%u requests were lost", s->nr_busy);
		if (s->nr_busy > 0)
			usleep(100);
	}
}

static void stress_open(struct stress *s, const struct blkt_options *o)
{
	memset(s, 0, sizeof(*s));
	memset(s->slot_of, 0xff, sizeof(s->slot_of));
	s->random = 0x1234567;
	blkt_open(&s->t, o);
	for (unsigned int q = 0; q < NR_QUEUES; q++)
		for (unsigned int i = 0; i < NR_SLOTS; i++)
			s->slots[q][i].data_gpa =
				vdrv_alloc(&s->t.d, SLOT_BYTES + 8) +
				(i % 3 ? 0 : 8); /* some not aligned */
}

/* All that was written is on the disk, whatever memory says. */
static void check_image(struct stress *s)
{
	for (unsigned int q = 0; q < NR_QUEUES; q++)
		for (unsigned int i = 0; i < NR_SLOTS; i++)
			blkt_assert_image(&s->t, first_sector(q, i) * 512,
					  s->slots[q][i].want, SLOT_BYTES);
}

static const struct blkt_options variants[] = {
	{ .bytes = DISK_BYTES, .nr_queues = NR_QUEUES },
	{ .bytes = DISK_BYTES, .nr_queues = NR_QUEUES, .direct = true },
	{ .bytes = DISK_BYTES,
	  .nr_queues = NR_QUEUES,
	  .direct = true,
	  .align = 4096 },
};

static void run(struct stress *s, const struct blkt_options *o)
{
	stress_open(s, o);
	while (s->nr_done < 5000) {
		submit_all(s);
		while (collect(s) == 0)
			usleep(50);
	}
	collect_all(s);
	check_image(s);
	blkt_close(&s->t);
}

static void test_random_requests(void **state)
{
	run(*state, &variants[0]);
}

static void test_random_requests_direct(void **state)
{
	run(*state, &variants[1]);
}

static void test_random_requests_in_wide_blocks(void **state)
{
	run(*state, &variants[2]);
}

/* Stopped, every request is either done or not yet taken. */
static void check_at_rest(struct stress *s)
{
	for (unsigned int q = 0; q < NR_QUEUES; q++)
		assert_int_equal(s->t.d.dev->queues[q].next_avail,
				 s->t.d.dev->queues[q].next_used);
	assert_int_equal(s->t.blk->nr_taken, 0);
}

/*
 * A pause counts that finds requests not yet taken. Where the device's thread gets
 * to run before every pause there are few such, hence the many rounds.
 */
static void stop_and_go(struct stress *s, const struct blkt_options *o)
{
	unsigned int nr_caught = 0;

	stress_open(s, o);
	for (int i = 0;
	     i < 300 || ((nr_caught == 0 || s->nr_done <= 100) && i < 30000);
	     i++) {
		uint64_t before;

		submit_all(s);
		if (i % 2) /* every second pause comes at once */
			usleep(next_random(s) % 500);
		vdrv_pause(&s->t.d);
		check_at_rest(s);
		collect(s);
		nr_caught += s->nr_busy > 0;
		before = s->nr_done;
		usleep(next_random(s) % 100);
		collect(s);
		assert_int_equal(s->nr_done, before); /* it does rest */
		vdrv_resume(&s->t.d);
	}
	collect_all(s);
	check_image(s);
	assert_true(s->nr_done > 100);
	assert_true(nr_caught > 0); /* else nothing was in its midst */
	blkt_close(&s->t);
}

static void test_stops_in_the_midst(void **state)
{
	stop_and_go(*state, &variants[0]);
}

static void test_stops_in_the_midst_direct(void **state)
{
	stop_and_go(*state, &variants[1]);
}

static void test_stops_in_the_midst_in_wide_blocks(void **state)
{
	stop_and_go(*state, &variants[2]);
}

/* From machine to machine, the lock with it: no request is lost or doubled. */
static void test_moves_in_the_midst(void **state)
{
	struct stress *s = *state;
	struct blkt next;
	int fd;

	stress_open(s, &variants[0]);
	assert_int_equal(virtio_blk_lock(s->t.d.dev, NULL), 0);
	fd = s->t.fd;
	for (int i = 0; i < 20; i++) {
		submit_all(s);
		usleep(next_random(s) % 2000);
		blkt_open_again(&next, &s->t, &variants[0]);
		assert_int_equal(virtio_blk_lock(next.d.dev, NULL), -EBUSY);
		vdrv_move(&s->t.d, &next.d);
		virtio_blk_unlock(s->t.d.dev);
		assert_int_equal(virtio_blk_lock(next.d.dev, NULL), 0);
		s->t.fd = -1;
		blkt_close(&s->t);
		s->t = next;
		s->t.fd = fd;
		vdrv_resume(&s->t.d);
		collect_all(s);
	}
	check_image(s);
	blkt_close(&s->t);
}

static int setup(void **state)
{
	*state = malloc(sizeof(struct stress));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_requests),
		cmocka_unit_test(test_random_requests_direct),
		cmocka_unit_test(test_random_requests_in_wide_blocks),
		cmocka_unit_test(test_stops_in_the_midst),
		cmocka_unit_test(test_stops_in_the_midst_direct),
		cmocka_unit_test(test_stops_in_the_midst_in_wide_blocks),
		cmocka_unit_test(test_moves_in_the_midst),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
