/* A disk is opened or refused in one plain line, and locked by one at a time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/disk.h"

struct fixture {
	char directory[64];
	char path[96];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	snprintf(f->directory, sizeof(f->directory), "/tmp/disk_test.XXXXXX");
	assert_non_null(mkdtemp(f->directory));
	snprintf(f->path, sizeof(f->path), "%s/disk", f->directory);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	rmdir(f->directory);
	free(f);
	return 0;
}

static void make(const struct fixture *f, off_t bytes)
{
	int fd = open(f->path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

static struct vm_disk open_disk(const struct fixture *f, bool read_only)
{
	const struct vm_disk_config cfg = { .path = f->path,
					    .read_only = read_only };
	struct vm_disk d;

	assert_int_equal(vm_disk_open(&cfg, &d, NULL), 0);
	return d;
}

/* The line names the disk and says what is the matter. */
static void refused(const char *path, bool read_only, bool direct, int ret,
		    const char *why)
{
	const struct vm_disk_config cfg = { .path = path,
					    .read_only = read_only,
					    .direct = direct };
	struct vm_disk d;
	char *err = NULL;

	assert_int_equal(vm_disk_open(&cfg, &d, &err), ret);
	assert_non_null(err);
	if (!strstr(err, path) || !strstr(err, why) || strchr(err, '\n'))
		fail_msg("not what was expected: %s", err);
	free(err);
}

static void test_missing(void **state)
{
	const struct fixture *f = *state;

	refused(f->path, false, false, -ENOENT, "No such file");
}

static void test_directory(void **state)
{
	const struct fixture *f = *state;

	refused(f->directory, false, false, -EISDIR, "directory");
	refused(f->directory, true, false, -EISDIR, "directory");
}

static void test_other_kinds_of_files(void **state)
{
	const struct fixture *f = *state;

	refused("/dev/null", false, false, -EINVAL, "neither");
	assert_int_equal(mkfifo(f->path, 0600), 0);
	refused(f->path, true, false, -EINVAL, "neither");
}

static void test_sizes(void **state)
{
	const struct fixture *f = *state;
	struct vm_disk d;

	make(f, 0);
	refused(f->path, false, false, -EINVAL, "empty");
	make(f, 511);
	refused(f->path, false, false, -EINVAL, "multiple of 512");
	make(f, 1048577);
	refused(f->path, false, false, -EINVAL, "1048577 bytes");
	make(f, 512);
	d = open_disk(f, false);
	assert_int_equal(d.bytes, 512);
	assert_int_equal(d.align, 1);
	assert_int_equal(d.logical_bytes, 512);
	vm_disk_close(&d);
}

static void test_direct(void **state)
{
	const struct fixture *f = *state;
	const struct vm_disk_config cfg = { .path = f->path, .direct = true };
	struct vm_disk d;
	char *err = NULL;

	make(f, 1 << 20);
	if (vm_disk_open(&cfg, &d, &err) < 0) {
		print_message("%s\n", err);
		free(err);
		skip();
	}
	assert_true(d.align >= 512 && d.align <= VM_DISK_ALIGN_MAX);
	assert_true(fcntl(d.fd, F_GETFL) & O_DIRECT);
	vm_disk_close(&d);
}

/* Where root may do all, this is asked as somebody else. */
static void test_no_permission(void **state)
{
	const struct fixture *f = *state;
	int status;
	pid_t pid;

	make(f, 4096);
	assert_int_equal(chmod(f->path, 0400), 0);
	assert_int_equal(chmod(f->directory, 0755), 0);
	pid = fork();
	if (pid == 0) {
		if (geteuid() == 0 && seteuid(65534) < 0)
			_exit(2);
		refused(f->path, false, false, -EACCES,
			"no permission to read and write");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_one_writer(void **state)
{
	const struct fixture *f = *state;
	struct vm_disk a, b, reader;
	char *err = NULL;

	make(f, 4096);
	a = open_disk(f, false);
	b = open_disk(f, false);
	reader = open_disk(f, true);
	assert_int_equal(vm_disk_lock(&a, NULL), 0);
	assert_int_equal(vm_disk_lock(&a, NULL), 0); /* again is nothing */
	assert_int_equal(vm_disk_lock(&b, &err), -EBUSY);
	assert_non_null(strstr(err, f->path));
	free(err);
	assert_int_equal(vm_disk_lock(&reader, NULL), -EBUSY);
	vm_disk_unlock(&a);
	vm_disk_unlock(&a);
	assert_int_equal(vm_disk_lock(&b, NULL), 0);
	assert_int_equal(vm_disk_lock(&a, NULL), -EBUSY);
	vm_disk_close(&b); /* gives it up */
	assert_int_equal(vm_disk_lock(&a, NULL), 0);
	vm_disk_close(&a);
	vm_disk_close(&reader);
}

static void test_many_readers(void **state)
{
	const struct fixture *f = *state;
	struct vm_disk a, b, writer;

	make(f, 4096);
	a = open_disk(f, true);
	b = open_disk(f, true);
	writer = open_disk(f, false);
	assert_int_equal(vm_disk_lock(&a, NULL), 0);
	assert_int_equal(vm_disk_lock(&b, NULL), 0);
	assert_int_equal(vm_disk_lock(&writer, NULL), -EBUSY);
	vm_disk_unlock(&a);
	assert_int_equal(vm_disk_lock(&writer, NULL), -EBUSY);
	vm_disk_unlock(&b);
	assert_int_equal(vm_disk_lock(&writer, NULL), 0);
	vm_disk_close(&a);
	vm_disk_close(&b);
	vm_disk_close(&writer);
}

/* Somebody else's POSIX lock has a process that can be named. */
static void test_the_holder_is_named(void **state)
{
	const struct fixture *f = *state;
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct vm_disk d;
	char want[32], *err = NULL;
	int to_child[2], to_parent[2], status;
	char c;
	pid_t pid;

	make(f, 4096);
	assert_int_equal(pipe(to_child) | pipe(to_parent), 0);
	pid = fork();
	if (pid == 0) {
		int fd = open(f->path, O_RDWR | O_CLOEXEC);

		close(to_child[1]);
		if (fcntl(fd, F_SETLK, &l) < 0 ||
		    write(to_parent[1], "x", 1) != 1)
			_exit(1);
		_exit(read(to_child[0], &c, 1) != 0); /* until it is closed */
	}
	close(to_child[0]);
	close(to_parent[1]);
	assert_int_equal(read(to_parent[0], &c, 1), 1);
	d = open_disk(f, false);
	assert_int_equal(vm_disk_lock(&d, &err), -EBUSY);
	snprintf(want, sizeof(want), "process %d", (int)pid);
	assert_non_null(strstr(err, want));
	free(err);
	close(to_child[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(vm_disk_lock(&d, NULL), 0);
	vm_disk_close(&d);
	close(to_parent[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_missing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_directory, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_other_kinds_of_files,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_direct, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_permission, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_one_writer, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_many_readers, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_the_holder_is_named, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
