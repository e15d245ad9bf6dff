#include "boot_fixture.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct machine *machine_of(struct vm *vm)
{
	return (struct machine *)vm;
}

int __wrap_vm_vcpu_get_entry(struct vm *vm, struct kvm_regs *ret_regs,
			     struct kvm_sregs *ret_sregs);
int __wrap_vm_vcpu_set_entry(struct vm *vm, const struct kvm_regs *regs,
			     const struct kvm_sregs *sregs);
int __wrap_vm_reset_cpus(struct vm *vm, char **err);

int __wrap_vm_vcpu_get_entry(struct vm *vm, struct kvm_regs *ret_regs,
			     struct kvm_sregs *ret_sregs)
{
	*ret_regs = machine_of(vm)->regs;
	*ret_sregs = machine_of(vm)->sregs;
	return 0;
}

int __wrap_vm_vcpu_set_entry(struct vm *vm, const struct kvm_regs *regs,
			     const struct kvm_sregs *sregs)
{
	machine_of(vm)->regs = *regs;
	machine_of(vm)->sregs = *sregs;
	machine_of(vm)->nr_entries++;
	return 0;
}

int __wrap_vm_reset_cpus(struct vm *vm, char **err)
{
	(void)err;
	memset(&machine_of(vm)->regs, 0, sizeof(struct kvm_regs));
	return 0;
}

void machine_init(struct machine *m, uint64_t ram_bytes)
{
	memset(m, 0, sizeof(*m));
	m->vm.nr_cpus = 3;
	assert_int_equal(vm_mem_new(ram_bytes, VM_MEM_ANON, &m->vm.mem), 0);
}

void machine_fini(struct machine *m)
{
	free(m->err);
	vm_mem_free(m->vm.mem);
}

int file_of(const void *data, size_t bytes)
{
	int fd = memfd_create("boot_test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
	return fd;
}

int boot_fds(struct machine *m, int kernel_fd, int initrd_fd,
	     const char *cmdline)
{
	const struct vm_boot boot = { kernel_fd, initrd_fd, cmdline };

	free(m->err);
	m->err = NULL;
	return vm_boot(&m->vm, &boot, &m->err);
}

int boot_image(struct machine *m, const struct image *image,
	       size_t initrd_bytes, const char *cmdline)
{
	int kernel_fd = file_of(image->data, image->bytes), initrd_fd = -1, ret;
	uint8_t *initrd;

	if (initrd_bytes > 0) {
		initrd = malloc(initrd_bytes);
		assert_non_null(initrd);
		memset(initrd, 0xa5, initrd_bytes);
		initrd_fd = file_of(initrd, initrd_bytes);
		free(initrd);
	}
	ret = boot_fds(m, kernel_fd, initrd_fd, cmdline);
	close(kernel_fd);
	if (initrd_fd >= 0)
		close(initrd_fd);
	return ret;
}

static void fill_code(struct image *im, size_t offset)
{
	for (size_t i = offset; i < im->bytes; i++)
		im->data[i] = (uint8_t)(i * 7 + 1);
}

Elf64_Ehdr *ehdr(struct image *im)
{
	return (Elf64_Ehdr *)im->data;
}

Elf64_Phdr *phdr(struct image *im, size_t i)
{
	return (Elf64_Phdr *)(im->data + sizeof(Elf64_Ehdr)) + i;
}

Elf64_Nhdr *note(struct image *im)
{
	return (Elf64_Nhdr *)(im->data + ELF_NOTE_OFFSET);
}

void put_pvh_note(struct image *im, uint64_t entry, uint32_t bytes)
{
	*note(im) = (Elf64_Nhdr){ 4, bytes, 18 };
	memcpy(note(im) + 1, "Xen", 4);
	memcpy((uint8_t *)(note(im) + 1) + 4, &entry, sizeof(entry));
}

void build_elf64(struct image *im)
{
	memset(im, 0, sizeof(*im));
	im->bytes = ELF_CODE_OFFSET + ELF_CODE_BYTES;
	fill_code(im, ELF_CODE_OFFSET);
	*ehdr(im) = (Elf64_Ehdr){
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB,
			     EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_entry = ELF_ENTRY,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 2,
	};
	*phdr(im, 0) = (Elf64_Phdr){
		.p_type = PT_LOAD,
		.p_offset = ELF_CODE_OFFSET,
		.p_vaddr = LINUX_MAP_VADDR + ELF_LOAD_GPA,
		.p_paddr = ELF_LOAD_GPA,
		.p_filesz = ELF_CODE_BYTES,
		.p_memsz = ELF_MEM_BYTES,
	};
	*phdr(im, 1) = (Elf64_Phdr){
		.p_type = PT_NOTE,
		.p_offset = ELF_NOTE_OFFSET,
		.p_filesz = sizeof(Elf64_Nhdr) + 8,
	};
	put_pvh_note(im, ELF_ENTRY, 4);
}

void build_vmlinux(struct image *im)
{
	build_elf64(im);
	note(im)->n_type = 1;
}

void build_elf32(struct image *im)
{
	Elf32_Ehdr *h = (Elf32_Ehdr *)im->data;
	Elf32_Phdr *p = (Elf32_Phdr *)(h + 1);

	build_elf64(im);
	memset(im->data, 0, ELF_NOTE_OFFSET);
	*h = (Elf32_Ehdr){
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB,
			     EV_CURRENT },
		.e_type = ET_EXEC,
		.e_machine = EM_386,
		.e_entry = ELF_ENTRY,
		.e_phoff = sizeof(Elf32_Ehdr),
		.e_phentsize = sizeof(Elf32_Phdr),
		.e_phnum = 2,
	};
	p[0] = (Elf32_Phdr){
		.p_type = PT_LOAD,
		.p_offset = ELF_CODE_OFFSET,
		.p_paddr = ELF_LOAD_GPA,
		.p_filesz = ELF_CODE_BYTES,
		.p_memsz = ELF_MEM_BYTES,
	};
	p[1] = (Elf32_Phdr){
		.p_type = PT_NOTE,
		.p_offset = ELF_NOTE_OFFSET,
		.p_filesz = sizeof(Elf32_Nhdr) + 8,
	};
}

struct setup_header *setup(struct image *im)
{
	return &((struct boot_params *)im->data)->hdr;
}

void build_bzimage(struct image *im)
{
	memset(im, 0, sizeof(*im));
	im->bytes = BZ_CODE_OFFSET + BZ_CODE_BYTES;
	fill_code(im, BZ_CODE_OFFSET);
	memset(im->data, 0x4d, 0x1f1); /* must not reach the zero page */
	*setup(im) = (struct setup_header){
		.setup_sects = 1,
		.syssize = BZ_CODE_BYTES / 16,
		.boot_flag = 0xaa55,
		.jump = 0x6aeb, /* jmp over the header, to 0x26c */
		.header = 0x53726448,
		.version = 0x020f,
		.loadflags = LOADED_HIGH,
		.initrd_addr_max = 0x7fffffff,
		.kernel_alignment = 0x200000,
		.relocatable_kernel = 1,
		.xloadflags = XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G,
		.cmdline_size = 2047,
		.pref_address = BZ_PREF_GPA,
		.init_size = BZ_INIT_BYTES,
	};
}

void read_ram(struct machine *m, uint64_t gpa, void *buf, size_t bytes)
{
	assert_int_equal(vm_mem_read(m->vm.mem, gpa, buf, bytes), 0);
}

void assert_ram(struct machine *m, uint64_t gpa, const void *want, size_t bytes)
{
	uint8_t *got = malloc(bytes);

	assert_non_null(got);
	read_ram(m, gpa, got, bytes);
	assert_memory_equal(got, want, bytes);
	free(got);
}

size_t resident_pages(struct machine *m)
{
	size_t pages = vm_mem_pages(m->vm.mem), n = 0;
	unsigned char *vec = malloc(pages);

	assert_non_null(vec);
	assert_int_equal(
		mincore(vm_mem_base(m->vm.mem), vm_mem_bytes(m->vm.mem), vec),
		0);
	for (size_t i = 0; i < pages; i++)
		n += vec[i] & 1;
	free(vec);
	return n;
}

void assert_refused(struct machine *m, int ret)
{
	assert_true(ret == -EINVAL || ret == -ENOEXEC || ret == -ENOSPC ||
		    ret == -E2BIG);
	assert_non_null(m->err);
	assert_null(strchr(m->err, '\n'));
	assert_int_equal(m->nr_entries, 0);
	assert_int_equal(resident_pages(m), 0);
}
