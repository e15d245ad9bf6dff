#include "cli/device_args.h"

#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "cli/args.h"

#define PIECES_MAX   3
#define CID_MIN      3 /* the guest's own: vsock(7) */
#define CID_MAX      (UINT32_MAX - 1)
#define VSOCK_SUFFIX 11 /* "_4294967295": see struct vm_vsock_config */

/* A key and where its value goes; a word without one has NULL there. */
struct piece {
	const char *key;
	bool is_word;
	bool given;
	char *value; /* owned */
};

/* Up to the next single comma, with doubled ones made one. */
static char *take_piece(const char **at)
{
	char *piece = malloc(strlen(*at) + 1), *out = piece;
	const char *in = *at;

	if (!piece)
		return NULL;
	for (; *in; in++) {
		if (in[0] == ',' && in[1] != ',')
			break;
		if (in[0] == ',')
			in++;
		*out++ = *in;
	}
	*out = '\0';
	*at = in;
	return piece;
}

static int store_piece(char *text, struct piece *pieces, size_t nr)
{
	size_t i, key_bytes = strcspn(text, "=");
	const char *value = text[key_bytes] ? text + key_bytes + 1 : NULL;

	for (i = 0; i < nr; i++) {
		struct piece *p = &pieces[i];

		if (strlen(p->key) != key_bytes ||
		    strncmp(p->key, text, key_bytes) != 0)
			continue;
		if (p->given || p->is_word != !value ||
		    (value && value[0] == '\0'))
			return -EINVAL;
		p->given = true;
		p->value = value ? strdup(value) : NULL;
		return value && !p->value ? -ENOMEM : 0;
	}
	return -EINVAL;
}

static void free_pieces(struct piece *pieces, size_t nr)
{
	while (nr > 0)
		free(pieces[--nr].value);
}

/* The first of pieces has to be there. */
static int split(const char *text, struct piece *pieces, size_t nr)
{
	const char *at = text;
	char *piece;
	int ret;

	do {
		piece = take_piece(&at);
		ret = piece ? store_piece(piece, pieces, nr) : -ENOMEM;
		free(piece);
	} while (ret == 0 && *at++ == ',');
	return ret == 0 && !pieces[0].given ? -EINVAL : ret;
}

int cli_parse_disk(const char *text, struct vm_disk_config *ret_disk)
{
	struct piece pieces[PIECES_MAX] = { { .key = "path" },
					    { .key = "ro", .is_word = true },
					    { .key = "direct",
					      .is_word = true } };
	struct vm_disk_config disk = { 0 };
	int ret = split(text, pieces, PIECES_MAX);

	if (ret == 0) {
		disk.path = cli_guest_path(pieces[0].value, PATH_MAX);
		disk.read_only = pieces[1].given;
		disk.direct = pieces[2].given;
		ret = disk.path ? 0 : -EINVAL;
	}
	free_pieces(pieces, PIECES_MAX);
	if (ret == 0)
		*ret_disk = disk;
	return ret;
}

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, c | 0x20) : NULL;

	return at ? (int)(at - digits) : -EINVAL;
}

static int parse_mac(const char *text, uint8_t ret_mac[6])
{
	uint8_t mac[6];
	size_t i;

	if (strlen(text) != sizeof(mac) * 3 - 1)
		return -EINVAL;
	for (i = 0; i < sizeof(mac); i++, text += 3) {
		int high = hex_digit(text[0]), low = hex_digit(text[1]);

		if (high < 0 || low < 0 || (text[2] != ':' && text[2] != '\0'))
			return -EINVAL;
		mac[i] = (uint8_t)(high << 4 | low);
	}
	/* The lowest bit says a group; all zeros says nobody. */
	if ((mac[0] & 1) || !memcmp(mac, (uint8_t[6]){ 0 }, sizeof(mac)))
		return -EINVAL;
	memcpy(ret_mac, mac, sizeof(mac));
	return 0;
}

static bool tap_ok(const char *tap)
{
	return strlen(tap) < IF_NAMESIZE && cli_name_ok(tap);
}

int cli_parse_net(const char *text, struct vm_net_config *ret_net)
{
	struct piece pieces[2] = { { .key = "tap" }, { .key = "mac" } };
	struct vm_net_config net = { 0 };
	int ret = split(text, pieces, 2);

	if (ret == 0 && !tap_ok(pieces[0].value))
		ret = -EINVAL;
	if (ret == 0 && pieces[1].given)
		ret = parse_mac(pieces[1].value, net.mac);
	if (ret == 0) {
		net.tap = pieces[0].value;
		pieces[0].value = NULL; /* the caller's now */
		*ret_net = net;
	}
	free_pieces(pieces, 2);
	return ret;
}

int cli_parse_vsock(const char *text, struct vm_vsock_config *ret_vsock)
{
	const size_t bytes_max = sizeof(((struct sockaddr_un *)0)->sun_path) -
				 VSOCK_SUFFIX;
	struct piece pieces[2] = { { .key = "path" }, { .key = "cid" } };
	struct vm_vsock_config vsock = { 0 };
	uint64_t cid = 0;
	int ret = split(text, pieces, 2);

	if (ret == 0 && pieces[1].given)
		ret = cli_parse_u64(pieces[1].value, CID_MIN, CID_MAX, &cid);
	if (ret == 0) {
		vsock.cid = (uint32_t)cid;
		vsock.path = cli_guest_path(pieces[0].value, bytes_max);
		ret = vsock.path ? 0 : -EINVAL;
	}
	free_pieces(pieces, 2);
	if (ret == 0)
		*ret_vsock = vsock;
	return ret;
}
