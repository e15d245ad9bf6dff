/* migrate/image_manifest.c: manifest.json. */
#include "migrate/image_internal.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "migrate/say.h"

/*
 * The manifest vouches for the other files, and its own member "check" for it:
 * the hash of the rest, written compactly with sorted keys.
 */
static int add_check(json_t *root)
{
	char hash[IMAGE_HASH_CHARS];
	char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);

	if (!text)
		return -ENOMEM;
	image_hash(text, strlen(text), hash);
	free(text);
	return json_object_set_new(root, "check", json_string(hash)) < 0
		       ? -ENOMEM
		       : 0;
}

static bool check_matches(json_t *root)
{
	char want[IMAGE_HASH_CHARS] = "";
	const char *have = json_string_value(json_object_get(root, "check"));

	if (!have || strlen(have) != IMAGE_HASH_CHARS - 1)
		return false;
	strcpy(want, have);
	json_object_del(root, "check");
	if (add_check(root) < 0)
		return false;
	have = json_string_value(json_object_get(root, "check"));
	return have && strcmp(have, want) == 0;
}

static void now_text(char *buf, size_t bytes)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(buf, bytes, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* For people and other programs; what counts when reading is in state.pb. */
static json_t *make_layout(const struct mig_machine *m)
{
	uint64_t low = m->ram_bytes < VM_LOW_RAM_MAX ? m->ram_bytes
						     : VM_LOW_RAM_MAX;
	json_t *slots = json_pack("[{s:I, s:I, s:I}]", "gpa", (json_int_t)0,
				  "offset", (json_int_t)0, "bytes",
				  (json_int_t)low);

	if (m->ram_bytes > low)
		json_array_append_new(
			slots, json_pack("{s:I, s:I, s:I}", "gpa",
					 (json_int_t)VM_HIGH_RAM_GPA, "offset",
					 (json_int_t)low, "bytes",
					 (json_int_t)(m->ram_bytes - low)));
	return json_pack("{s:I, s:I, s:s, s:i, s:I, s:o}", "ram_bytes",
			 (json_int_t)m->ram_bytes, "page_bytes",
			 (json_int_t)VM_PAGE_BYTES, "backend",
			 vm_mem_backend_name(m->mem_backend), "nr_cpus",
			 (int)m->nr_cpus, "tsc_khz", (json_int_t)m->tsc_khz,
			 "slots", slots);
}

void image_disk_name(unsigned int index, char ret_name[IMAGE_DISK_NAME_CHARS])
{
	snprintf(ret_name, IMAGE_DISK_NAME_CHARS, "disk%u.raw", index);
}

static json_t *make_disks(const struct image_manifest *f)
{
	json_t *disks = json_array();
	char name[IMAGE_DISK_NAME_CHARS];

	for (size_t i = 0; i < f->nr_disks; i++) {
		image_disk_name(f->disks[i].index, name);
		json_array_append_new(disks,
				      json_pack("{s:i, s:s, s:I}", "disk",
						(int)f->disks[i].index, "file",
						name, "bytes",
						(json_int_t)f->disks[i].bytes));
	}
	return disks;
}

int image_manifest_write(const struct image_manifest *f,
			 const struct mig_machine *m, char **ret_text)
{
	char taken[32];
	json_t *root;
	char *text = NULL;

	now_text(taken, sizeof(taken));
	root = json_pack(
		"{s:i, s:s, s:s, s:n, s:o, s:{s:I, s:s}, s:{s:I}, s:{s:s}, "
		"s:o}",
		"format", MIG_IMAGE_FORMAT, "vmmd", VMMD_VERSION, "taken",
		taken, "parent", "layout", make_layout(m), IMAGE_STATE, "bytes",
		(json_int_t)f->state_bytes, "xxh3_128", f->state_hash,
		IMAGE_MEMORY, "data_pages", (json_int_t)f->data_pages,
		IMAGE_SUMS, "xxh3_128", f->sums_hash, "disks", make_disks(f));
	if (root && add_check(root) == 0)
		text = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	if (!text)
		return -ENOMEM;
	*ret_text = text;
	return 0;
}

static int take_hash(const char *text, char ret_hex[IMAGE_HASH_CHARS])
{
	if (strlen(text) != IMAGE_HASH_CHARS - 1)
		return -EBADMSG;
	strcpy(ret_hex, text);
	return 0;
}

static int take_manifest(json_t *root, struct image_manifest *f, char **err)
{
	json_int_t ram_bytes, data_pages, state_bytes;
	const char *state_hash, *sums_hash;
	json_error_t je;

	if (json_unpack_ex(root, &je, 0,
			   "{s:{s:I}, s:{s:I, s:s}, s:{s:I}, s:{s:s}}",
			   "layout", "ram_bytes", &ram_bytes, IMAGE_STATE,
			   "bytes", &state_bytes, "xxh3_128", &state_hash,
			   IMAGE_MEMORY, "data_pages", &data_pages, IMAGE_SUMS,
			   "xxh3_128", &sums_hash) < 0)
		return mig_say(err, -EBADMSG, IMAGE_MANIFEST ": %s", je.text);
	if (ram_bytes <= 0 || data_pages < 0 || state_bytes <= 0 ||
	    take_hash(state_hash, f->state_hash) < 0 ||
	    take_hash(sums_hash, f->sums_hash) < 0)
		return mig_say(err, -EBADMSG,
			       IMAGE_MANIFEST ": a value is out of range");
	f->ram_bytes = (uint64_t)ram_bytes;
	f->data_pages = (uint64_t)data_pages;
	f->state_bytes = (uint64_t)state_bytes;
	return 0;
}

/* The format comes before the check: a newer one may be checked otherwise. */
static int check_root(json_t *root, char **err)
{
	json_t *format = json_object_get(root, "format");
	json_t *parent = json_object_get(root, "parent");

	if (!json_is_integer(format))
		return mig_say(err, -EBADMSG,
			       IMAGE_MANIFEST ": no format number: not a "
					      "snapshot's");
	if (json_integer_value(format) != MIG_IMAGE_FORMAT)
		return mig_say(err, -EOPNOTSUPP,
			       "snapshot format %lld, this vmmd knows %d: use "
			       "a newer vmmd",
			       (long long)json_integer_value(format),
			       MIG_IMAGE_FORMAT);
	if (!check_matches(root))
		return mig_say(err, -EBADMSG,
			       IMAGE_MANIFEST ": damaged: its check does not "
					      "match");
	if (!json_is_null(parent))
		return mig_say(err, -EOPNOTSUPP,
			       "snapshot needs a parent, which this vmmd does "
			       "not know");
	return 0;
}

int image_manifest_parse(const char *text, size_t bytes,
			 struct image_manifest *ret_manifest, char **err)
{
	struct image_manifest f = { 0 };
	json_error_t je;
	json_t *root;
	int ret;

	root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &je);
	if (!root)
		return mig_say(err, -EBADMSG, IMAGE_MANIFEST ": line %d: %s",
			       je.line, je.text);
	ret = check_root(root, err);
	if (ret == 0)
		ret = take_manifest(root, &f, err);
	json_decref(root);
	if (ret == 0)
		*ret_manifest = f;
	return ret;
}
