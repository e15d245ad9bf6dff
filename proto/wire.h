/*
 * proto/wire.h: the whole wire format but the protobuf messages themselves.
 *
 * A session is several TCP connections. Each opens with a hello that says which
 * session it belongs to and what it is for:
 *
 *	control	frames: a fixed header, then one protobuf message
 *	data	batches: a fixed header, a run list, page sums, raw pages
 *	fault	batches too: requests one way, the pages asked for the other
 *
 * Everything is little-endian. Encoders write into the caller's buffer; decoders
 * believe nothing: what they return has been checked against every bound here.
 *
 * Threads: pure functions, any thread. Errors: -errno, -EBADMSG for garbage.
 */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROTO_VERSION    1
#define PROTO_PAGE_BYTES 4096

/* ---- hello: the first bytes of every connection, from whoever connects ---- */

#define PROTO_HELLO_BYTES   40
#define PROTO_SESSION_BYTES 16
#define PROTO_CHANNELS_MAX  16

enum proto_role {
	PROTO_ROLE_CONTROL = 1, /* opens a session */
	PROTO_ROLE_DATA,        /* channel 0 .. channels-1 */
	PROTO_ROLE_FAULT,       /* channel 0 .. as many as were agreed */
	PROTO_ROLE_REJOIN,      /* control connection of a session that broke */
	PROTO_ROLE_ABORT        /* the source gave up before the token */
};

struct proto_hello {
	uint32_t version; /* PROTO_VERSION of the sender */
	enum proto_role role;
	uint16_t channel; /* PROTO_ROLE_DATA and _FAULT only, else 0 */
	uint8_t session[PROTO_SESSION_BYTES];
};

void proto_hello_encode(const struct proto_hello *h,
			uint8_t out[PROTO_HELLO_BYTES]);
/* -EPROTONOSUPPORT: vmmd, but another version (then *ret_hello is set). */
int proto_hello_decode(const uint8_t in[PROTO_HELLO_BYTES],
		       struct proto_hello *ret_hello);

/* ---- control frames ---- */

#define PROTO_FRAME_BYTES 12

/* Each is one message of control.proto; the number is for ever. */
enum proto_type {
	PROTO_SETUP = 1,    /* s->d */
	PROTO_SETUP_REPLY,  /* d->s */
	PROTO_PENDING,      /* s->d before the token, d->s after a rejoin */
	PROTO_STATE,        /* s->d */
	PROTO_READY,        /* d->s */
	PROTO_COMMIT,       /* s->d: the run token */
	PROTO_RUNNING,      /* d->s */
	PROTO_COMPLETE,     /* d->s: I have every page */
	PROTO_BYE,          /* s->d: then we are done with each other */
	PROTO_CANCEL,       /* either way, before the token */
	PROTO_PING,         /* either way */
	PROTO_REJOIN_REPLY, /* d->s */
	PROTO_URGENT,       /* s->d before STATE; may go unheeded */
	PROTO_MARKED,       /* d->s: all marks were read, and RAM is there */
	PROTO_NR_TYPES
};

struct proto_frame {
	uint16_t type; /* may be unknown when not required */
	bool required;
	uint32_t bytes; /* of the message that follows; bounded by its type */
};

/* Name for people; "?" for an unknown type. */
const char *proto_type_name(unsigned int type);
void proto_frame_encode(const struct proto_frame *f,
			uint8_t out[PROTO_FRAME_BYTES]);
/*
 * -EBADMSG: no frame; -EMSGSIZE: longer than its type may be; -EOPNOTSUPP: a
 * type this version does not know but must (*ret_frame is set for the message).
 * An unknown optional type is returned: skip its bytes.
 */
int proto_frame_decode(const uint8_t in[PROTO_FRAME_BYTES],
		       struct proto_frame *ret_frame);

/* ---- page batches ---- */

#define PROTO_BATCH_PAGES_MAX 256
#define PROTO_AHEAD_PAGES_MAX 512 /* a huge page of x86-64 */
#define PROTO_BATCH_BYTES     48
#define PROTO_RUN_BYTES       16
#define PROTO_SUM_BYTES       8
#define PROTO_BATCH_TAIL_MAX                                                   \
	(PROTO_BATCH_PAGES_MAX * (PROTO_RUN_BYTES + PROTO_SUM_BYTES))
#define PROTO_BATCH_HEAD_MAX (PROTO_BATCH_BYTES + PROTO_BATCH_TAIL_MAX)

enum proto_batch_type {
	PROTO_BATCH_DATA = 1, /* pages follow, in run order */
	PROTO_BATCH_ZERO,     /* runs of zero pages; no sums, no data */
	PROTO_BATCH_BARRIER,  /* no runs: all before seq has been sent */
	PROTO_BATCH_WANT,     /* fault channel, d->s: please send these now */
	PROTO_BATCH_AHEAD, /* precopy: most likely data for these comes next */
	PROTO_BATCH_MARK   /* precopy, no runs: read, and then to be MARKED */
};

/* Pages from the start of RAM. Zero runs may be long: see the decoder. */
struct proto_run {
	uint64_t first_page;
	uint64_t nr_pages;
};

struct proto_batch {
	enum proto_batch_type type;
	uint64_t seq;     /* barriers, marks: which */
	uint32_t nr_runs; /* 0..PROTO_BATCH_PAGES_MAX */
	uint32_t nr_sums; /* DATA: pages in the runs, else 0 */
	struct proto_run runs[PROTO_BATCH_PAGES_MAX];
	uint64_t sums[PROTO_BATCH_PAGES_MAX]; /* proto_page_sum() of each */
};

/* Header, runs and sums into out; returns how many bytes. */
size_t proto_batch_encode(const struct proto_batch *b,
			  uint8_t out[PROTO_BATCH_HEAD_MAX]);
/* How many bytes of runs and sums follow this header. */
int proto_batch_tail_bytes(const uint8_t header[PROTO_BATCH_BYTES],
			   size_t *ret_bytes);
/*
 * head: header and tail in one piece. Checks the checksum, that every run is
 * inside ram_pages, and that a DATA batch's runs add up to its sums.
 */
int proto_batch_decode(const uint8_t *head, size_t head_bytes,
		       uint64_t ram_pages, struct proto_batch *ret_batch);

/*
 * XXH3-64 of a page seeded with its index: a page that arrives in another's
 * place is as wrong as one with a flipped bit.
 */
uint64_t proto_page_sum(uint64_t page, const void *data);
/* All PROTO_PAGE_BYTES zero? */
bool proto_page_is_zero(const void *data);

#endif
