/* What people type is taken exactly or not at all. */
#include "cli/args.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void test_sizes_take_suffixes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 },
		{ "4096", 4096 },
		{ "64k", 64u << 10 },
		{ "512M", 512u << 20 },
		{ "3G", UINT64_C(3) << 30 },
		{ "1T", UINT64_C(1) << 40 },
		{ "18446744073709551615", UINT64_MAX },
		{ "16777215T", UINT64_C(16777215) << 40 },
	};
	uint64_t bytes;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(cli_parse_size(good[i].text, &bytes), 0);
		assert_true(bytes == good[i].bytes);
	}
}

static void test_bad_sizes_change_nothing(void **state)
{
	static const char *const bad[] = {
		"",
		" ",
		"-1",
		"+1",
		"M",
		"1MB",
		"1.5G",
		"0x10",
		"1 M",
		"1P",
		" 1",
		"1\n",
		"1e9",
		"16777216T",
		"18446744073709551616",
		"99999999999999999999999999999",
	};
	uint64_t bytes = 7;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(cli_parse_size(bad[i], &bytes), -EINVAL);
		assert_true(bytes == 7);
	}
}

static void test_numbers_obey_their_bounds(void **state)
{
	uint64_t value = 7;

	(void)state;
	assert_int_equal(cli_parse_u64("1", 1, 16, &value), 0);
	assert_true(value == 1);
	assert_int_equal(cli_parse_u64("16", 1, 16, &value), 0);
	assert_true(value == 16);
	assert_int_equal(cli_parse_u64("0", 1, 16, &value), -EINVAL);
	assert_int_equal(cli_parse_u64("17", 1, 16, &value), -EINVAL);
	assert_int_equal(cli_parse_u64("-1", 0, UINT64_MAX, &value), -EINVAL);
	assert_int_equal(cli_parse_u64("1K", 0, UINT64_MAX, &value), -EINVAL);
	assert_int_equal(cli_parse_u64("", 0, UINT64_MAX, &value), -EINVAL);
	assert_true(value == 16);
}

/* A name becomes a file name in a directory that we trust. */
static void test_names_cannot_leave_the_directory(void **state)
{
	char longest[CLI_NAME_MAX + 2];

	(void)state;
	memset(longest, 'a', sizeof(longest));
	longest[CLI_NAME_MAX] = '\0';
	assert_true(cli_name_ok("a"));
	assert_true(cli_name_ok("web-1.example_B"));
	assert_true(cli_name_ok(longest));
	longest[CLI_NAME_MAX] = 'a';
	longest[CLI_NAME_MAX + 1] = '\0';
	assert_false(cli_name_ok(longest));
	assert_false(cli_name_ok(""));
	assert_false(cli_name_ok("."));
	assert_false(cli_name_ok(".."));
	assert_false(cli_name_ok(".hidden"));
	assert_false(cli_name_ok("-option"));
	assert_false(cli_name_ok("a/b"));
	assert_false(cli_name_ok("a b"));
	assert_false(cli_name_ok("a\n"));
	assert_false(cli_name_ok("\xc3\xa4"));
}

static void test_serial_ports(void **state)
{
	struct cli_serial_spec spec = { 0 };

	(void)state;
	assert_int_equal(cli_parse_serial("stdio", &spec), 0);
	assert_int_equal(spec.kind, CLI_SERIAL_STDIO);
	assert_int_equal(cli_parse_serial("file:/tmp/a:b", &spec), 0);
	assert_int_equal(spec.kind, CLI_SERIAL_FILE);
	assert_string_equal(spec.path, "/tmp/a:b");
	assert_int_equal(cli_parse_serial("pty", &spec), 0);
	assert_int_equal(spec.kind, CLI_SERIAL_PTY);
	assert_int_equal(cli_parse_serial("null", &spec), 0);
	assert_int_equal(spec.kind, CLI_SERIAL_NULL);
	assert_int_equal(cli_parse_serial("file:", &spec), -EINVAL);
	assert_int_equal(cli_parse_serial("stdio ", &spec), -EINVAL);
	assert_int_equal(cli_parse_serial("", &spec), -EINVAL);
	assert_int_equal(spec.kind, CLI_SERIAL_NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes_take_suffixes),
		cmocka_unit_test(test_bad_sizes_change_nothing),
		cmocka_unit_test(test_numbers_obey_their_bounds),
		cmocka_unit_test(test_names_cannot_leave_the_directory),
		cmocka_unit_test(test_serial_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
