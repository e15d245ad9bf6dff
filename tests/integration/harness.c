#include "harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "vmm/boot.h"

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

void need_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		printf("skipped: /dev/kvm: %s\n", strerror(errno));
		exit(SKIPPED);
	}
	close(fd);
}

static void on_event(void *ctx)
{
	(void)ctx;
}

static size_t on_output(void *ctx, const uint8_t *data, size_t bytes)
{
	struct console *c = ctx;

	char *text;

	pthread_mutex_lock(&c->lock);
	text = realloc(c->text, c->bytes + bytes + 1);
	if (!text)
		die("out of memory");
	c->text = text;
	memcpy(c->text + c->bytes, data, bytes);
	c->bytes += bytes;
	c->text[c->bytes] = '\0';
	pthread_mutex_unlock(&c->lock);
	return bytes;
}

const struct vm_ops harness_vm_ops = {
	.event = on_event,
	.serial_output = on_output,
};

void console_init(struct console *c)
{
	pthread_mutex_init(&c->lock, NULL);
	c->text = calloc(1, 1);
	c->bytes = 0;
	c->vm = NULL;
}

void console_fini(struct console *c)
{
	pthread_mutex_destroy(&c->lock);
	free(c->text);
}

size_t console_bytes(struct console *c)
{
	size_t bytes;

	pthread_mutex_lock(&c->lock);
	bytes = c->bytes;
	pthread_mutex_unlock(&c->lock);
	return bytes;
}

static size_t find(struct console *c, size_t from, const char *what)
{
	size_t at = 0;
	const char *hit;

	pthread_mutex_lock(&c->lock);
	hit = from <= c->bytes ? strstr(c->text + from, what) : NULL;
	if (hit)
		at = (size_t)(hit - c->text) + strlen(what);
	pthread_mutex_unlock(&c->lock);
	return at;
}

size_t console_wait(struct console *c, size_t from, const char *what)
{
	const struct timespec tick = { .tv_nsec = 2000000 };
	const char *patience = getenv("VMMD_PATIENCE");
	int seconds = patience ? atoi(patience) : 120;
	time_t end = time(NULL) + seconds;
	size_t at;

	while ((at = find(c, from, what)) == 0) {
		if (time(NULL) > end)
			die("'%s' did not come in %d s (event %d: %s); the "
			    "guest said:\n%s",
			    what, seconds,
			    c->vm ? (int)vm_event_peek(c->vm) : -1,
			    c->vm && vm_event_reason(c->vm)
				    ? vm_event_reason(c->vm)
				    : "",
			    c->text + from);
		nanosleep(&tick, NULL);
	}
	return at;
}

void console_check(struct console *c)
{
	unsigned long seq, last = 0;
	const char *at;

	pthread_mutex_lock(&c->lock);
	if (strstr(c->text, "GUEST-FAIL") || strstr(c->text, "GUEST-FAULT"))
		die("the guest found a fault:\n%s", c->text);
	for (at = c->text; (at = strstr(at, "hb seq=")) != NULL; at++) {
		/* The guest may have been stopped in the middle of a line. */
		if (!strchr(at, '\n'))
			break;
		seq = strtoul(at + 7, NULL, 10);
		if (seq != last + 1)
			die("heartbeat %lu after %lu:\n%s", seq, last, c->text);
		last = seq;
	}
	pthread_mutex_unlock(&c->lock);
}

struct vm *boot_guest(const struct vm_config *cfg, const char *cmdline,
		      struct console *c)
{
	const char *path = getenv("GUEST_ELF");
	struct vm_boot boot = { .initrd_fd = -1, .cmdline = cmdline };
	char *err = NULL;
	struct vm *vm;
	int ret;

	boot.kernel_fd = open(path ? path : "", O_RDONLY | O_CLOEXEC);
	if (boot.kernel_fd < 0)
		die("GUEST_ELF: %s", strerror(errno));
	ret = vm_new(cfg, &harness_vm_ops, c, &vm, &err);
	if (ret == 0)
		ret = vm_boot(vm, &boot, &err);
	if (ret == 0)
		ret = vm_start(vm);
	if (ret == 0)
		ret = vm_resume(vm);
	if (ret < 0)
		die("boot: %s", err ? err : strerror(-ret));
	close(boot.kernel_fd);
	return vm;
}
