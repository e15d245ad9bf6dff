/*
 * Kernel files. The machine has no KVM: what vm_boot() would tell a vCPU is
 * caught by the linker's --wrap, as in tests/unit/boot_test.
 */
#include "fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/boot_fixture.h"

static void build(unsigned int which, struct image *im)
{
	static void (*const builders[])(struct image *) = {
		build_elf64, build_elf32, build_vmlinux, build_bzimage
	};

	builders[which % 4](im);
}

/* A bad kernel is refused with a sentence before anything was written. */
static void try_kernel(const void *data, size_t bytes)
{
	struct machine m = { .vm.nr_cpus = 1 };
	int fd = memfd_create("kernel", MFD_CLOEXEC), ret;

	FUZZ_CLAIM(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
	FUZZ_CLAIM(vm_mem_new(SMALL_RAM, VM_MEM_ANON, &m.vm.mem) == 0);
	ret = boot_fds(&m, fd, -1, "console=ttyS0");
	FUZZ_CLAIM(ret == 0 || (ret < 0 && m.err && !strchr(m.err, '\n')));
	FUZZ_CLAIM(ret == 0 || (m.nr_entries == 0 && resident_pages(&m) == 0));
	machine_fini(&m);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct image im;

	if (bytes == 0 || bytes > IMAGE_BYTES)
		return 0;
	if (data[0] % 8 == 0) {
		try_kernel(data + 1, bytes - 1);
		return 0;
	}
	build(data[0], &im);
	fuzz_patch(im.data, im.bytes, data + 1, bytes - 1);
	try_kernel(im.data, im.bytes);
	return 0;
}
