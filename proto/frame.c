#include "proto/wire.h"

#include <errno.h>

#include "proto/le.h"

#define HELLO_MAGIC UINT64_C(0x0a0d646d6d760a0d) /* "\r\nvmmd\r\n" */
#define FRAME_MAGIC 0x4d43                       /* "CM" */

#define FRAME_REQUIRED 1u /* ends the session when it is not known */

/* The longest a message of each type may be: nobody makes us allocate more. */
static const struct {
	const char *name;
	uint32_t bytes_max;
} types[PROTO_NR_TYPES] = {
	[PROTO_SETUP] = { "SETUP", 256u << 10 },
	[PROTO_SETUP_REPLY] = { "SETUP_REPLY", 64u << 10 },
	[PROTO_PENDING] = { "PENDING", 64u << 10 },
	[PROTO_STATE] = { "STATE", 8u << 20 },
	[PROTO_READY] = { "READY", 4u << 10 },
	[PROTO_COMMIT] = { "COMMIT", 4u << 10 },
	[PROTO_RUNNING] = { "RUNNING", 4u << 10 },
	[PROTO_COMPLETE] = { "COMPLETE", 4u << 10 },
	[PROTO_BYE] = { "BYE", 4u << 10 },
	[PROTO_CANCEL] = { "CANCEL", 4u << 10 },
	[PROTO_PING] = { "PING", 4u << 10 },
	[PROTO_REJOIN_REPLY] = { "REJOIN_REPLY", 4u << 10 },
	[PROTO_URGENT] = { "URGENT", 4u << 10 },
	[PROTO_MARKED] = { "MARKED", 4u << 10 },
};

#define UNKNOWN_BYTES_MAX (1u << 20)

void proto_hello_encode(const struct proto_hello *h,
			uint8_t out[PROTO_HELLO_BYTES])
{
	uint8_t *p = out;

	p = proto_put64(p, HELLO_MAGIC);
	p = proto_put32(p, h->version);
	p = proto_put16(p, (uint16_t)h->role);
	p = proto_put16(p, h->channel);
	memcpy(p, h->session, PROTO_SESSION_BYTES);
	proto_put64(p + PROTO_SESSION_BYTES, 0);
}

int proto_hello_decode(const uint8_t in[PROTO_HELLO_BYTES],
		       struct proto_hello *ret_hello)
{
	const uint8_t *p = in;
	struct proto_hello h;
	bool numbered;
	uint16_t role;

	if (proto_get64(&p) != HELLO_MAGIC)
		return -EBADMSG;
	h.version = proto_get32(&p);
	role = proto_get16(&p);
	h.channel = proto_get16(&p);
	memcpy(h.session, p, PROTO_SESSION_BYTES);
	h.role = (enum proto_role)role;
	if (h.version != PROTO_VERSION) {
		*ret_hello = h;
		return -EPROTONOSUPPORT;
	}
	if (role < PROTO_ROLE_CONTROL || role > PROTO_ROLE_ABORT)
		return -EBADMSG;
	numbered = role == PROTO_ROLE_DATA || role == PROTO_ROLE_FAULT;
	if (h.channel >= (numbered ? PROTO_CHANNELS_MAX : 1))
		return -EBADMSG;
	*ret_hello = h;
	return 0;
}

const char *proto_type_name(unsigned int type)
{
	return type < PROTO_NR_TYPES && types[type].name ? types[type].name
							 : "?";
}

void proto_frame_encode(const struct proto_frame *f,
			uint8_t out[PROTO_FRAME_BYTES])
{
	uint8_t *p = out;

	p = proto_put16(p, FRAME_MAGIC);
	p = proto_put16(p, f->type);
	p = proto_put32(p, f->required ? FRAME_REQUIRED : 0);
	proto_put32(p, f->bytes);
}

int proto_frame_decode(const uint8_t in[PROTO_FRAME_BYTES],
		       struct proto_frame *ret_frame)
{
	const uint8_t *p = in;
	struct proto_frame f;
	bool known;

	if (proto_get16(&p) != FRAME_MAGIC)
		return -EBADMSG;
	f.type = proto_get16(&p);
	f.required = proto_get32(&p) & FRAME_REQUIRED;
	f.bytes = proto_get32(&p);
	known = f.type < PROTO_NR_TYPES && types[f.type].name;
	*ret_frame = f;
	if (!known && f.required)
		return -EOPNOTSUPP;
	if (f.bytes > (known ? types[f.type].bytes_max : UNKNOWN_BYTES_MAX))
		return -EMSGSIZE;
	return 0;
}
