/* vmm/vm.c: building a machine and taking it apart. */
#include "vmm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cpuid.h"
#include "vmm/dirty.h"
#include "vmm/vm_internal.h"

/*
 * Four pages for KVM's own use on Intel hosts that cannot run real mode by
 * themselves, inside the hole below 4 GiB and below the firmware's place
 * (Linux Documentation/virt/kvm/api.rst 4.35 and 4.41).
 */
#define IDENTITY_MAP_GPA UINT64_C(0xfffbc000)
#define TSS_GPA          0xfffbd000

static int check_config(const struct vm_config *cfg, int kvm_fd, char **err)
{
	int cpus_max = vm_kvm_cap(kvm_fd, KVM_CAP_MAX_VCPUS);
	struct vm_dirty_caps caps;
	uint32_t ring = cfg->dirty_ring_entries;

	if (cpus_max > VM_CPUS_MAX)
		cpus_max = VM_CPUS_MAX;
	if (cfg->nr_cpus < 1 || cfg->nr_cpus > (unsigned int)cpus_max)
		return vm_err(err, -EINVAL,
			      "%u vCPUs; this host allows 1 to %d",
			      cfg->nr_cpus, cpus_max);
	if (cfg->nr_cpuid > VM_CPUID_MAX)
		return vm_err(err, -EINVAL, "%zu CPUID entries; at most %d",
			      cfg->nr_cpuid, VM_CPUID_MAX);
	vm_dirty_caps(kvm_fd, &caps);
	if (ring == 0)
		return 0;
	if (caps.ring_entries_max == 0)
		return vm_err(err, -ENOTSUP,
			      "this kernel has no dirty ring "
			      "(KVM_CAP_DIRTY_LOG_RING, Linux 5.11)");
	if (ring & (ring - 1) || ring > caps.ring_entries_max)
		return vm_err(err, -EINVAL,
			      "dirty ring of %u entries; a power of two up to "
			      "%u is wanted",
			      ring, caps.ring_entries_max);
	return 0;
}

static int create_vm(struct vm *vm, char **err)
{
	uint64_t identity = IDENTITY_MAP_GPA;
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	const char *step = "KVM_CREATE_VM";
	int ret;

	do {
		vm->fd = vm_ioctl_num(vm->kvm_fd, KVM_CREATE_VM, 0);
	} while (vm->fd == -EINTR);
	ret = vm->fd < 0 ? vm->fd : 0;
	if (ret == 0) {
		step = "KVM_CREATE_IRQCHIP";
		ret = vm_ioctl_num(vm->fd, KVM_CREATE_IRQCHIP, 0);
	}
	if (ret == 0) {
		step = "KVM_SET_TSS_ADDR";
		ret = vm_ioctl_num(vm->fd, KVM_SET_TSS_ADDR, TSS_GPA);
	}
	if (ret == 0) {
		step = "KVM_SET_IDENTITY_MAP_ADDR";
		ret = vm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	}
	if (ret == 0) {
		step = "KVM_CREATE_PIT2";
		ret = vm_ioctl(vm->fd, KVM_CREATE_PIT2, &pit);
	}
	if (ret < 0)
		return vm_err(err, ret, "%s: %s", step, strerror(-ret));
	return 0;
}

static int ram_error(const struct vm_config *cfg, int ret, char **err)
{
	bool huge = cfg->mem_backend == VM_MEM_HUGETLB;

	if (ret == -EINVAL)
		return vm_err(err, ret,
			      "%llu bytes of RAM; a multiple of %s from 2 MiB "
			      "to 512 GiB is wanted",
			      (unsigned long long)cfg->ram_bytes,
			      huge ? "2 MiB" : "4 KiB");
	if (huge)
		return vm_err(err, ret,
			      "not enough free huge pages for this guest (%s): "
			      "echo %llu > /proc/sys/vm/nr_hugepages",
			      strerror(-ret),
			      (unsigned long long)(cfg->ram_bytes >> 21));
	return vm_err(err, ret, "mapping %llu bytes of RAM: %s",
		      (unsigned long long)cfg->ram_bytes, strerror(-ret));
}

int vm_add_ram(struct vm *vm, char **err)
{
	int ret = vm_dirty_set_slots(vm, 0);

	return ret < 0 ? vm_err(err, ret, "KVM_SET_USER_MEMORY_REGION: %s",
				strerror(-ret))
		       : 0;
}

static int set_up_memory(struct vm *vm, const struct vm_config *cfg, char **err)
{
	int ret = vm_mem_new(cfg->ram_bytes, cfg->mem_backend, &vm->mem);

	if (ret < 0)
		return ram_error(cfg, ret, err);
	ret = cfg->ram_later ? 0 : vm_add_ram(vm, err);
	if (ret < 0)
		return ret;
	vm->ring_entries = cfg->dirty_ring_entries;
	ret = vm_dirty_ring_init(vm);
	if (ret < 0)
		return vm_err(err, ret, "KVM_CAP_DIRTY_LOG_RING: %s",
			      strerror(-ret));
	return 0;
}

static int set_up_cpuid(struct vm *vm, const struct vm_config *cfg, char **err)
{
	int ret;

	if (cfg->cpuid) {
		vm->cpuid = calloc(VM_CPUID_MAX, sizeof(*vm->cpuid));
		if (!vm->cpuid)
			return vm_err(err, -ENOMEM, "out of memory");
		memcpy(vm->cpuid, cfg->cpuid,
		       cfg->nr_cpuid * sizeof(*vm->cpuid));
		vm->nr_cpuid = cfg->nr_cpuid;
		return 0;
	}
	ret = vm_cpuid_supported(vm->kvm_fd, &vm->cpuid, &vm->nr_cpuid);
	if (ret < 0)
		return vm_err(err, ret, "KVM_GET_SUPPORTED_CPUID: %s",
			      strerror(-ret));
	ret = vm_cpuid_shape(vm->cpuid, &vm->nr_cpuid, VM_CPUID_MAX,
			     vm->nr_cpus);
	if (ret < 0)
		return vm_err(err, ret, "CPUID: too many leaves");
	return 0;
}

/* What all vCPUs share, before the first of them. */
static int set_up_cpu_facts(struct vm *vm, const struct vm_config *cfg,
			    char **err)
{
	int xsave = vm_kvm_cap(vm->fd, KVM_CAP_XSAVE2);
	int ret;

	vm->xsave_bytes = sizeof(struct kvm_xsave);
	if (xsave > (int)vm->xsave_bytes)
		vm->xsave_bytes = (uint32_t)xsave;
	if (vm->xsave_bytes > VM_XSAVE_BYTES_MAX)
		return vm_err(err, -ENOTSUP, "XSAVE area of %u bytes",
			      vm->xsave_bytes);
	vm->has_sregs2 = vm_kvm_cap(vm->fd, KVM_CAP_SREGS2);
	vm->tsc_khz = cfg->tsc_khz;
	ret = vm_msr_list(vm->kvm_fd, &vm->msrs, &vm->nr_msrs);
	if (ret < 0)
		return vm_err(err, ret, "KVM_GET_MSR_INDEX_LIST: %s",
			      strerror(-ret));
	return set_up_cpuid(vm, cfg, err);
}

static int set_up_cpus(struct vm *vm, const struct vm_config *cfg, char **err)
{
	int ret;

	vm->cpus = calloc(cfg->nr_cpus, sizeof(*vm->cpus));
	if (!vm->cpus)
		return vm_err(err, -ENOMEM, "out of memory");
	vm->nr_cpus = cfg->nr_cpus;
	for (unsigned int i = 0; i < vm->nr_cpus; i++)
		vm->cpus[i].fd = -1;
	ret = set_up_cpu_facts(vm, cfg, err);
	for (unsigned int i = 0; ret == 0 && i < vm->nr_cpus; i++)
		ret = vm_cpu_new(vm, i, err);
	return ret;
}

static int add_device(struct vm *vm,
		      int (*new)(struct vm *vm, struct vm_device **ret_device),
		      struct vm_device **ret_device, char **err)
{
	struct vm_device *d;
	int ret = new (vm, &d);

	if (ret < 0)
		return vm_err(err, ret, "device: %s", strerror(-ret));
	ret = vm_device_add(vm, d);
	if (ret < 0) {
		vm_err(err, ret, "device %s: %s", d->ops->name, strerror(-ret));
		d->ops->free(d);
		return ret;
	}
	*ret_device = d;
	return 0;
}

static int set_up_devices(struct vm *vm, const struct vm_config *cfg,
			  char **err)
{
	struct vm_device *d;
	int ret;

	ret = add_device(vm, vm_serial_new, &vm->serial, err);
	if (ret == 0)
		ret = add_device(vm, vm_cmos_new, &d, err);
	if (ret == 0)
		ret = add_device(vm, vm_platform_new, &d, err);
	if (ret == 0)
		ret = add_device(vm, vm_pci_host_new, &vm->pci, err);
	if (ret == 0)
		ret = vm_virtio_new(vm, cfg, err);
	if (ret == 0)
		vm_bus_reset(vm);
	return ret;
}

static int alloc_vm(struct vm **ret_vm)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int ret;

	if (!vm)
		return -ENOMEM;
	vm->kvm_fd = vm->fd = -1;
	ret = vm_run_init(vm);
	if (ret < 0)
		goto free_vm;
	ret = vm_irq_init(vm);
	if (ret < 0)
		goto fini_run;
	ret = -pthread_mutex_init(&vm->ring_lock, NULL);
	if (ret < 0)
		goto fini_irq;
	*ret_vm = vm;
	return 0;
fini_irq:
	vm_irq_fini(vm);
fini_run:
	vm_run_fini(vm);
free_vm:
	free(vm);
	return ret;
}

/* The order is KVM's: interrupt controllers, PIT and rings before vCPUs. */
static int build(struct vm *vm, const struct vm_config *cfg, char **err)
{
	int ret;

	ret = vm_kvm_open(&vm->kvm_fd, err);
	if (ret == 0)
		ret = check_config(cfg, vm->kvm_fd, err);
	if (ret == 0)
		ret = create_vm(vm, err);
	if (ret == 0)
		ret = set_up_memory(vm, cfg, err);
	if (ret == 0)
		ret = set_up_cpus(vm, cfg, err);
	if (ret == 0)
		ret = set_up_devices(vm, cfg, err);
	if (ret == 0)
		ret = vm_state_save_chips(vm, &vm->power_on, err);
	return ret;
}

int vm_new(const struct vm_config *cfg, const struct vm_ops *ops, void *ctx,
	   struct vm **ret_vm, char **err)
{
	struct vm *vm;
	int ret;

	if (err)
		*err = NULL;
	ret = alloc_vm(&vm);
	if (ret < 0)
		return vm_err(err, ret, "out of memory");
	vm->ops = ops;
	vm->ctx = ctx;
	ret = vm_boot_files_copy(&cfg->boot_files, &vm->boot_files);
	if (ret == 0)
		ret = build(vm, cfg, err);
	if (ret < 0) {
		vm_free(vm);
		return ret;
	}
	*ret_vm = vm;
	return 0;
}

/*
 * A vCPU thread uses kvm_run, the rings and RAM until it is joined, and gives work
 * to devices; these use RAM until they are stopped, the VM until its last fd is
 * closed. Each goes after its last user.
 */
void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	vm_cpus_stop(vm);
	vm_devices_stop(vm);
	vm_virtio_fini(vm);
	vm_bus_fini(vm);
	for (unsigned int i = 0; i < vm->nr_cpus; i++)
		vm_cpu_free(&vm->cpus[i]);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm_fd >= 0)
		close(vm->kvm_fd);
	vm_dirty_fini(vm);
	vm_mem_free(vm->mem);
	vm_state_fini(&vm->power_on);
	vm_boot_files_fini(&vm->boot_files);
	free(vm->cpuid);
	free(vm->msrs);
	free(vm->cpus);
	pthread_mutex_destroy(&vm->ring_lock);
	vm_irq_fini(vm);
	vm_run_fini(vm);
	free(vm);
}

struct vm_mem *vm_mem(struct vm *vm)
{
	return vm->mem;
}

const struct vm_boot_files *vm_boot_files(const struct vm *vm)
{
	return &vm->boot_files;
}

unsigned int vm_nr_cpus(const struct vm *vm)
{
	return vm->nr_cpus;
}

uint32_t vm_tsc_khz(const struct vm *vm)
{
	return vm->tsc_khz;
}

uint32_t vm_dirty_ring_entries(const struct vm *vm)
{
	return vm->ring_entries;
}

size_t vm_cpuid(const struct vm *vm, const struct kvm_cpuid_entry2 **ret)
{
	*ret = vm->cpuid;
	return vm->nr_cpuid;
}

size_t vm_msr_indices(const struct vm *vm, const uint32_t **ret)
{
	*ret = vm->msrs;
	return vm->nr_msrs;
}

uint32_t vm_xsave_bytes(const struct vm *vm)
{
	return vm->xsave_bytes;
}
