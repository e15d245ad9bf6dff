#include "cpu.h"

#include <stddef.h>

#include "console.h"
#include "machine.h"
#include "memory.h"
#include "power.h"

#define LAPIC_SPURIOUS      0xf0
#define LAPIC_COMMAND       0x300
#define LAPIC_COMMAND_DEST  0x310
#define LAPIC_TIMER         0x320
#define LAPIC_LINT0         0x350
#define LAPIC_TIMER_INITIAL 0x380
#define LAPIC_TIMER_DIVIDE  0x3e0

#define LAPIC_ENABLE      0x100
#define LAPIC_MASKED      0x10000
#define LAPIC_PERIODIC    0x20000
#define LAPIC_DIVIDE_BY_1 0xb
#define LAPIC_INIT        0x4500 /* edge, assert */
#define LAPIC_STARTUP     0x4600
#define LAPIC_BUSY        0x1000
#define LAPIC_ALL_OTHERS  0xc4000  /* fixed, edge, assert */
#define LAPIC_TIMER_HZ    NS_PER_S /* KVM's: APIC_BUS_CYCLE_NS is 1 */

#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK  0xa1

#define AP_TRAMPOLINE_GPA 0x8000 /* page aligned, below 1 MiB: SIPI vector 8 */
#define AP_WAIT_NS        (5 * NS_PER_S)

#define RFLAGS_RESERVED  0x2
#define RFLAGS_INTERRUPT 0x200
#define RFLAGS_IOPL_3    0x3000

#define GATE_INTERRUPT 0x8e /* present, DPL 0: clears IF */
#define TSS_AVAILABLE  0x89
#define NR_EXCEPTIONS  32
#define NR_VECTORS     256
#define VECTOR_UD      6

/* Built by trap.S. */
struct trap_frame {
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
	uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
};

struct idt_gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t ist;
	uint8_t type;
	uint16_t offset_middle;
	uint32_t offset_high;
	uint32_t reserved;
};

struct table_pointer {
	uint16_t limit;
	const void *base;
} __attribute__((packed));

struct cpu cpus[CPUS_MAX];
uint32_t nr_cpus = 1;
struct machine machine;

/* start.S reads them; one AP starts at a time. */
uint32_t ap_boot_id;
uint32_t ap_boot_stack_top;

/* The first vCPU's stack until it is at CPL 3. */
__attribute__((used)) static uint8_t boot_stack[KERNEL_STACK]
	__attribute__((aligned(16)));
__asm__(".globl cpu_boot_stack_top\n"
	".set cpu_boot_stack_top, boot_stack + 4096");

static struct idt_gate idt[NR_VECTORS];

extern uint64_t gdt[];
extern const uint8_t exception_stubs[NR_EXCEPTIONS][16];
extern const uint8_t kernel_call_ud2[];
extern const uint8_t ap_trampoline[], ap_trampoline_end[];
void timer_interrupt(void);
void wake_interrupt(void);
void spurious_interrupt(void);
void enter_user(void (*fn)(struct cpu *), struct cpu *c, uint64_t stack_top,
		uint64_t rflags) __attribute__((noreturn));

/* Called by the assembler. */
void boot_bsp(uint64_t start_info_gpa) __attribute__((noreturn));
void boot_ap(uint64_t id) __attribute__((noreturn));
void trap(struct trap_frame *f);

static void wrmsr(uint32_t msr, uint64_t value)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)value),
			 "d"((uint32_t)(value >> 32))
			 : "memory");
}

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t ret_regs[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(ret_regs[0]), "=b"(ret_regs[1]),
			   "=c"(ret_regs[2]), "=d"(ret_regs[3])
			 : "a"(leaf), "c"(subleaf));
}

static void gate_set(unsigned int vector, const void *entry)
{
	uint64_t offset = (uint64_t)entry;

	idt[vector] = (struct idt_gate){
		.offset_low = (uint16_t)offset,
		.selector = SEL_KERNEL_CODE,
		.type = GATE_INTERRUPT,
		.offset_middle = (uint16_t)(offset >> 16),
		.offset_high = (uint32_t)(offset >> 32),
	};
}

/* Any other vector finds no gate, and the #NP or #GP is told as a fault. */
static void idt_init(void)
{
	for (unsigned int v = 0; v < NR_EXCEPTIONS; v++)
		gate_set(v, exception_stubs[v]);
	gate_set(VECTOR_TIMER, (const void *)timer_interrupt);
	gate_set(VECTOR_WAKE, (const void *)wake_interrupt);
	gate_set(VECTOR_SPURIOUS, (const void *)spurious_interrupt);
}

/*
 * The number of logical processors: leaf 0xb's outermost level, else leaf 1.
 */
static uint32_t count_cpus(void)
{
	uint32_t r[4], count = 0;

	cpuid(0, 0, r);
	if (r[0] >= 0xb) {
		for (uint32_t level = 0; level < 8; level++) {
			cpuid(0xb, level, r);
			if ((r[2] & 0xff00) == 0)
				break;
			count = r[1] & 0xffff;
		}
	}
	if (count == 0) {
		cpuid(1, 0, r);
		count = r[3] & (1u << 28) ? r[1] >> 16 & 0xff : 1;
	}
	if (count == 0)
		return 1;
	return count < CPUS_MAX ? count : CPUS_MAX;
}

static void machine_probe(void)
{
	uint32_t r[4];

	machine.nr_cpus = count_cpus();
	cpuid(0x40000001, 0, r);
	machine.has_kvmclock = r[0] & (1u << 3);
	cpuid(0x80000001, 0, r);
	machine.has_huge_pages = r[3] & (1u << 26);
}

static void tss_load(struct cpu *c)
{
	uint64_t base = (uint64_t)&c->tss;
	uint64_t limit = sizeof(c->tss) - 1;
	uint64_t *entry = &gdt[SEL_TSS_FIRST / 8 + 2 * c->id];

	c->tss.rsp[0] = (uint64_t)(c->kernel_stack + KERNEL_STACK);
	c->tss.io_bitmap_offset = (uint16_t)((uint64_t)c->tss.io_bitmap - base);
	/* A clear bit allows the port; hardware wants one set byte at the end. */
	c->tss.io_bitmap[sizeof(c->tss.io_bitmap) - 1] = 0xff;
	entry[0] = limit | (base & 0xffffff) << 16 |
		   (uint64_t)TSS_AVAILABLE << 40 | (base >> 24 & 0xff) << 56;
	entry[1] = base >> 32;
	__asm__ volatile("ltr %w0" ::"r"(SEL_TSS_FIRST + 16 * c->id)
			 : "memory");
}

/* CPL 0, on the vCPU itself. */
static void cpu_setup(uint32_t id)
{
	const struct table_pointer p = { sizeof(idt) - 1, idt };
	struct cpu *c = &cpus[id];

	c->self = c;
	c->id = id;
	__asm__ volatile("lidt %0" ::"m"(p));
	tss_load(c);
	wrmsr(MSR_FS_BASE, (uint64_t)c);
	if (machine.has_kvmclock)
		wrmsr(MSR_KVMCLOCK, (uint64_t)&c->pvclock | 1);
}

static void go_user(void (*fn)(struct cpu *), struct cpu *c)
{
	enter_user(fn, c, (uint64_t)(c->user_stack + USER_STACK - 8),
		   RFLAGS_RESERVED | RFLAGS_IOPL_3);
}

void boot_bsp(uint64_t start_info_gpa)
{
	machine_probe();
	idt_init();
	cpu_setup(0);
	memory_boot_info_gpa = start_info_gpa;
	go_user(main_bsp, &cpus[0]);
	__builtin_unreachable();
}

void boot_ap(uint64_t id)
{
	cpu_setup((uint32_t)id);
	go_user(main_ap, &cpus[id]);
	__builtin_unreachable();
}

static void triple_fault(void)
{
	const struct table_pointer none = { 0, 0 };

	__asm__ volatile("lidt %0; ud2" ::"m"(none));
}

static void kernel_call_serve(struct trap_frame *f)
{
	switch ((enum kernel_op)f->rdi) {
	case KERNEL_HALT:
		__asm__ volatile("sti; hlt; cli" ::: "memory");
		break;
	case KERNEL_INTERRUPTS:
		f->rflags |= RFLAGS_INTERRUPT;
		break;
	case KERNEL_TRIPLE_FAULT:
		triple_fault();
		break;
	}
	f->rip += 2; /* past the UD2 */
}

static void fault_tell(const struct trap_frame *f)
{
	struct line l;
	uint64_t cr2;

	__asm__ volatile("movq %%cr2, %0" : "=r"(cr2));
	line_start(&l, "GUEST-FAULT");
	line_dec(&l, "vec", f->vector);
	line_hex(&l, "rip", f->rip);
	line_hex(&l, "err", f->error);
	line_hex(&l, "cr2", cr2);
	line_dec(&l, "cpl", f->cs & 3);
	line_hex(&l, "rsp", f->rsp);
	console_emergency(&l);
}

void trap(struct trap_frame *f)
{
	if (f->vector == VECTOR_UD && f->rip == (uint64_t)kernel_call_ud2) {
		kernel_call_serve(f);
		return;
	}
	fault_tell(f);
	power_exit(POWER_OFF);
}

static void lapic_write(uint32_t reg, uint32_t value)
{
	mmio_write(LAPIC_BASE + reg, value);
}

static void lapic_command(uint32_t apic_id, uint32_t command)
{
	lapic_write(LAPIC_COMMAND_DEST, apic_id << 24);
	lapic_write(LAPIC_COMMAND, command);
	while (mmio_read(LAPIC_BASE + LAPIC_COMMAND) & LAPIC_BUSY)
		cpu_relax();
}

static void wait_ns(uint64_t ns, const volatile bool *until)
{
	const struct pvclock *p = &cpus[0].pvclock;
	uint64_t tsc, end = clock_ns(p, &tsc) + ns;

	while (!(until && *until) && clock_ns(p, &tsc) < end)
		cpu_relax();
}

/* The times are Intel's (SDM volume 3, "MP initialization"). */
static bool start_one(uint32_t id)
{
	struct cpu *c = &cpus[id];

	ap_boot_id = id;
	ap_boot_stack_top =
		(uint32_t)(uint64_t)(c->kernel_stack + KERNEL_STACK);
	barrier();
	for (int i = 0; i < 2 && !c->up; i++) {
		lapic_command(id, LAPIC_STARTUP | AP_TRAMPOLINE_GPA >> 12);
		wait_ns(200 * NS_PER_US, &c->up);
	}
	wait_ns(AP_WAIT_NS, &c->up);
	return c->up;
}

void cpu_interrupts_init(void)
{
	lapic_write(LAPIC_LINT0, LAPIC_MASKED);
	lapic_write(LAPIC_SPURIOUS, LAPIC_ENABLE | VECTOR_SPURIOUS);
}

void cpu_wake_others(void)
{
	lapic_write(LAPIC_COMMAND, LAPIC_ALL_OTHERS | VECTOR_WAKE);
}

bool cpu_start_others(uint32_t wanted, uint32_t *ret_missing)
{
	uint8_t *to = (uint8_t *)(uint64_t)AP_TRAMPOLINE_GPA;

	/* Nothing of the firmware's may interrupt us. */
	outb(PIC_MASTER_MASK, 0xff);
	outb(PIC_SLAVE_MASK, 0xff);
	cpu_interrupts_init();
	for (const uint8_t *from = ap_trampoline; from < ap_trampoline_end;)
		*to++ = *from++;
	for (uint32_t id = 1; id < wanted; id++)
		lapic_command(id, LAPIC_INIT);
	if (wanted > 1)
		wait_ns(10 * NS_PER_MS, NULL);
	for (uint32_t id = 1; id < wanted; id++) {
		if (!start_one(id)) {
			*ret_missing = id;
			return false;
		}
		nr_cpus = id + 1;
	}
	return true;
}

void cpu_timer_start(uint64_t hz)
{
	lapic_write(LAPIC_TIMER_DIVIDE, LAPIC_DIVIDE_BY_1);
	lapic_write(LAPIC_TIMER, LAPIC_PERIODIC | VECTOR_TIMER);
	lapic_write(LAPIC_TIMER_INITIAL, (uint32_t)(LAPIC_TIMER_HZ / hz));
}
