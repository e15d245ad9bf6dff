/* A copy of a disk is the disk, and its holes stay holes. */
#include "migrate/disk_copy.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES (UINT64_C(64) << 20)

struct files {
	int from_fd, to_fd;
};

static int temporary(void)
{
	char path[] = "/tmp/vmmd-disk-XXXXXX";
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static int open_files(void **state)
{
	struct files *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->from_fd = temporary();
	f->to_fd = temporary();
	assert_int_equal(ftruncate(f->from_fd, (off_t)BYTES), 0);
	assert_int_equal(ftruncate(f->to_fd, (off_t)BYTES), 0);
	*state = f;
	return 0;
}

static int close_files(void **state)
{
	struct files *f = *state;

	close(f->from_fd);
	close(f->to_fd);
	free(f);
	return 0;
}

static bool always(void *ctx)
{
	(void)ctx;
	return true;
}

/* So many more times. */
static bool counted(void *ctx)
{
	int *left = ctx;

	return (*left)-- > 0;
}

static void put(int fd, uint64_t at, uint64_t bytes, int value)
{
	uint8_t *data = malloc(bytes);

	assert_non_null(data);
	memset(data, value, bytes);
	assert_int_equal(pwrite(fd, data, bytes, (off_t)at), (ssize_t)bytes);
	free(data);
}

static void expect_same(const struct files *f)
{
	uint8_t *a = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, f->from_fd, 0);
	uint8_t *b = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, f->to_fd, 0);

	assert_true(a != MAP_FAILED && b != MAP_FAILED);
	assert_memory_equal(a, b, BYTES);
	munmap(a, BYTES);
	munmap(b, BYTES);
}

static uint64_t used_bytes(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static int copy(const struct files *f, bool *ret_cloned)
{
	const struct mig_disk_copy c = { .from_fd = f->from_fd,
					 .to_fd = f->to_fd,
					 .bytes = BYTES,
					 .keep_going = always };

	return mig_disk_copy(&c, ret_cloned);
}

/* First and last byte, pieces that are no multiple of anything. */
static void test_all_of_it(void **state)
{
	const struct files *f = *state;
	bool cloned;

	put(f->from_fd, 0, 1, 1);
	put(f->from_fd, 4095, 4098, 2);
	put(f->from_fd, 10000000, 3 << 20, 3);
	put(f->from_fd, BYTES - 1, 1, 4);
	assert_int_equal(copy(f, &cloned), 0);
	expect_same(f);
	assert_true(used_bytes(f->to_fd) < BYTES / 2);
}

static void test_an_empty_disk(void **state)
{
	const struct files *f = *state;
	bool cloned;

	assert_int_equal(copy(f, &cloned), 0);
	expect_same(f);
	assert_true(used_bytes(f->to_fd) <= 4096);
}

/* A device cannot tell its holes: bytes that are zero are not written. */
static void test_zeros_that_are_no_holes(void **state)
{
	struct files *f = *state;
	int memory = memfd_create("disk", MFD_CLOEXEC);
	bool cloned;

	/* Another file system, so nothing but reading and writing works. */
	assert_true(memory >= 0);
	close(f->from_fd);
	f->from_fd = memory;
	assert_int_equal(ftruncate(memory, (off_t)BYTES), 0);
	put(memory, 0, BYTES / 2, 0);
	put(memory, 12345, 5, 7);
	assert_int_equal(copy(f, &cloned), 0);
	assert_false(cloned);
	expect_same(f);
	assert_true(used_bytes(f->to_fd) < BYTES / 4);
}

static void test_it_can_be_given_up(void **state)
{
	const struct files *f = *state;
	int left = 3;
	const struct mig_disk_copy c = { .from_fd = f->from_fd,
					 .to_fd = f->to_fd,
					 .bytes = BYTES,
					 .keep_going = counted,
					 .ctx = &left };
	bool cloned = true;
	int ret;

	put(f->from_fd, 0, BYTES, 1);
	ret = mig_disk_copy(&c, &cloned);
	if (ret == 0) /* at once, where blocks can be shared */
		assert_true(cloned);
	else
		assert_int_equal(ret, -ECANCELED);
}

static void test_a_disk_that_shrank(void **state)
{
	const struct files *f = *state;
	const struct mig_disk_copy c = { .from_fd = f->from_fd,
					 .to_fd = f->to_fd,
					 .bytes = BYTES,
					 .keep_going = always };
	bool cloned;

	/* Its lost end would look like a hole. */
	put(f->from_fd, 0, BYTES, 1);
	assert_int_equal(ftruncate(f->from_fd, BYTES - 512), 0);
	assert_int_equal(mig_disk_copy(&c, &cloned), -EIO);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_all_of_it, open_files,
						close_files),
		cmocka_unit_test_setup_teardown(test_an_empty_disk, open_files,
						close_files),
		cmocka_unit_test_setup_teardown(test_zeros_that_are_no_holes,
						open_files, close_files),
		cmocka_unit_test_setup_teardown(test_it_can_be_given_up,
						open_files, close_files),
		cmocka_unit_test_setup_teardown(test_a_disk_that_shrank,
						open_files, close_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
