/*
 * tests/integration/harness.h: the test guest inside the test's own process.
 *
 * For what must be seen from inside (trackers against the guest's record, both
 * ends of a migration in one process). Needs /dev/kvm; GUEST_ELF in the
 * environment names the image. Failures end the test with a line.
 */
#ifndef TESTS_HARNESS_H
#define TESTS_HARNESS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/guest.h"
#include "vmm/vm.h"

#define SKIPPED 77

/* What the guest says, whichever vm says it; it grows, NUL-terminated. */
struct console {
	pthread_mutex_t lock;
	char *text;
	size_t bytes;
	struct vm *vm; /* whose event is told when nothing more comes; NULL */
};

extern const struct vm_ops harness_vm_ops; /* ctx: struct console */

void console_init(struct console *c);
void console_fini(struct console *c);
/*
 * Waits for what to appear at or after byte from, for VMMD_PATIENCE seconds or 120;
 * returns where it ends.
 */
size_t console_wait(struct console *c, size_t from, const char *what);
size_t console_bytes(struct console *c); /* so far */
/* No GUEST-FAIL, no GUEST-FAULT, heartbeats numbered without gap or repeat. */
void console_check(struct console *c);

/* Exits with SKIPPED when there is no usable /dev/kvm. */
void need_kvm(void);
struct vm *boot_guest(const struct vm_config *cfg, const char *cmdline,
		      struct console *c);
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
