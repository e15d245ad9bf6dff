/*
 * A snapshot directory is there whole or not at all, and damage anywhere in it
 * is noticed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate/image.h"
#include "vmm/mem.h"

#define RAM_BYTES (UINT64_C(64) << 30) /* configured, hardly used */

static char top[] = "/tmp/vmmd-image-XXXXXX";
static char dir[64];

/* Pages that the image holds: the first, the last, one in the middle. */
static const uint64_t data_pages[] = { 0, 1, 70000,
				       RAM_BYTES / VM_PAGE_BYTES - 1 };
#define NR_DATA (sizeof(data_pages) / sizeof(*data_pages))

static struct mig_image_writer *begin(void)
{
	struct mig_image_writer *w;
	uint8_t page[VM_PAGE_BYTES];
	char *err = NULL;

	if (mig_image_create(dir, RAM_BYTES, &w, &err) < 0)
		fail_msg("%s", err);
	for (size_t i = 0; i < NR_DATA; i++) {
		uint64_t p = data_pages[i];

		memset(page, (int)i + 1, sizeof(page));
		assert_int_equal(pwrite(mig_image_memory_fd(w), page,
					sizeof(page),
					(off_t)(p * VM_PAGE_BYTES)),
				 sizeof(page));
		mig_image_set_sum(w, p, mig_image_page_sum(p, page));
	}
	return w;
}

static int commit(struct mig_image_writer *w, char **err)
{
	static struct kvm_cpuid_entry2 leaf;
	const struct mig_machine m = {
		.ram_bytes = RAM_BYTES,
		.nr_cpus = 2,
		.mem_backend = VM_MEM_ANON,
		.tsc_khz = 1000000,
		.cpuid = &leaf,
		.nr_cpuid = 1,
	};
	uint64_t bytes;

	return mig_image_commit(w, &m, (const uint8_t *)"state", 5, &bytes,
				err);
}

static void make_image(void)
{
	struct mig_image_writer *w = begin();
	char *err = NULL;

	if (commit(w, &err) < 0)
		fail_msg("%s", err);
	mig_image_writer_free(w);
}

static unsigned int entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void remove_image(void)
{
	static const char *const names[] = { "manifest.json", "state.pb",
					     "memory", "memory.sums" };

	for (size_t i = 0; i < 4; i++)
		unlink(path_of(names[i]));
	rmdir(dir);
}

static int setup(void **state)
{
	(void)state;
	make_image();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_image();
	assert_int_equal(entries(top), 0);
	return 0;
}

static void check_good(void)
{
	struct mig_image *img;
	char *err = NULL;
	uint8_t page[VM_PAGE_BYTES];
	uint64_t at = 0, nr;

	if (mig_image_open(dir, &img, &err) < 0)
		fail_msg("%s", err);
	assert_true(img->machine.ram_bytes == RAM_BYTES);
	assert_int_equal(img->state_bytes, 5);
	assert_true(img->data_pages == NR_DATA);
	for (size_t i = 0; i < NR_DATA; i++) {
		assert_int_equal(mig_image_read(img, data_pages[i], 1, page),
				 0);
		assert_int_equal(page[100], i + 1);
		assert_true(mig_image_page_is_good(img, data_pages[i], page));
	}
	assert_false(mig_image_page_is_good(img, 0, page)); /* another's */
	assert_true(mig_image_next_run(img, &at, &nr, 100));
	assert_true(at == 0 && nr == 2);
	at = 2;
	assert_true(mig_image_next_run(img, &at, &nr, 100));
	assert_true(at == 70000 && nr == 1);
	at++;
	assert_true(mig_image_next_run(img, &at, &nr, 100));
	assert_true(at == RAM_BYTES / VM_PAGE_BYTES - 1);
	at++;
	assert_false(mig_image_next_run(img, &at, &nr, 100));
	mig_image_free(img);
}

static void test_written_and_read(void **state)
{
	(void)state;
	check_good();
}

/* What a configured but unused gigabyte costs on disk is nothing. */
static void test_sparse(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(path_of("memory"), &st), 0);
	assert_true((uint64_t)st.st_size == RAM_BYTES);
	assert_true(st.st_blocks < 2048);
	assert_int_equal(stat(path_of("memory.sums"), &st), 0);
	assert_true(st.st_blocks < 2048);
}

static void assert_refused(const char *says)
{
	struct mig_image *img;
	char *err = NULL;

	if (mig_image_open(dir, &img, &err) == 0)
		fail_msg("opened, instead of '%s'", says);
	assert_non_null(err);
	assert_null(strchr(err, '\n'));
	if (!strstr(err, says) || !strstr(err, dir))
		fail_msg("'%s' does not say '%s'", err, says);
	free(err);
}

static void flip(const char *name, off_t at)
{
	int fd = open(path_of(name), O_RDWR);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static off_t size_of(const char *name)
{
	struct stat st;

	assert_int_equal(stat(path_of(name), &st), 0);
	return st.st_size;
}

/* White space excepted, which says nothing. */
static void test_any_byte_of_the_manifest(void **state)
{
	off_t bytes = size_of("manifest.json");
	char *text = malloc((size_t)bytes);
	int fd = open(path_of("manifest.json"), O_RDONLY);

	(void)state;
	assert_non_null(text);
	assert_int_equal(read(fd, text, (size_t)bytes), bytes);
	close(fd);
	for (off_t i = 0; i < bytes; i++) {
		if (text[i] == ' ' || text[i] == '\n')
			continue;
		flip("manifest.json", i);
		assert_refused("");
		flip("manifest.json", i);
	}
	free(text);
	check_good();
}

static void test_any_byte_of_the_state(void **state)
{
	off_t bytes = size_of("state.pb");

	(void)state;
	for (off_t i = 0; i < bytes; i++) {
		flip("state.pb", i);
		assert_refused("state.pb: damaged");
		flip("state.pb", i);
	}
}

static void test_damaged_sums(void **state)
{
	(void)state;
	flip("memory.sums", 3);
	assert_refused("memory.sums: damaged");
	flip("memory.sums", 3);
	flip("memory.sums", 512 * 8 * 5); /* was a hole */
	assert_refused("memory.sums: damaged");
	flip("memory.sums", 512 * 8 * 5);
	check_good();
}

static void test_damaged_page_is_told_by_its_sum(void **state)
{
	struct mig_image *img;
	uint8_t page[VM_PAGE_BYTES];

	(void)state;
	flip("memory", 70000 * 4096 + 4095);
	assert_int_equal(mig_image_open(dir, &img, NULL), 0);
	assert_int_equal(mig_image_read(img, 70000, 1, page), 0);
	assert_false(mig_image_page_is_good(img, 70000, page));
	assert_int_equal(mig_image_read(img, 1, 1, page), 0);
	assert_true(mig_image_page_is_good(img, 1, page));
	mig_image_free(img);
}

static void test_cut_files(void **state)
{
	static const char *const names[] = { "manifest.json", "state.pb",
					     "memory", "memory.sums" };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		assert_int_equal(
			truncate(path_of(names[i]), size_of(names[i]) - 1), 0);
		assert_refused(names[i]);
		unlink(path_of(names[i]));
		assert_refused("is missing");
		assert_int_equal(mkfifo(path_of(names[i]), 0600), 0);
		assert_refused("not a regular file");
		remove_image();
		make_image();
	}
}

static void test_existing_is_refused(void **state)
{
	struct mig_image_writer *w;
	char *err = NULL;

	(void)state;
	assert_int_equal(mig_image_create(dir, RAM_BYTES, &w, &err), -EEXIST);
	assert_non_null(strstr(err, "exists already"));
	free(err);
	check_good();
}

/* Even if it comes to be there after we looked, and even if it is empty. */
static void test_never_replaces(void **state)
{
	struct mig_image_writer *w;
	char *err = NULL;

	(void)state;
	remove_image();
	w = begin();
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(commit(w, &err), -EEXIST);
	free(err);
	mig_image_writer_free(w);
	assert_int_equal(entries(dir), 0);
	assert_int_equal(entries(top), 1);
}

static void test_without_commit_nothing_is_left(void **state)
{
	(void)state;
	remove_image();
	mig_image_writer_free(begin());
	assert_int_equal(entries(top), 0);
}

/* Copies of the guest's disks 0 and 3; a hole each. */
static struct mig_image_writer *begin_with_disks(void)
{
	struct mig_image_writer *w = begin();
	int fd;

	assert_int_equal(mig_image_create_disk(w, 0, 1 << 20, &fd, NULL), 0);
	assert_int_equal(pwrite(fd, "x", 1, 5), 1);
	assert_int_equal(mig_image_create_disk(w, 3, 4096, &fd, NULL), 0);
	/* Each only once. */
	assert_int_equal(mig_image_create_disk(w, 3, 4096, &fd, NULL), -EEXIST);
	return w;
}

static void test_disk_copies_come_along(void **state)
{
	struct mig_image_writer *w;
	char text[4096] = "", link[80];
	int fd;

	(void)state;
	remove_image();
	w = begin_with_disks();
	assert_int_equal(commit(w, NULL), 0);
	mig_image_writer_free(w);
	assert_int_equal(size_of("disk0.raw"), 1 << 20);
	assert_int_equal(size_of("disk3.raw"), 4096);
	check_good();

	fd = open(path_of("manifest.json"), O_RDONLY);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	assert_non_null(strstr(text, "\"disk0.raw\""));
	assert_non_null(strstr(text, "\"disk3.raw\""));
	assert_non_null(strstr(text, "1048576"));

	/* They are told from any other file, whatever name leads there. */
	snprintf(link, sizeof(link), "%s/link", top);
	assert_int_equal(symlink(path_of("disk3.raw"), link), 0);
	fd = open(link, O_RDONLY);
	unlink(link);
	assert_true(fd >= 0);
	assert_true(mig_image_has_disk(dir, fd));
	close(fd);
	fd = open(path_of("memory"), O_RDONLY);
	assert_false(mig_image_has_disk(dir, fd));
	close(fd);
	unlink(path_of("disk0.raw"));
	unlink(path_of("disk3.raw"));
}

static void test_disk_copies_go_with_the_rest(void **state)
{
	(void)state;
	remove_image();
	mig_image_writer_free(begin_with_disks());
	assert_int_equal(entries(top), 0);
}

static void leave_temporary(long pid)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/.snap.tmp-%ld", top, pid);
	assert_int_equal(mkdir(path, 0700), 0);
	strcat(path, "/memory");
	close(open(path, O_CREAT | O_WRONLY, 0600));
}

/* Left by dead processes, one of whose ids is ours by now: both are cleared. */
static void test_stale_temporary_is_no_obstacle(void **state)
{
	(void)state;
	remove_image();
	leave_temporary((long)getpid());
	leave_temporary(4194999); /* above any pid_max */
	make_image();
	assert_int_equal(entries(top), 1);
	check_good();
}

static void test_bad_places(void **state)
{
	static const char *const places[] = {
		"", "/", ".", "..", "/nonexistent/a", "/dev/null/a"
	};
	struct mig_image_writer *w;

	(void)state;
	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		char *err = NULL;

		assert_true(mig_image_create(places[i], RAM_BYTES, &w, &err) <
			    0);
		assert_non_null(err);
		free(err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_written_and_read),
		cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_any_byte_of_the_manifest),
		cmocka_unit_test(test_any_byte_of_the_state),
		cmocka_unit_test(test_damaged_sums),
		cmocka_unit_test(test_damaged_page_is_told_by_its_sum),
		cmocka_unit_test(test_cut_files),
		cmocka_unit_test(test_existing_is_refused),
		cmocka_unit_test(test_never_replaces),
		cmocka_unit_test(test_without_commit_nothing_is_left),
		cmocka_unit_test(test_disk_copies_come_along),
		cmocka_unit_test(test_disk_copies_go_with_the_rest),
		cmocka_unit_test(test_stale_temporary_is_no_obstacle),
		cmocka_unit_test(test_bad_places),
	};
	struct CMUnitTest with_image[sizeof(tests) / sizeof(*tests)];
	int ret;

	if (!mkdtemp(top))
		return 1;
	snprintf(dir, sizeof(dir), "%s/snap", top);
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		with_image[i] = tests[i];
		with_image[i].setup_func = setup;
		with_image[i].teardown_func = teardown;
	}
	ret = cmocka_run_group_tests(with_image, NULL, NULL);
	rmdir(top);
	return ret;
}
