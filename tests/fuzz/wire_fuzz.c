/* The fixed headers of proto/wire.h: hello, frame, batch. */
#include "fuzz.h"

#include <string.h>
#include <xxhash.h>

#include "proto/le.h"
#include "proto/wire.h"

#define RAM_PAGES UINT64_C(4096)

static void try_hello(const uint8_t *data, size_t bytes)
{
	uint8_t in[PROTO_HELLO_BYTES] = { 0 }, again[PROTO_HELLO_BYTES];
	struct proto_hello hello;

	memcpy(in, data, bytes < sizeof(in) ? bytes : sizeof(in));
	if (proto_hello_decode(in, &hello) < 0)
		return;
	FUZZ_CLAIM(hello.channel < PROTO_CHANNELS_MAX);
	proto_hello_encode(&hello, again);
	FUZZ_CLAIM(proto_hello_decode(again, &hello) == 0);
}

static void try_frame(const uint8_t *data, size_t bytes)
{
	uint8_t in[PROTO_FRAME_BYTES] = { 0 };
	struct proto_frame frame;

	memcpy(in, data, bytes < sizeof(in) ? bytes : sizeof(in));
	if (proto_frame_decode(in, &frame) == 0)
		FUZZ_CLAIM(proto_type_name(frame.type)[0] != '\0');
}

static void claim_batch(const struct proto_batch *b)
{
	FUZZ_CLAIM(b->nr_runs <= PROTO_BATCH_PAGES_MAX);
	FUZZ_CLAIM(b->nr_sums <= PROTO_BATCH_PAGES_MAX);
	for (uint32_t i = 0; i < b->nr_runs; i++) {
		const struct proto_run *r = &b->runs[i];

		FUZZ_CLAIM(r->nr_pages > 0 && r->first_page < RAM_PAGES);
		FUZZ_CLAIM(r->nr_pages <= RAM_PAGES - r->first_page);
	}
}

/* Noise never has the right checksum: make it right, as a hostile peer would. */
static void fix_check(uint8_t *head, size_t bytes)
{
	uint64_t fixed = XXH3_64bits(head, PROTO_BATCH_BYTES - 8);

	proto_put64(head + PROTO_BATCH_BYTES - 8,
		    XXH3_64bits_withSeed(head + PROTO_BATCH_BYTES,
					 bytes - PROTO_BATCH_BYTES, fixed));
}

static void try_batch(const uint8_t *data, size_t bytes)
{
	static uint8_t head[PROTO_BATCH_HEAD_MAX];
	struct proto_batch b = { .type = PROTO_BATCH_ZERO, .nr_runs = 2 };
	size_t head_bytes, tail_bytes;

	b.runs[0] = (struct proto_run){ 1, 2 };
	b.runs[1] = (struct proto_run){ 100, RAM_PAGES - 100 };
	memset(head, 0, sizeof(head));
	proto_batch_encode(&b, head);
	fuzz_patch(head, sizeof(head), data, bytes);
	if (proto_batch_tail_bytes(head, &tail_bytes) < 0)
		return;
	FUZZ_CLAIM(tail_bytes <= PROTO_BATCH_TAIL_MAX);
	head_bytes = PROTO_BATCH_BYTES + tail_bytes;
	fix_check(head, head_bytes);
	if (proto_batch_decode(head, head_bytes, RAM_PAGES, &b) == 0)
		claim_batch(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0)
		return 0;
	switch (data[0] % 3) {
	case 0:
		try_hello(data + 1, bytes - 1);
		break;
	case 1:
		try_frame(data + 1, bytes - 1);
		break;
	default:
		try_batch(data + 1, bytes - 1);
	}
	return 0;
}
