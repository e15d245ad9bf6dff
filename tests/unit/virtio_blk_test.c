/* What a guest may ask of its disk, what it gets, and what it cannot do to us. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/virtio_blk_fixture.h"

static const struct blkt_options plain = { .bytes = MIB };

static uint64_t pattern_in_guest(struct blkt *t, uint64_t bytes, uint64_t seed)
{
	uint64_t gpa = vdrv_alloc(&t->d, bytes);

	blkt_pattern(vdrv_hva(&t->d, gpa), 0, bytes, seed);
	return gpa;
}

static void assert_zeros(struct blkt *t, uint64_t offset, uint64_t bytes)
{
	uint8_t *zeros = calloc(1, bytes);

	assert_non_null(zeros);
	blkt_assert_image(t, offset, zeros, bytes);
	free(zeros);
}

static void test_what_is_written_is_read(void **state)
{
	struct blkt t;
	uint64_t from, to;

	(void)state;
	blkt_open(&t, &plain);
	from = pattern_in_guest(&t, 64 * KIB, 1);
	to = vdrv_alloc(&t.d, 64 * KIB);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 100, from, 64 * KIB), BLK_S_OK);
	blkt_assert_image(&t, 51200, vdrv_hva(&t.d, from), 64 * KIB);
	assert_int_equal(blkt_do(&t, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 100, to, 64 * KIB), BLK_S_OK);
	assert_memory_equal(vdrv_hva(&t.d, to), vdrv_hva(&t.d, from), 64 * KIB);
	vdrv_wait_interrupt(&t.d, 1);
	blkt_close(&t);
}

static void test_used_length_is_what_was_written(void **state)
{
	struct blkt t;
	uint64_t gpa;
	uint16_t head;

	(void)state;
	blkt_open(&t, &plain);
	gpa = vdrv_alloc(&t.d, 4096);
	head = blkt_submit(&t, 0, 0, BLK_T_IN, 0, gpa, 1024);
	vdrv_kick(&t.d, 0);
	assert_int_equal(vdrv_wait(&t.d, 0, head), 1025);
	head = blkt_submit(&t, 0, 0, BLK_T_OUT, 0, gpa, 1024);
	vdrv_kick(&t.d, 0);
	assert_int_equal(vdrv_wait(&t.d, 0, head), 1);
	head = blkt_submit(&t, 0, 0, BLK_T_IN, UINT64_MAX, gpa, 1024);
	vdrv_kick(&t.d, 0);
	assert_int_equal(vdrv_wait(&t.d, 0, head), 0);
	blkt_close(&t);
}

static void test_config_space(void **state)
{
	struct blkt t;
	uint64_t capacity;
	uint32_t word;
	uint16_t half;

	(void)state;
	blkt_open(&t,
		  &(struct blkt_options){ .bytes = MIB + 512, .nr_queues = 3 });
	memcpy(&capacity, t.d.dev->config, 8);
	assert_int_equal(capacity, 2049);
	memcpy(&word, t.d.dev->config + 12, 4); /* seg_max */
	assert_int_equal(word, 254);
	memcpy(&word, t.d.dev->config + 20, 4); /* blk_size */
	assert_int_equal(word, 512);
	memcpy(&half, t.d.dev->config + 34, 2); /* num_queues */
	assert_int_equal(half, 3);
	assert_true(t.d.dev->offered & BLK_F_MQ);
	blkt_close(&t);
}

static void test_id_is_the_same_on_every_host(void **state)
{
	static const char want[21] = "vmmd-disk0";
	struct blkt t;
	uint64_t gpa;

	(void)state;
	blkt_open(&t, &plain);
	gpa = vdrv_alloc(&t.d, 64);
	assert_int_equal(blkt_do(&t, BLK_T_GET_ID, 0, gpa, 20), BLK_S_OK);
	assert_memory_equal(vdrv_hva(&t.d, gpa), want, 20);
	memset(vdrv_hva(&t.d, gpa), 0xcc, 64);
	assert_int_equal(blkt_do(&t, BLK_T_GET_ID, 0, gpa, 4), BLK_S_OK);
	assert_memory_equal(vdrv_hva(&t.d, gpa), "vmmd\xcc\xcc", 6);
	blkt_close(&t);
}

/* What the kernel stores into guest memory is in no dirty log of KVM's. */
static void reads_are_marked_dirty(const struct blkt_options *o,
				   unsigned int in_page)
{
	struct blkt t;
	uint64_t *bitmap = calloc(64 * MIB / 4096 / 64, 8);
	uint64_t gpa, first;

	assert_non_null(bitmap);
	blkt_open(&t, o);
	gpa = vdrv_alloc(&t.d, 64 * KIB);
	first = gpa / 4096;
	assert_int_equal(vm_mem_user_dirty_start(t.d.vm->mem), 0);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 0, gpa + in_page, 12 * KIB),
			 BLK_S_OK);
	vm_mem_user_dirty_fetch(t.d.vm->mem, bitmap);
	for (uint64_t page = first; page < first + 16; page++) {
		bool want = page < first + (in_page ? 4 : 3);

		assert_int_equal(bitmap[page / 64] >> page % 64 & 1, want);
	}
	/* The status byte and the used ring too. */
	first = t.status_gpa[0] / 4096;
	assert_true(bitmap[first / 64] >> first % 64 & 1);
	first = t.d.queues[0].used_gpa / 4096;
	assert_true(bitmap[first / 64] >> first % 64 & 1);
	vm_mem_user_dirty_stop(t.d.vm->mem);
	free(bitmap);
	blkt_close(&t);
}

static void test_reads_are_marked_dirty(void **state)
{
	(void)state;
	reads_are_marked_dirty(&plain, 0);
	reads_are_marked_dirty(&plain, 512);
}

static void test_bounced_reads_are_marked_dirty(void **state)
{
	(void)state;
	reads_are_marked_dirty(
		&(struct blkt_options){ .bytes = MIB, .direct = true }, 8);
}

static void test_read_only_refuses_writes(void **state)
{
	struct blkt t;
	uint64_t gpa;

	(void)state;
	blkt_open(&t,
		  &(struct blkt_options){ .bytes = MIB, .read_only = true });
	assert_true(t.d.dev->offered & BLK_F_RO);
	assert_false(t.d.dev->offered & (BLK_F_DISCARD | BLK_F_WRITE_ZEROES));
	blkt_image_fill(&t, 7);
	gpa = pattern_in_guest(&t, 4096, 1);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 0, gpa, 4096), BLK_S_IOERR);
	assert_int_equal(blkt_do_range(&t, BLK_T_DISCARD, 0, 8, 0),
			 BLK_S_IOERR);
	assert_int_equal(blkt_do_range(&t, BLK_T_WRITE_ZEROES, 0, 8, 0),
			 BLK_S_IOERR);
	assert_int_equal(blkt_do(&t, BLK_T_FLUSH, 0, 0, 0), BLK_S_OK);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 0, gpa, 4096), BLK_S_OK);
	blkt_assert_image(&t, 0, vdrv_hva(&t.d, gpa), 4096);
	blkt_close(&t);
}

static void test_beyond_the_end_is_an_error(void **state)
{
	static const struct {
		uint64_t sector;
		uint32_t bytes;
		uint8_t status;
	} tries[] = {
		{ 2040, 4096, BLK_S_OK },
		{ 2047, 512, BLK_S_OK },
		{ 2041, 4096, BLK_S_IOERR },
		{ 2048, 512, BLK_S_IOERR },
		{ UINT32_MAX, 512, BLK_S_IOERR },
		{ UINT64_MAX, 512, BLK_S_IOERR },
		{ UINT64_MAX - 6, 4096, BLK_S_IOERR },   /* sum wraps */
		{ UINT64_C(1) << 55, 512, BLK_S_IOERR }, /* times 512 wraps */
		{ (UINT64_C(1) << 55) + 1, 512, BLK_S_IOERR },
		{ (UINT64_C(1) << 32) + 1, 512, BLK_S_IOERR },
		{ 0, 511, BLK_S_IOERR },
		{ 0, 513, BLK_S_IOERR },
	};
	struct blkt t;
	uint64_t gpa;

	(void)state;
	blkt_open(&t, &plain);
	gpa = pattern_in_guest(&t, 4096, 1);
	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
		assert_int_equal(blkt_do(&t, BLK_T_IN, tries[i].sector, gpa,
					 tries[i].bytes),
				 tries[i].status);
		assert_int_equal(blkt_do(&t, BLK_T_OUT, tries[i].sector, gpa,
					 tries[i].bytes),
				 tries[i].status);
	}
	blkt_close(&t);
	/* Nothing made the file longer: it is gone, but blkt_close() saw it. */
}

static void test_ranges_are_checked(void **state)
{
	struct blkt t;
	struct stat st;

	(void)state;
	blkt_open(&t, &plain);
	for (uint32_t type = BLK_T_DISCARD; type <= BLK_T_WRITE_ZEROES;
	     type += 2) {
		assert_int_equal(blkt_do_range(&t, type, 2048, 1, 0),
				 BLK_S_IOERR);
		assert_int_equal(blkt_do_range(&t, type, 2047, 2, 0),
				 BLK_S_IOERR);
		assert_int_equal(blkt_do_range(&t, type, UINT64_MAX, 2, 0),
				 BLK_S_IOERR);
		assert_int_equal(blkt_do_range(&t, type, 0, UINT32_MAX, 0),
				 BLK_S_IOERR);
		assert_int_equal(blkt_do_range(&t, type, 0, 8, 2),
				 BLK_S_UNSUPP);
		assert_int_equal(blkt_do_range(&t, type, 0, 0, 0), BLK_S_OK);
		/* half a range; two */
		assert_int_equal(blkt_do(&t, type, 0, MIB, 8), BLK_S_IOERR);
		assert_int_equal(blkt_do(&t, type, 0, MIB, 32), BLK_S_IOERR);
	}
	assert_int_equal(blkt_do_range(&t, BLK_T_DISCARD, 0, 8, 1),
			 BLK_S_UNSUPP);
	assert_int_equal(fstat(t.fd, &st), 0);
	assert_int_equal(st.st_size, MIB);
	blkt_close(&t);
}

static void test_unknown_types_are_not_supported(void **state)
{
	static const uint32_t types[] = { 2,  3,  5,          10,
					  12, 14, 0x80000000, UINT32_MAX };
	struct blkt t;

	(void)state;
	blkt_open(&t, &plain);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		assert_int_equal(blkt_do(&t, types[i], 0, 0, 0), BLK_S_UNSUPP);
	blkt_close(&t);
}

static void test_no_data_is_no_error(void **state)
{
	struct blkt t;

	(void)state;
	blkt_open(&t, &plain);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 2048, 0, 0), BLK_S_OK);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 0, 0, 0), BLK_S_OK);
	blkt_close(&t);
}

/* Section 2.7.4.3: a device looks at bytes, never at where descriptors end. */
static void test_framing_does_not_matter(void **state)
{
	struct blkt t;
	uint64_t gpa, back;
	uint16_t head;

	(void)state;
	blkt_open(&t, &plain);
	/* header and data in one descriptor, header in three */
	gpa = vdrv_alloc(&t.d, 4096);
	back = vdrv_alloc(&t.d, 4096);
	vdrv_hva(&t.d, gpa)[0] = BLK_T_OUT;
	vdrv_hva(&t.d, gpa)[8] = 3;
	memset(vdrv_hva(&t.d, gpa + 16), 0x5a, 1024);
	head = vdrv_add(&t.d, 0,
			(struct vdrv_piece[]){ { gpa, 3, false },
					       { gpa + 3, 6, false },
					       { gpa + 9, 300, false },
					       { gpa + 309, 731, false },
					       { back, 1, true } },
			5);
	vdrv_kick(&t.d, 0);
	vdrv_wait(&t.d, 0, head);
	assert_int_equal(*vdrv_hva(&t.d, back), BLK_S_OK);
	blkt_assert_image(&t, 1536, vdrv_hva(&t.d, gpa + 16), 1024);
	/* data and status in one descriptor, behind an odd one */
	vdrv_hva(&t.d, gpa)[0] = BLK_T_IN;
	head = vdrv_add_indirect(
		&t.d, 0,
		(struct vdrv_piece[]){ { gpa, 16, false },
				       { back, 7, true },
				       { back + 7, 1024 - 7 + 1, true } },
		3);
	vdrv_kick(&t.d, 0);
	assert_int_equal(vdrv_wait(&t.d, 0, head), 1025);
	assert_memory_equal(vdrv_hva(&t.d, back), vdrv_hva(&t.d, gpa + 16),
			    1024);
	assert_int_equal(vdrv_hva(&t.d, back)[1024], BLK_S_OK);
	blkt_close(&t);
}

/* There is no place for an answer, or no question: the device wants a reset. */
static void test_requests_without_sense_break_the_device(void **state)
{
	struct blkt t;
	uint64_t gpa, data;

	(void)state;
	blkt_open(&t, &plain);
	gpa = vdrv_alloc(&t.d, 4096);
	vdrv_hva(&t.d, gpa)[0] = BLK_T_FLUSH;
	vdrv_add(&t.d, 0, &(struct vdrv_piece){ gpa, 16, false }, 1);
	vdrv_kick(&t.d, 0);
	vdrv_wait_broken(&t.d);
	for (int i = 0; i < 2; i++) {
		vdrv_reset(&t.d);
		vdrv_agree(&t.d, t.d.dev->offered);
		vdrv_queue(&t.d, 0, 8);
		vdrv_start(&t.d);
		if (i == 1)
			break;
		vdrv_add(&t.d, 0,
			 (struct vdrv_piece[]){ { gpa, 15, false },
						{ gpa + 64, 1, true } },
			 2);
		vdrv_kick(&t.d, 0);
		vdrv_wait_broken(&t.d);
	}
	/* And after one it works as ever. */
	data = pattern_in_guest(&t, 4096, 2);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 0, data, 4096), BLK_S_OK);
	blkt_assert_image(&t, 0, vdrv_hva(&t.d, data), 4096);
	blkt_close(&t);
}

static uint64_t allocated(struct blkt *t)
{
	struct stat st;

	assert_int_equal(fsync(t->fd), 0);
	assert_int_equal(fstat(t->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_discard_gives_space_back(void **state)
{
	struct blkt t;
	uint64_t before;

	(void)state;
	blkt_open(&t, &plain);
	blkt_image_fill(&t, 3);
	before = allocated(&t);
	assert_int_equal(blkt_do_range(&t, BLK_T_DISCARD, 512, 1024, 0),
			 BLK_S_OK);
	assert_true(allocated(&t) <= before - 512 * KIB + 64 * KIB);
	assert_zeros(&t, 256 * KIB, 512 * KIB);
	blkt_close(&t);
}

static void zeroes(const char *directory, bool direct, uint32_t align)
{
	const struct blkt_options o = { .directory = directory,
					.bytes = MIB,
					.direct = direct,
					.align = align };
	uint8_t *want = malloc(MIB);
	struct blkt t;

	assert_non_null(want);
	blkt_open(&t, &o);
	for (uint32_t unmap = 0; unmap < 2; unmap++) {
		blkt_image_fill(&t, 3);
		blkt_pattern(want, 0, MIB, 3);
		memset(want + UINT64_C(3) * 512, 0, UINT64_C(1601) * 512);
		assert_int_equal(
			blkt_do_range(&t, BLK_T_WRITE_ZEROES, 3, 1601, unmap),
			BLK_S_OK);
		blkt_assert_image(&t, 0, want, MIB);
	}
	blkt_close(&t);
	free(want);
}

static void test_write_zeroes(void **state)
{
	(void)state;
	zeroes(NULL, false, 0);
}

/* tmpfs cannot zero a range: zeros are written. */
static void test_write_zeroes_where_the_file_system_cannot(void **state)
{
	(void)state;
	zeroes("/dev/shm", false, 0);
}

/* The same, block by block with what stands around it kept. */
static void test_write_zeroes_with_wide_alignment(void **state)
{
	(void)state;
	zeroes("/dev/shm", false, 4096);
}

static void test_zeros_without_unmap_stay_allocated(void **state)
{
	struct blkt t;

	(void)state;
	blkt_open(&t, &plain);
	assert_int_equal(allocated(&t), 0);
	assert_int_equal(blkt_do_range(&t, BLK_T_WRITE_ZEROES, 0, 1024, 0),
			 BLK_S_OK);
	assert_true(allocated(&t) >= 512 * KIB);
	assert_int_equal(blkt_do_range(&t, BLK_T_WRITE_ZEROES, 0, 1024, 1),
			 BLK_S_OK);
	assert_true(allocated(&t) < 512 * KIB);
	blkt_close(&t);
}

/* Whatever the buffers look like, O_DIRECT or not, the bytes are the same. */
static void odd_buffers(uint32_t align)
{
	const struct blkt_options o = { .bytes = MIB,
					.direct = true,
					.align = align };
	uint8_t *want = malloc(MIB);
	struct blkt t;
	uint64_t from, to;

	assert_non_null(want);
	blkt_open(&t, &o);
	blkt_image_fill(&t, 1);
	blkt_pattern(want, 0, MIB, 1);
	from = pattern_in_guest(&t, MIB, 2);
	to = vdrv_alloc(&t.d, MIB);
	for (unsigned int i = 0; i < 40; i++) {
		uint64_t sector = i * 37 % 1500;
		uint32_t bytes = 512 * (1 + i * 13 % 400);
		uint64_t at = from + i * 3;
		uint32_t cut = 1 + i * 97 % (bytes - 2);
		const struct vdrv_piece out[] = {
			{ at, cut, false }, { at + cut, bytes - cut, false }
		};
		const struct vdrv_piece in[] = { { to + i, cut, true },
						 { to + i + cut, bytes - cut,
						   true } };

		assert_int_equal(blkt_do_pieces(&t, BLK_T_OUT, sector, out, 2),
				 BLK_S_OK);
		memcpy(want + sector * 512, vdrv_hva(&t.d, at), bytes);
		assert_int_equal(blkt_do_pieces(&t, BLK_T_IN, sector, in, 2),
				 BLK_S_OK);
		assert_memory_equal(vdrv_hva(&t.d, to + i), want + sector * 512,
				    bytes);
	}
	blkt_assert_image(&t, 0, want, MIB);
	blkt_close(&t);
	free(want);
}

static void test_odd_buffers_with_direct(void **state)
{
	(void)state;
	odd_buffers(0);
}

static void test_odd_buffers_with_wide_alignment(void **state)
{
	(void)state;
	odd_buffers(4096);
}

/*
 * Sectors that share a block of 4096, all written at once from several queues
 * where the disk can only do whole blocks: none may undo another.
 */
static void test_neighbours_in_a_block_do_not_lose_writes(void **state)
{
	const struct blkt_options o = {
		.bytes = MIB, .nr_queues = 4, .direct = true, .align = 4096
	};
	struct blkt t;
	uint64_t from;

	(void)state;
	blkt_open(&t, &o);
	from = pattern_in_guest(&t, 128 * KIB, 5);
	for (unsigned int i = 0; i < 256; i++)
		blkt_submit(&t, i % 4, i / 4, BLK_T_OUT, i, from + i * 512,
			    512);
	for (unsigned int q = 0; q < 4; q++)
		vdrv_kick(&t.d, q);
	for (unsigned int i = 0; i < 256; i++) {
		uint16_t head;
		uint32_t bytes;

		while (!vdrv_used(&t.d, i % 4, &head, &bytes))
			usleep(100);
	}
	for (unsigned int i = 0; i < 256; i++)
		assert_int_equal(blkt_status(&t, i % 4, i / 4), BLK_S_OK);
	blkt_assert_image(&t, 0, vdrv_hva(&t.d, from), 128 * KIB);
	blkt_close(&t);
}

/* A driver that knows no flush gets its writes made stable as they are done. */
static void test_without_flush(void **state)
{
	struct blkt t;
	uint64_t gpa;

	(void)state;
	blkt_open(&t, &(struct blkt_options){ .bytes = MIB,
					      .not_accepted = BLK_F_FLUSH });
	gpa = pattern_in_guest(&t, 4096, 1);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 8, gpa, 4096), BLK_S_OK);
	assert_int_equal(blkt_do_range(&t, BLK_T_WRITE_ZEROES, 8, 4, 0),
			 BLK_S_OK);
	assert_zeros(&t, 4096, 2048);
	blkt_assert_image(&t, 6144, vdrv_hva(&t.d, gpa + 2048), 2048);
	blkt_close(&t);
}

static void test_a_full_disk_is_an_error_of_that_request(void **state)
{
	struct rlimit old, small;
	struct blkt t;
	uint64_t gpa;

	(void)state;
	blkt_open(&t, &plain);
	gpa = pattern_in_guest(&t, 8192, 1);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = old;
	small.rlim_cur = 512 * KIB;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 0, gpa, 8192), BLK_S_OK);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 1024, gpa, 8192), BLK_S_IOERR);
	/* the first half fits */
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 1016, gpa, 8192), BLK_S_IOERR);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(blkt_do(&t, BLK_T_OUT, 1024, gpa, 8192), BLK_S_OK);
	blkt_close(&t);
}

static void test_a_file_that_shrinks_gives_errors_at_its_end(void **state)
{
	struct blkt t;
	uint64_t gpa;

	(void)state;
	blkt_open(&t, &plain);
	gpa = vdrv_alloc(&t.d, 8192);
	assert_int_equal(ftruncate(t.fd, 512 * KIB), 0);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 1016, gpa, 4096), BLK_S_OK);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 1016, gpa, 8192), BLK_S_IOERR);
	assert_int_equal(blkt_do(&t, BLK_T_IN, 2000, gpa, 4096), BLK_S_IOERR);
	blkt_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_written_is_read),
		cmocka_unit_test(test_used_length_is_what_was_written),
		cmocka_unit_test(test_config_space),
		cmocka_unit_test(test_id_is_the_same_on_every_host),
		cmocka_unit_test(test_reads_are_marked_dirty),
		cmocka_unit_test(test_bounced_reads_are_marked_dirty),
		cmocka_unit_test(test_read_only_refuses_writes),
		cmocka_unit_test(test_beyond_the_end_is_an_error),
		cmocka_unit_test(test_ranges_are_checked),
		cmocka_unit_test(test_unknown_types_are_not_supported),
		cmocka_unit_test(test_no_data_is_no_error),
		cmocka_unit_test(test_framing_does_not_matter),
		cmocka_unit_test(test_requests_without_sense_break_the_device),
		cmocka_unit_test(test_discard_gives_space_back),
		cmocka_unit_test(test_write_zeroes),
		cmocka_unit_test(
			test_write_zeroes_where_the_file_system_cannot),
		cmocka_unit_test(test_write_zeroes_with_wide_alignment),
		cmocka_unit_test(test_zeros_without_unmap_stay_allocated),
		cmocka_unit_test(test_odd_buffers_with_direct),
		cmocka_unit_test(test_odd_buffers_with_wide_alignment),
		cmocka_unit_test(test_neighbours_in_a_block_do_not_lose_writes),
		cmocka_unit_test(test_without_flush),
		cmocka_unit_test(test_a_full_disk_is_an_error_of_that_request),
		cmocka_unit_test(
			test_a_file_that_shrinks_gives_errors_at_its_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
