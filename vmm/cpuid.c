/*
 * vmm/cpuid.c: the guest's CPUID from what KVM supports.
 *
 * Leaf numbers and layouts: Intel SDM volume 2A "CPUID", AMD APM volume 3
 * appendix E, Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "vmm/cpuid.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vm_internal.h"

#define BIT(n) (UINT32_C(1) << (n))

#define L1_ECX_VMX          BIT(5)
#define L1_ECX_TSC_DEADLINE BIT(24)
#define L1_ECX_OSXSAVE      BIT(27) /* follows the guest's CR4 */
#define L1_ECX_HYPERVISOR   BIT(31)
#define L1_EDX_HTT          BIT(28)
#define L7_ECX_OSPKE        BIT(4) /* follows the guest's CR4 */
#define LE1_ECX_CMP_LEGACY  BIT(1)
#define LE1_ECX_SVM         BIT(2)

/* Leaf 0xb and 0x1f, ECX[15:8]: what a level is. */
#define LEVEL_THREAD 1
#define LEVEL_CORE   2

enum reg { EAX, EBX, ECX, EDX };

/*
 * Where CPUID holds feature bits rather than numbers. `ours` are bits that this
 * VMM sets, or that follow the guest's own registers, whatever the host has.
 */
struct feature_word {
	uint32_t function, index;
	enum reg reg;
	uint32_t ours;
};

static const struct feature_word feature_words[] = {
	{ 0x1, 0, ECX, L1_ECX_OSXSAVE | L1_ECX_HYPERVISOR },
	{ 0x1, 0, EDX, L1_EDX_HTT },
	{ 0x6, 0, EAX, 0 },
	{ 0x7, 0, EBX, 0 },
	{ 0x7, 0, ECX, L7_ECX_OSPKE },
	{ 0x7, 0, EDX, 0 },
	{ 0x7, 1, EAX, 0 },
	{ 0x7, 1, EBX, 0 },
	{ 0x7, 1, ECX, 0 },
	{ 0x7, 1, EDX, 0 },
	{ 0x7, 2, EDX, 0 },
	{ 0xd, 0, EAX, 0 }, /* XCR0 */
	{ 0xd, 0, EDX, 0 },
	{ 0xd, 1, EAX, 0 },
	{ 0xd, 1, ECX, 0 }, /* IA32_XSS */
	{ 0xd, 1, EDX, 0 },
	{ 0x14, 0, EBX, 0 },
	{ 0x14, 0, ECX, 0 },
	{ 0x24, 0, EBX, 0 },
	{ 0x40000001, 0, EAX, 0 },
	{ 0x80000001, 0, ECX, LE1_ECX_CMP_LEGACY },
	{ 0x80000001, 0, EDX, 0 },
	{ 0x80000007, 0, EDX, 0 },
	{ 0x80000008, 0, EBX, 0 },
	{ 0x8000000a, 0, EDX, 0 },
	{ 0x8000001f, 0, EAX, 0 },
	{ 0x80000021, 0, EAX, 0 },
	{ 0x80000022, 0, EAX, 0 },
	{ 0xc0000001, 0, EDX, 0 },
};

static const char *const reg_names[] = { "eax", "ebx", "ecx", "edx" };

static uint32_t reg_of(const struct kvm_cpuid_entry2 *e, enum reg reg)
{
	switch (reg) {
	case EAX:
		return e->eax;
	case EBX:
		return e->ebx;
	case ECX:
		return e->ecx;
	case EDX:
		return e->edx;
	}
	return 0;
}

static const struct kvm_cpuid_entry2 *
find(const struct kvm_cpuid_entry2 *entries, size_t nr, uint32_t function,
     uint32_t index)
{
	for (size_t i = 0; i < nr; i++) {
		const struct kvm_cpuid_entry2 *e = &entries[i];

		if (e->function == function &&
		    (e->index == index ||
		     !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

int vm_cpuid_supported(int kvm_fd, struct kvm_cpuid_entry2 **ret_entries,
		       size_t *ret_nr)
{
	struct kvm_cpuid_entry2 *entries;
	struct kvm_cpuid2 *table;
	int ret;

	table = calloc(1, sizeof(*table) + VM_CPUID_MAX * sizeof(*entries));
	if (!table)
		return -ENOMEM;
	table->nent = VM_CPUID_MAX;
	ret = vm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, table);
	if (ret < 0)
		goto free_table;
	ret = -ENOMEM;
	entries = calloc(VM_CPUID_MAX, sizeof(*entries));
	if (!entries)
		goto free_table;
	memcpy(entries, table->entries, table->nent * sizeof(*entries));
	/*
	 * KVM leaves this bit to us, because it depends on where the APIC is
	 * emulated (Linux Documentation/virt/kvm/api.rst 4.46): here, in KVM.
	 */
	if (vm_kvm_cap(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER)) {
		for (size_t i = 0; i < table->nent; i++) {
			if (entries[i].function == 1)
				entries[i].ecx |= L1_ECX_TSC_DEADLINE;
		}
	}
	*ret_entries = entries;
	*ret_nr = table->nent;
	ret = 0;
free_table:
	free(table);
	return ret;
}

/* Bits of an APIC id that number n things. */
static uint32_t id_bits(uint32_t n)
{
	uint32_t bits = 0;

	while ((UINT32_C(1) << bits) < n)
		bits++;
	return bits;
}

static struct kvm_cpuid_entry2 *find_or_add(struct kvm_cpuid_entry2 *entries,
					    size_t *nr, size_t max,
					    uint32_t function, uint32_t index)
{
	struct kvm_cpuid_entry2 *e =
		(struct kvm_cpuid_entry2 *)find(entries, *nr, function, index);

	if (e || *nr == max)
		return e;
	e = &entries[(*nr)++];
	*e = (struct kvm_cpuid_entry2){
		.function = function,
		.index = index,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	};
	return e;
}

/* Threads, cores, and the empty level that ends the list. */
static int shape_levels(struct kvm_cpuid_entry2 *entries, size_t *nr,
			size_t max, uint32_t function, unsigned int nr_cpus)
{
	const struct {
		uint32_t shift, cpus, type;
	} levels[] = {
		{ 0, 1, LEVEL_THREAD },
		{ id_bits(nr_cpus), nr_cpus, LEVEL_CORE },
		{ 0, 0, 0 },
	};

	for (uint32_t i = 0; i < 3; i++) {
		struct kvm_cpuid_entry2 *e = find_or_add(entries, nr, max,
							 function, i);

		if (!e)
			return -E2BIG;
		e->eax = levels[i].shift;
		e->ebx = levels[i].cpus;
		e->ecx = levels[i].type << 8 | i;
		e->edx = 0;
	}
	return 0;
}

/* Leaf 4 and AMD's 0x8000001d: the last level is shared by all, the rest not */
static void shape_cache(struct kvm_cpuid_entry2 *e, unsigned int nr_cpus)
{
	uint32_t type = e->eax & 0x1f, level = e->eax >> 5 & 7;
	uint32_t sharing = level >= 3 ? nr_cpus : 1;

	if (type == 0)
		return;
	e->eax &= 0x3fff;
	e->eax |= (sharing - 1) << 14;
	if (e->function == 4)
		e->eax |= ((UINT32_C(1) << id_bits(nr_cpus)) - 1) << 26;
}

static void shape_entry(struct kvm_cpuid_entry2 *e, unsigned int nr_cpus,
			bool is_amd)
{
	switch (e->function) {
	case 0x1:
		e->ebx = (e->ebx & 0xff00ffff) | nr_cpus << 16;
		e->ecx |= L1_ECX_HYPERVISOR;
		e->ecx &= ~L1_ECX_VMX;
		e->edx &= ~L1_EDX_HTT;
		e->edx |= nr_cpus > 1 ? L1_EDX_HTT : 0;
		break;
	case 0x4:
	case 0x8000001d:
		shape_cache(e, nr_cpus);
		break;
	case 0x80000001:
		e->ecx &= ~(LE1_ECX_SVM | LE1_ECX_CMP_LEGACY);
		e->ecx |= is_amd && nr_cpus > 1 ? LE1_ECX_CMP_LEGACY : 0;
		break;
	case 0x80000008:
		e->ecx = is_amd ? id_bits(nr_cpus) << 12 | (nr_cpus - 1) : 0;
		break;
	case 0x8000001e:
		e->eax = e->ebx = e->ecx = 0; /* one thread a core, one node */
		break;
	}
}

int vm_cpuid_shape(struct kvm_cpuid_entry2 *entries, size_t *nr, size_t max,
		   unsigned int nr_cpus)
{
	const struct kvm_cpuid_entry2 *vendor = find(entries, *nr, 0, 0);
	/* "AuthenticAMD" and "HygonGenuine" begin so in EBX */
	bool is_amd = vendor &&
		      (vendor->ebx == 0x68747541 || vendor->ebx == 0x6f677948);
	uint32_t max_leaf = vendor ? vendor->eax : 0;
	int ret = 0;

	for (size_t i = 0; i < *nr; i++)
		shape_entry(&entries[i], nr_cpus, is_amd);
	if (max_leaf >= 0xb)
		ret = shape_levels(entries, nr, max, 0xb, nr_cpus);
	if (ret == 0 && max_leaf >= 0x1f)
		ret = shape_levels(entries, nr, max, 0x1f, nr_cpus);
	return ret;
}

void vm_cpuid_for_cpu(struct kvm_cpuid_entry2 *entries, size_t nr,
		      unsigned int cpu)
{
	for (size_t i = 0; i < nr; i++) {
		struct kvm_cpuid_entry2 *e = &entries[i];

		switch (e->function) {
		case 0x1:
			e->ebx = (e->ebx & 0x00ffffff) | cpu << 24;
			break;
		case 0xb:
		case 0x1f:
			e->edx = cpu;
			break;
		case 0x8000001e:
			e->eax = cpu;
			e->ebx = (e->ebx & ~UINT32_C(0xff)) | cpu;
			break;
		}
	}
}

size_t vm_cpuid_missing(const struct kvm_cpuid_entry2 *guest, size_t nr_guest,
			const struct kvm_cpuid_entry2 *host, size_t nr_host,
			void (*report)(void *ctx, const char *line), void *ctx)
{
	size_t nr = 0;

	for (size_t i = 0; i < sizeof(feature_words) / sizeof(feature_words[0]);
	     i++) {
		const struct feature_word *w = &feature_words[i];
		const struct kvm_cpuid_entry2 *g = find(guest, nr_guest,
							w->function, w->index);
		const struct kvm_cpuid_entry2 *h = find(host, nr_host,
							w->function, w->index);
		uint32_t missing;
		char line[96];

		if (!g)
			continue;
		missing = reg_of(g, w->reg) & ~w->ours;
		missing &= h ? ~reg_of(h, w->reg) : UINT32_MAX;
		if (!missing)
			continue;
		snprintf(line, sizeof(line),
			 "CPUID leaf 0x%x.%u %s: bits 0x%08x missing",
			 w->function, w->index, reg_names[w->reg], missing);
		report(ctx, line);
		nr++;
	}
	return nr;
}
