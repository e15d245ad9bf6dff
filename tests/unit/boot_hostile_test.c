/* Files that are no kernels, or bad ones: one clear line, and RAM untouched. */
#include "boot_fixture.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Every way to spoil a file: what it does, and what has to be said of it. */
static void no_phdrs(struct image *im)
{
	ehdr(im)->e_phnum = 0;
}

static void many_phdrs(struct image *im)
{
	ehdr(im)->e_phnum = PN_XNUM;
}

static void phdr_size(struct image *im)
{
	ehdr(im)->e_phentsize = 1;
}

static void phoff_wraps(struct image *im)
{
	ehdr(im)->e_phoff = UINT64_MAX - 8;
}

static void relocatable(struct image *im)
{
	ehdr(im)->e_type = ET_REL;
}

static void aarch64(struct image *im)
{
	ehdr(im)->e_machine = EM_AARCH64;
}

static void big_endian(struct image *im)
{
	ehdr(im)->e_ident[EI_DATA] = ELFDATA2MSB;
}

static void segment_offset_wraps(struct image *im)
{
	phdr(im, 0)->p_offset = UINT64_MAX - 0xfff;
}

static void segment_file_huge(struct image *im)
{
	phdr(im, 0)->p_filesz = phdr(im, 0)->p_memsz = UINT64_MAX;
}

static void segment_mem_huge(struct image *im)
{
	phdr(im, 0)->p_memsz = UINT64_MAX - ELF_LOAD_GPA + 1;
}

static void segment_mem_small(struct image *im)
{
	phdr(im, 0)->p_memsz = ELF_CODE_BYTES - 1;
}

static void segment_past_ram(struct image *im)
{
	phdr(im, 0)->p_paddr = SMALL_RAM - ELF_MEM_BYTES + 1;
}

static void segment_in_hole(struct image *im)
{
	phdr(im, 0)->p_paddr = 0xfee00000;
}

static void segment_on_boot_data(struct image *im)
{
	phdr(im, 0)->p_paddr = 0x8c000;
}

static void segment_on_acpi_tables(struct image *im)
{
	phdr(im, 0)->p_paddr = 0xe0000 - ELF_MEM_BYTES + 1;
}

static void segments_overlap(struct image *im)
{
	*phdr(im, 2) = *phdr(im, 0);
	phdr(im, 2)->p_paddr += ELF_MEM_BYTES - 1;
	ehdr(im)->e_phnum = 3;
}

static void nothing_to_load(struct image *im)
{
	phdr(im, 0)->p_type = PT_NULL;
}

static void note_past_end(struct image *im)
{
	phdr(im, 1)->p_offset = im->bytes - 4;
}

static void note_huge(struct image *im)
{
	phdr(im, 1)->p_filesz = UINT64_MAX;
}

static void note_name_overflows(struct image *im)
{
	note(im)->n_namesz = UINT32_MAX;
}

static void note_desc_overflows(struct image *im)
{
	note(im)->n_descsz = UINT32_MAX - 2;
}

static void note_desc_odd(struct image *im)
{
	note(im)->n_descsz = 2;
}

static void pvh_entry_outside(struct image *im)
{
	put_pvh_note(im, ELF_LOAD_GPA + ELF_MEM_BYTES, 4);
}

static void ordinary_program(struct image *im)
{
	note(im)->n_type = 1;
	phdr(im, 0)->p_vaddr = 0x400000;
	ehdr(im)->e_entry = 0x400040;
}

static void elf32_without_note(struct image *im)
{
	build_elf32(im);
	note(im)->n_type = 1;
}

static void bz_boot_flag(struct image *im)
{
	build_bzimage(im);
	setup(im)->boot_flag = 0;
}

static void bz_zimage(struct image *im)
{
	build_bzimage(im);
	setup(im)->loadflags = 0;
}

static void bz_old(struct image *im)
{
	build_bzimage(im);
	setup(im)->version = 0x020a;
}

static void bz_32bit(struct image *im)
{
	build_bzimage(im);
	setup(im)->xloadflags = 0;
}

static void bz_header_short(struct image *im)
{
	build_bzimage(im);
	setup(im)->jump = 0x10eb;
}

static void bz_cut(struct image *im)
{
	build_bzimage(im);
	im->bytes--;
}

static void bz_syssize_huge(struct image *im)
{
	build_bzimage(im);
	setup(im)->syssize = UINT32_MAX;
}

static void bz_syssize_zero(struct image *im)
{
	build_bzimage(im);
	setup(im)->syssize = 0;
}

static void bz_sects_huge(struct image *im)
{
	build_bzimage(im);
	setup(im)->setup_sects = 255;
}

static void bz_init_small(struct image *im)
{
	build_bzimage(im);
	setup(im)->init_size = BZ_CODE_BYTES - 1;
}

static void bz_init_huge(struct image *im)
{
	build_bzimage(im);
	setup(im)->init_size = UINT32_MAX;
}

static void bz_pref_wraps(struct image *im)
{
	build_bzimage(im);
	setup(im)->pref_address = UINT64_MAX - 0xfff;
}

static void bz_pref_low(struct image *im)
{
	build_bzimage(im);
	setup(im)->pref_address = 0x90000;
}

static void start_with(struct image *im, const char *magic, size_t bytes)
{
	memset(im->data, 0, HEADERS_BYTES);
	memcpy(im->data, magic, bytes);
}

static void gzip(struct image *im)
{
	start_with(im, "\x1f\x8b\x08", 3);
}

static void zstd(struct image *im)
{
	start_with(im, "\x28\xb5\x2f\xfd", 4);
}

static void efi_program(struct image *im)
{
	start_with(im, "MZ", 2);
}

static void arm64_image(struct image *im)
{
	static const char head[] = {
		[0] = 'M',    [1] = 'Z',    [0x38] = 'A',
		[0x39] = 'R', [0x3a] = 'M', [0x3b] = 0x64
	};

	start_with(im, head, sizeof(head));
}

static void text(struct image *im)
{
	memset(im->data, 'a', im->bytes);
}

static void two_bytes(struct image *im)
{
	im->bytes = 2;
}

static void elf_magic_only(struct image *im)
{
	im->bytes = 4;
}

static const struct hostile {
	void (*spoil)(struct image *im); /* starts from a good ELF64 */
	int ret;
	const char *says;
} hostiles[] = {
	{ no_phdrs, -EINVAL, "0 program headers" },
	{ many_phdrs, -EINVAL, "65535 program headers" },
	{ phdr_size, -EINVAL, "program headers of 1 bytes" },
	{ phoff_wraps, -EINVAL, "beyond the end" },
	{ relocatable, -ENOEXEC, "not an executable" },
	{ aarch64, -ENOEXEC, "arm64" },
	{ big_endian, -ENOEXEC, "little-endian" },
	{ segment_offset_wraps, -EINVAL, "beyond the end" },
	{ segment_file_huge, -EINVAL, "beyond the end" },
	{ segment_mem_huge, -ENOSPC, "not within guest memory" },
	{ segment_mem_small, -EINVAL, "file size over" },
	{ segment_past_ram, -ENOSPC, "not within guest memory" },
	{ segment_in_hole, -ENOSPC, "not within guest memory" },
	{ segment_on_boot_data, -EINVAL, "boot data" },
	{ segment_on_acpi_tables, -EINVAL, "boot data" },
	{ segments_overlap, -EINVAL, "overlap" },
	{ nothing_to_load, -EINVAL, "nothing to load" },
	{ note_past_end, -EINVAL, "beyond the end" },
	{ note_huge, -EINVAL, "beyond the end" },
	{ note_name_overflows, -EINVAL, "note" },
	{ note_desc_overflows, -EINVAL, "note" },
	{ note_desc_odd, -EINVAL, "PVH note" },
	{ pvh_entry_outside, -EINVAL, "ELF's entry" },
	{ ordinary_program, -ENOEXEC, "not a Linux vmlinux" },
	{ elf32_without_note, -ENOEXEC, "32-bit ELF" },
	{ bz_boot_flag, -EINVAL, "boot flag" },
	{ bz_zimage, -ENOEXEC, "zImage" },
	{ bz_old, -ENOEXEC, "protocol 2.10" },
	{ bz_32bit, -ENOEXEC, "32-bit bzImage" },
	{ bz_header_short, -EINVAL, "setup header" },
	{ bz_cut, -EINVAL, "cut off" },
	{ bz_syssize_huge, -EINVAL, "cut off" },
	{ bz_syssize_zero, -EINVAL, "damaged bzImage" },
	{ bz_sects_huge, -EINVAL, "cut off" },
	{ bz_init_small, -EINVAL, "damaged bzImage" },
	{ bz_init_huge, -ENOSPC, "give the guest more" },
	{ bz_pref_wraps, -ENOSPC, "give the guest more" },
	{ bz_pref_low, -EINVAL, "damaged bzImage" },
	{ gzip, -ENOEXEC, "gunzip" },
	{ zstd, -ENOEXEC, "unzstd" },
	{ efi_program, -ENOEXEC, "EFI" },
	{ arm64_image, -ENOEXEC, "arm64" },
	{ text, -ENOEXEC, "bzImage" },
	{ two_bytes, -ENOEXEC, "bzImage" },
	{ elf_magic_only, -EINVAL, "cut off" },
};

static void test_hostile_files_are_refused(void **state)
{
	struct image im;
	struct machine m;
	int ret;

	(void)state;
	machine_init(&m, SMALL_RAM);
	for (size_t i = 0; i < sizeof(hostiles) / sizeof(hostiles[0]); i++) {
		build_elf64(&im);
		hostiles[i].spoil(&im);
		ret = boot_image(&m, &im, 0, "");
		if (ret != hostiles[i].ret || !strstr(m.err, hostiles[i].says))
			fail_msg("case %zu: %d, \"%s\"; not %d, \"%s\"", i, ret,
				 m.err, hostiles[i].ret, hostiles[i].says);
		assert_refused(&m, ret);
	}
	machine_fini(&m);
}

static void test_files_that_are_none(void **state)
{
	struct machine m;
	struct image im;
	int good, empty = file_of("", 0), null, dir, pipes[2];

	(void)state;
	build_elf64(&im);
	good = file_of(im.data, im.bytes);
	null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(pipe(pipes), 0);
	machine_init(&m, SMALL_RAM);
	assert_refused(&m, boot_fds(&m, empty, -1, ""));
	assert_refused(&m, boot_fds(&m, null, -1, ""));
	assert_refused(&m, boot_fds(&m, dir, -1, ""));
	assert_refused(&m, boot_fds(&m, pipes[0], -1, ""));
	assert_refused(&m, boot_fds(&m, good, empty, ""));
	assert_refused(&m, boot_fds(&m, good, dir, ""));
	assert_int_equal(boot_fds(&m, 9999, -1, ""), -EBADF);
	assert_non_null(m.err);
	machine_fini(&m);
	close(good);
	close(empty);
	close(null);
	close(dir);
	close(pipes[0]);
	close(pipes[1]);
}

/* Boots a spoiled image: it may work or not, but only within RAM. */
static void boot_anyhow(struct machine *m, const struct image *im)
{
	int ret = boot_image(m, im, 0, "x");

	if (ret < 0) {
		assert_refused(m, ret);
		return;
	}
	assert_true(m->regs.rip < SMALL_RAM);
	assert_true(resident_pages(m) > 0);
	m->nr_entries = 0;
	assert_int_equal(vm_mem_discard(m->vm.mem, 0, SMALL_RAM), 0);
}

static void (*const builders[])(struct image *im) = { build_elf64, build_elf32,
						      build_vmlinux,
						      build_bzimage };
#define NR_BUILDERS (sizeof(builders) / sizeof(builders[0]))

static void test_truncated_anywhere(void **state)
{
	struct image im;
	struct machine m;
	size_t bytes;

	(void)state;
	machine_init(&m, SMALL_RAM);
	for (size_t b = 0; b < NR_BUILDERS; b++) {
		for (bytes = 8; bytes < IMAGE_BYTES;
		     bytes += bytes < HEADERS_BYTES ? 8 : 0x100) {
			builders[b](&im);
			im.bytes = bytes;
			assert_refused(&m, boot_image(&m, &im, 0, ""));
		}
	}
	machine_fini(&m);
}

static void test_flipped_bits(void **state)
{
	unsigned int seed = 20260101;
	struct image im;
	struct machine m;
	size_t n;

	(void)state;
	machine_init(&m, SMALL_RAM);
	for (size_t i = 0; i < 1000; i++) {
		builders[i % NR_BUILDERS](&im);
		for (n = 1 + (size_t)rand_r(&seed) % 3; n > 0; n--)
			im.data[(size_t)rand_r(&seed) % HEADERS_BYTES] ^=
				(uint8_t)(1u << rand_r(&seed) % 8);
		boot_anyhow(&m, &im);
	}
	machine_fini(&m);
}

static void test_random_bytes(void **state)
{
	unsigned int seed = 1;
	struct image im;
	struct machine m;

	(void)state;
	machine_init(&m, SMALL_RAM);
	for (size_t i = 0; i < 200; i++) {
		builders[i % NR_BUILDERS](&im);
		/* Behind the magic, so that the parsers get to see it. */
		for (size_t j = i % 2 ? 16 : 0; j < im.bytes; j++)
			im.data[j] = (uint8_t)rand_r(&seed);
		boot_anyhow(&m, &im);
	}
	machine_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile_files_are_refused),
		cmocka_unit_test(test_files_that_are_none),
		cmocka_unit_test(test_truncated_anywhere),
		cmocka_unit_test(test_flipped_bits),
		cmocka_unit_test(test_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
