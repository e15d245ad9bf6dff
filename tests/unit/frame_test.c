/* Hellos and control frames: what goes in comes out, garbage does not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "proto/wire.h"

static const struct proto_hello data_hello = {
	.version = PROTO_VERSION,
	.role = PROTO_ROLE_DATA,
	.channel = 15,
	.session = "0123456789abcde",
};

static void test_hello_comes_back(void **state)
{
	uint8_t buf[PROTO_HELLO_BYTES];
	struct proto_hello h;

	(void)state;
	proto_hello_encode(&data_hello, buf);
	assert_int_equal(proto_hello_decode(buf, &h), 0);
	assert_int_equal(h.role, PROTO_ROLE_DATA);
	assert_int_equal(h.channel, 15);
	assert_memory_equal(h.session, data_hello.session, sizeof(h.session));
}

static void test_hello_of_another_version_is_told_apart(void **state)
{
	struct proto_hello in = data_hello, out = { 0 };
	uint8_t buf[PROTO_HELLO_BYTES];

	(void)state;
	in.version = PROTO_VERSION + 1;
	proto_hello_encode(&in, buf);
	assert_int_equal(proto_hello_decode(buf, &out), -EPROTONOSUPPORT);
	assert_int_equal(out.version, PROTO_VERSION + 1);
}

static void test_hello_channel_is_bounded(void **state)
{
	struct proto_hello in = data_hello, out;
	uint8_t buf[PROTO_HELLO_BYTES];

	(void)state;
	in.channel = PROTO_CHANNELS_MAX;
	proto_hello_encode(&in, buf);
	assert_int_equal(proto_hello_decode(buf, &out), -EBADMSG);
	in.role = PROTO_ROLE_FAULT;
	proto_hello_encode(&in, buf);
	assert_int_equal(proto_hello_decode(buf, &out), -EBADMSG);
	in.channel = 1;
	proto_hello_encode(&in, buf);
	assert_int_equal(proto_hello_decode(buf, &out), 0);
	assert_int_equal(out.channel, 1);
	in.role = PROTO_ROLE_CONTROL;
	proto_hello_encode(&in, buf);
	assert_int_equal(proto_hello_decode(buf, &out), -EBADMSG);
}

/* What a port scanner or a web client sends. */
static void test_strangers_are_no_hello(void **state)
{
	uint8_t http[PROTO_HELLO_BYTES] =
		"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	uint8_t zero[PROTO_HELLO_BYTES] = { 0 };
	struct proto_hello h;

	(void)state;
	assert_int_equal(proto_hello_decode(http, &h), -EBADMSG);
	assert_int_equal(proto_hello_decode(zero, &h), -EBADMSG);
}

static int decode(uint16_t type, bool required, uint32_t bytes,
		  struct proto_frame *ret)
{
	struct proto_frame in = { type, required, bytes };
	uint8_t buf[PROTO_FRAME_BYTES];

	proto_frame_encode(&in, buf);
	return proto_frame_decode(buf, ret);
}

static void test_every_type_is_bounded_and_named(void **state)
{
	struct proto_frame f;
	unsigned int type;

	(void)state;
	for (type = PROTO_SETUP; type < PROTO_NR_TYPES; type++) {
		assert_string_not_equal(proto_type_name(type), "?");
		assert_int_equal(decode((uint16_t)type, true, 100, &f), 0);
		assert_int_equal(f.type, type);
		assert_int_equal(f.bytes, 100);
		assert_int_equal(decode((uint16_t)type, true, UINT32_MAX, &f),
				 -EMSGSIZE);
	}
}

/* The version rule: unknown optional is skipped, unknown required ends it. */
static void test_unknown_types(void **state)
{
	struct proto_frame f;

	(void)state;
	assert_int_equal(decode(999, false, 100, &f), 0);
	assert_int_equal(f.bytes, 100);
	assert_int_equal(decode(999, true, 100, &f), -EOPNOTSUPP);
	assert_int_equal(f.type, 999);
	assert_int_equal(decode(999, false, 1u << 30, &f), -EMSGSIZE);
	assert_string_equal(proto_type_name(999), "?");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_comes_back),
		cmocka_unit_test(test_hello_of_another_version_is_told_apart),
		cmocka_unit_test(test_hello_channel_is_bounded),
		cmocka_unit_test(test_strangers_are_no_hello),
		cmocka_unit_test(test_every_type_is_bounded_and_named),
		cmocka_unit_test(test_unknown_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
