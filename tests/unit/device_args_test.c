/* What people type after --disk, --net and --vsock is taken exactly or not at all. */
#include "cli/device_args.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void expect_disk(const char *text, const char *path, bool read_only,
			bool direct)
{
	struct vm_disk_config disk;

	if (cli_parse_disk(text, &disk) < 0)
		fail_msg("'%s' was refused", text);
	assert_string_equal(disk.path, path);
	assert_int_equal(disk.read_only, read_only);
	assert_int_equal(disk.direct, direct);
	free((char *)disk.path);
}

static void test_disks(void **state)
{
	(void)state;
	expect_disk("path=/a", "/a", false, false);
	expect_disk("path=/a,ro", "/a", true, false);
	expect_disk("direct,path=/a", "/a", false, true);
	expect_disk("ro,path=/a,direct", "/a", true, true);
	expect_disk("path=/a=b", "/a=b", false, false);
	/* A doubled comma is one, wherever it stands. */
	expect_disk("path=/a,,b,ro", "/a,b", true, false);
	expect_disk("path=/a,,", "/a,", false, false);
	expect_disk("path=/a,,,ro", "/a,", true, false);
	expect_disk("path=/a,,,,ro", "/a,,ro", false, false);
}

static void test_paths_become_absolute(void **state)
{
	char cwd[PATH_MAX], path[PATH_MAX + 8];

	(void)state;
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	snprintf(path, sizeof(path), "%s/disk", cwd);
	expect_disk("path=disk", path, false, false);
}

static void test_bad_disks_change_nothing(void **state)
{
	static const char *const bad[] = {
		"",
		",",
		"/a",
		"path",
		"path=",
		"ro",
		"path=/a,",
		",path=/a",
		"path=/a,r",
		"path=/a,ro=",
		"path=/a,RO",
		"path=/a,ro,ro",
		"path=/a,path=/b",
		"path=/a,ro=1",
		"path=/a\n",
		"path=/a,direct=yes",
		"path=/a, ro",
		"Path=/a",
		"pat=/a",
		"paths=/a",
		"path=/\x7f",
		"path=/a,x=1",
	};
	struct vm_disk_config disk = { .path = "as it was" };
	char *longest = malloc(PATH_MAX + 8);
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cli_parse_disk(bad[i], &disk) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_string_equal(disk.path, "as it was");
	}
	assert_non_null(longest);
	memset(longest, 'x', PATH_MAX + 7);
	memcpy(longest, "path=/", 6);
	longest[PATH_MAX + 7] = '\0';
	assert_int_equal(cli_parse_disk(longest, &disk), -EINVAL);
	longest[PATH_MAX + 4] = '\0'; /* one byte less than PATH_MAX */
	assert_int_equal(cli_parse_disk(longest, &disk), 0);
	free((char *)disk.path);
	free(longest);
}

static void test_nets(void **state)
{
	static const uint8_t unset[6];
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0xab, 0xcd, 0xef };
	struct vm_net_config net;

	(void)state;
	assert_int_equal(cli_parse_net("tap=tap0", &net), 0);
	assert_string_equal(net.tap, "tap0");
	assert_memory_equal(net.mac, unset, sizeof(unset));
	free((char *)net.tap);
	assert_int_equal(
		cli_parse_net("mac=52:54:00:ab:CD:ef,tap=vm.0-a_b", &net), 0);
	assert_string_equal(net.tap, "vm.0-a_b");
	assert_memory_equal(net.mac, mac, sizeof(mac));
	free((char *)net.tap);
}

static void test_bad_nets_change_nothing(void **state)
{
	static const char *const bad[] = {
		"",
		"tap0",
		"tap=",
		"tap=0123456789abcdef", /* IFNAMSIZ holds 15 and a NUL */
		"tap=a/b",
		"tap=..",
		"tap=a b",
		"tap=%d",
		"mac=52:54:00:ab:cd:ef",
		"tap=a,mac=",
		"tap=a,mac=52:54:00:ab:cd",
		"tap=a,mac=52:54:00:ab:cd:ef:00",
		"tap=a,mac=52-54-00-ab-cd-ef",
		"tap=a,mac=52:54:00:ab:cd:eg",
		"tap=a,mac=5:254:00:ab:cd:ef",
		"tap=a,mac=53:54:00:ab:cd:ef", /* a group's */
		"tap=a,mac=ff:ff:ff:ff:ff:ff",
		"tap=a,mac=00:00:00:00:00:00",
	};
	struct vm_net_config net = { .tap = "as it was" };
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cli_parse_net(bad[i], &net) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_string_equal(net.tap, "as it was");
	}
}

static void test_vsocks(void **state)
{
	static const char *const bad[] = {
		"",
		"cid=3",
		"path=/s,cid=2",
		"path=/s,cid=4294967295",
		"path=/s,cid=4294967299",
		"path=/s,cid=-3",
		"path=/s,cid=three",
		"path=/s,cid=3,cid=4",
	};
	char longest[128] = ""; /* a socket's path has 107 bytes at most */
	struct vm_vsock_config vsock;
	size_t i;

	(void)state;
	assert_int_equal(cli_parse_vsock("cid=3,path=/s", &vsock), 0);
	assert_int_equal(vsock.cid, 3);
	assert_string_equal(vsock.path, "/s");
	free((char *)vsock.path);
	/* Where a guest arrives its cid is known already. */
	assert_int_equal(cli_parse_vsock("path=/s", &vsock), 0);
	assert_int_equal(vsock.cid, 0);
	free((char *)vsock.path);
	snprintf(longest, sizeof(longest), "path=/%0*d",
		 (int)sizeof(longest) - 7, 0);
	assert_int_equal(cli_parse_vsock(longest, &vsock), -EINVAL);
	vsock.path = "as it was";
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		if (cli_parse_vsock(bad[i], &vsock) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_string_equal(vsock.path, "as it was");
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disks),
		cmocka_unit_test(test_paths_become_absolute),
		cmocka_unit_test(test_bad_disks_change_nothing),
		cmocka_unit_test(test_nets),
		cmocka_unit_test(test_bad_nets_change_nothing),
		cmocka_unit_test(test_vsocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
