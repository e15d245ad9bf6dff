/* manifest.json of a snapshot. */
#include "fuzz.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/image_internal.h"

static void try_text(const char *text, size_t bytes)
{
	struct image_manifest m;
	char *err = NULL;

	if (image_manifest_parse(text, bytes, &m, &err) == 0) {
		FUZZ_CLAIM(m.ram_bytes > 0 && m.state_bytes > 0);
		FUZZ_CLAIM(strlen(m.state_hash) == IMAGE_HASH_CHARS - 1);
		FUZZ_CLAIM(strlen(m.sums_hash) == IMAGE_HASH_CHARS - 1);
	} else {
		FUZZ_CLAIM(err && err[0] != '\0');
	}
	free(err);
}

/* With the check that a forger would put there. */
static void try_forged(const char *text, size_t bytes)
{
	json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
	char hash[IMAGE_HASH_CHARS];
	char *plain;

	if (!json_is_object(root)) {
		json_decref(root);
		return;
	}
	json_object_del(root, "check");
	plain = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
	FUZZ_CLAIM(plain);
	image_hash(plain, strlen(plain), hash);
	free(plain);
	json_object_set_new(root, "check", json_string(hash));
	plain = json_dumps(root, 0);
	FUZZ_CLAIM(plain);
	try_text(plain, strlen(plain));
	free(plain);
	json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static const struct mig_machine machine = {
		.ram_bytes = VM_RAM_BYTES_MIN,
		.nr_cpus = 1,
	};
	static const struct image_manifest sample = {
		.ram_bytes = VM_RAM_BYTES_MIN,
		.state_bytes = 1,
		.state_hash = "0123456789abcdef0123456789abcdef",
		.sums_hash = "0123456789abcdef0123456789abcdef",
	};
	char *text;

	if (bytes == 0)
		return 0;
	if (data[0] % 2 == 0) {
		try_text((const char *)data + 1, bytes - 1);
		try_forged((const char *)data + 1, bytes - 1);
		return 0;
	}
	FUZZ_CLAIM(image_manifest_write(&sample, &machine, &text) == 0);
	fuzz_patch((uint8_t *)text, strlen(text), data + 1, bytes - 1);
	try_forged(text, strlen(text));
	free(text);
	return 0;
}
