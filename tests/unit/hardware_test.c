/*
 * What a peer or a snapshot says of a guest's devices is believed only as far as
 * it makes sense, and the guest gets the same devices or is refused with every
 * reason.
 */
#include "migrate/hardware.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "migrate/hardware_codec.h"
#include "vmm/boot.h"

#define DISK_BYTES (UINT64_C(1) << 20)

static char top[] = "/tmp/vmmd-hardware-XXXXXX";
static char disk_path[64];

/* Two disks, a net, a vsock, and one of the rest. */
static struct mig_hardware sample(void)
{
	struct mig_hardware h = { .nr_disks = 2,
				  .nr_nets = 1,
				  .has_vsock = true,
				  .console = true,
				  .balloon = true,
				  .boot_files = { "/boot/kernel", NULL,
						  "quiet" } };

	h.disks[0] = (struct vm_disk_info){ .path = disk_path,
					    .bytes = DISK_BYTES,
					    .features = 0x1200000240,
					    .nr_queues = 1 };
	h.disks[1] = h.disks[0];
	h.disks[1].read_only = true;
	h.disks[1].direct = true;
	h.nets[0] = (struct vm_net_info){ .tap = "tap0",
					  .features = 5,
					  .nr_queues = 2,
					  .mac = { 2, 0, 0, 0, 0, 7 } };
	h.vsock = (struct vm_vsock_config){ 42, "/run/guest.vsock" };
	return h;
}

static int setup(void **state)
{
	int fd;

	(void)state;
	assert_non_null(mkdtemp(top));
	snprintf(disk_path, sizeof(disk_path), "%s/disk", top);
	fd = open(disk_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(disk_path);
	return rmdir(top);
}

/* ---- the message ---- */

/* Through the wire format and back. */
static int transfer(const struct mig_hardware *h, struct mig_hardware *ret,
		    char **err)
{
	struct mig_hardware_msg m;
	Vmmd__Hardware *copy;
	uint8_t *buf;
	size_t bytes;
	int res;

	mig_hardware_fill(h, &m);
	bytes = vmmd__hardware__get_packed_size(&m.msg);
	buf = malloc(bytes ? bytes : 1);
	assert_non_null(buf);
	vmmd__hardware__pack(&m.msg, buf);
	copy = vmmd__hardware__unpack(NULL, bytes, buf);
	free(buf);
	assert_non_null(copy);
	res = mig_hardware_take(copy, ret, err);
	vmmd__hardware__free_unpacked(copy, NULL);
	return res;
}

static void test_arrives_as_it_went(void **state)
{
	struct mig_hardware h = sample(), got;
	size_t i;

	(void)state;
	assert_int_equal(transfer(&h, &got, NULL), 0);
	assert_int_equal(got.nr_disks, h.nr_disks);
	for (i = 0; i < h.nr_disks; i++) {
		assert_string_equal(got.disks[i].path, h.disks[i].path);
		assert_true(got.disks[i].bytes == h.disks[i].bytes);
		assert_true(got.disks[i].features == h.disks[i].features);
		assert_int_equal(got.disks[i].nr_queues, h.disks[i].nr_queues);
		assert_int_equal(got.disks[i].read_only, h.disks[i].read_only);
		assert_int_equal(got.disks[i].direct, h.disks[i].direct);
	}
	assert_int_equal(got.nr_nets, 1);
	assert_string_equal(got.nets[0].tap, "tap0");
	assert_memory_equal(got.nets[0].mac, h.nets[0].mac, 6);
	assert_int_equal(got.nets[0].nr_queues, 2);
	assert_true(got.has_vsock && got.console && got.balloon && !got.rng);
	assert_int_equal(got.vsock.cid, 42);
	assert_string_equal(got.vsock.path, h.vsock.path);
	assert_string_equal(got.boot_files.kernel, "/boot/kernel");
	assert_null(got.boot_files.initrd);
	assert_string_equal(got.boot_files.cmdline, "quiet");
	mig_hardware_fini(&got);
}

static void test_no_message_is_no_hardware(void **state)
{
	struct mig_hardware got;

	(void)state;
	assert_int_equal(mig_hardware_take(NULL, &got, NULL), 0);
	assert_false(mig_hardware_is_any(&got));
}

typedef void damage(struct mig_hardware *h);

static void relative_path(struct mig_hardware *h)
{
	h->disks[1].path = "etc/passwd";
}

static void empty_path(struct mig_hardware *h)
{
	h->disks[0].path = "";
}

static void path_with_a_newline(struct mig_hardware *h)
{
	h->disks[0].path = "/tmp/a\nvmmd: all is well";
}

static void huge_disk(struct mig_hardware *h)
{
	h->disks[0].bytes = UINT64_MAX;
}

static void no_queues(struct mig_hardware *h)
{
	h->disks[0].nr_queues = 0;
}

static void absurd_queues(struct mig_hardware *h)
{
	h->nets[0].nr_queues = UINT32_MAX;
}

static void long_tap(struct mig_hardware *h)
{
	h->nets[0].tap = "0123456789abcdef";
}

static void tap_that_is_a_path(struct mig_hardware *h)
{
	h->nets[0].tap = "../x";
}

static void tap_that_is_a_format(struct mig_hardware *h)
{
	h->nets[0].tap = "tap%d";
}

static void cid_of_the_host(struct mig_hardware *h)
{
	h->vsock.cid = 2;
}

static void cid_of_anybody(struct mig_hardware *h)
{
	h->vsock.cid = UINT32_MAX;
}

static void long_vsock_path(struct mig_hardware *h)
{
	static char path[200];

	memset(path, '/', sizeof(path) - 1);
	h->vsock.path = path;
}

static void relative_kernel(struct mig_hardware *h)
{
	h->boot_files.kernel = "vmlinuz";
}

static void relative_initrd(struct mig_hardware *h)
{
	h->boot_files.initrd = "../initrd";
}

static void long_cmdline(struct mig_hardware *h)
{
	static char cmdline[VM_CMDLINE_BYTES_MAX + 1];

	memset(cmdline, 'x', sizeof(cmdline) - 1);
	h->boot_files.cmdline = cmdline;
}

static void test_nonsense_is_refused(void **state)
{
	static damage *const damages[] = {
		relative_path,   empty_path,         path_with_a_newline,
		huge_disk,       no_queues,          absurd_queues,
		long_tap,        tap_that_is_a_path, tap_that_is_a_format,
		cid_of_the_host, cid_of_anybody,     long_vsock_path,
		relative_kernel, relative_initrd,    long_cmdline,
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		struct mig_hardware h = sample(), got = { .nr_disks = 77 };
		char *err = NULL;

		damages[i](&h);
		assert_int_equal(transfer(&h, &got, &err), -EBADMSG);
		assert_non_null(err);
		assert_null(strchr(err, '\n'));
		assert_int_equal(got.nr_disks, 77);
		free(err);
	}
}

static void test_counts_and_lengths_are_bounded(void **state)
{
	struct mig_hardware h = sample(), got;
	struct mig_hardware_msg m;
	Vmmd__Disk *disks[MIG_DISKS_MAX + 1];
	Vmmd__Net *nets[MIG_NETS_MAX + 1];
	size_t i;

	(void)state;
	mig_hardware_fill(&h, &m);
	for (i = 0; i <= MIG_DISKS_MAX; i++)
		disks[i] = &m.disks[0];
	m.msg.disks = disks;
	m.msg.n_disks = MIG_DISKS_MAX + 1;
	assert_int_equal(mig_hardware_take(&m.msg, &got, NULL), -EBADMSG);
	m.msg.n_disks = MIG_DISKS_MAX;
	assert_int_equal(mig_hardware_take(&m.msg, &got, NULL), 0);
	mig_hardware_fini(&got);

	for (i = 0; i <= MIG_NETS_MAX; i++)
		nets[i] = &m.nets[0];
	m.msg.nets = nets;
	m.msg.n_nets = MIG_NETS_MAX + 1;
	assert_int_equal(mig_hardware_take(&m.msg, &got, NULL), -EBADMSG);
	m.msg.n_nets = MIG_NETS_MAX;
	m.nets[0].mac.len = 5;
	assert_int_equal(mig_hardware_take(&m.msg, &got, NULL), -EBADMSG);
	m.nets[0].mac.len = 7;
	assert_int_equal(mig_hardware_take(&m.msg, &got, NULL), -EBADMSG);
}

/* ---- with what the host has instead ---- */

struct lines {
	char text[4096];
	unsigned int nr;
};

static void add_line(void *ctx, const char *line)
{
	struct lines *l = ctx;

	strcat(l->text, line);
	strcat(l->text, "\n");
	l->nr++;
}

struct planned {
	struct mig_plan plan;
	struct vm_config cfg;
	struct lines lines;
};

static void plan(const struct mig_hardware *h, const struct mig_host_side *host,
		 struct planned *p)
{
	const struct mig_objector o = { add_line, &p->lines };

	memset(p, 0, sizeof(*p));
	mig_hardware_plan(h, host, &p->plan, &p->cfg, &o);
}

static void test_nothing_said_is_where_it_was(void **state)
{
	const struct mig_host_side host = { 0 };
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	plan(&h, &host, &p);
	assert_string_equal(p.lines.text, "");
	assert_int_equal(p.cfg.nr_disks, 2);
	assert_string_equal(p.cfg.disks[0].path, disk_path);
	assert_true(p.cfg.disks[1].read_only && p.cfg.disks[1].direct);
	assert_string_equal(p.cfg.nets[0].tap, "tap0");
	assert_memory_equal(p.cfg.nets[0].mac, h.nets[0].mac, 6);
	assert_int_equal(p.cfg.vsock->cid, 42);
	assert_true(p.cfg.console && p.cfg.balloon && !p.cfg.rng);
}

/* Where and how is the host's; read-only, mac and cid are the guest's. */
static void test_the_host_says_where(void **state)
{
	const struct vm_disk_config disks[2] = {
		{ .path = "/there0", .direct = true }, { .path = "/there1" }
	};
	const struct vm_net_config net = { .tap = "tap9" };
	const struct vm_vsock_config vsock = { .path = "/there" };
	const struct mig_host_side host = { disks, 2, &net, 1, &vsock, true };
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	plan(&h, &host, &p);
	assert_string_equal(p.lines.text, "");
	assert_string_equal(p.cfg.disks[0].path, "/there0");
	assert_true(p.cfg.disks[0].direct && !p.cfg.disks[0].read_only);
	assert_string_equal(p.cfg.disks[1].path, "/there1");
	assert_true(!p.cfg.disks[1].direct && p.cfg.disks[1].read_only);
	assert_string_equal(p.cfg.nets[0].tap, "tap9");
	assert_memory_equal(p.cfg.nets[0].mac, h.nets[0].mac, 6);
	assert_int_equal(p.cfg.vsock->cid, 42);
	assert_string_equal(p.cfg.vsock->path, "/there");
}

static void test_every_contradiction_is_told(void **state)
{
	const struct vm_disk_config disk = { .path = "/one" };
	const struct vm_net_config net = { .tap = "tap9",
					   .mac = { 2, 0, 0, 0, 0, 8 } };
	const struct vm_vsock_config vsock = { .cid = 43, .path = "/there" };
	const struct mig_host_side host = { &disk, 1, &net, 1, &vsock, true };
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	h.console = false;
	plan(&h, &host, &p);
	assert_int_equal(p.lines.nr, 4);
	assert_non_null(strstr(p.lines.text, "1 --disk given here, but the "
					     "guest has 2"));
	assert_non_null(strstr(p.lines.text, "02:00:00:00:00:07"));
	assert_non_null(strstr(p.lines.text, "cid 42"));
	assert_non_null(strstr(p.lines.text, "--console"));
}

static void test_a_writable_disk_is_not_made_read_only(void **state)
{
	const struct vm_disk_config disks[2] = {
		{ .path = "/a", .read_only = true },
		{ .path = "/b", .read_only = true },
	};
	const struct mig_host_side host = { .disks = disks, .nr_disks = 2 };
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	plan(&h, &host, &p);
	assert_int_equal(p.lines.nr, 1); /* the other one is */
	assert_non_null(strstr(p.lines.text, "disk 0 (/a)"));
}

static void test_more_than_the_guest_has(void **state)
{
	const struct vm_disk_config disk = { .path = "/a" };
	const struct vm_net_config net = { .tap = "tap9" };
	const struct vm_vsock_config vsock = { .path = "/there" };
	const struct mig_host_side host = { &disk, 1, &net, 1, &vsock, false };
	struct mig_hardware h = { 0 };
	struct planned p;

	(void)state;
	plan(&h, &host, &p);
	assert_int_equal(p.lines.nr, 3);
	assert_int_equal(p.cfg.nr_disks, 0);
	assert_null(p.cfg.vsock);
}

/* ---- what is there ---- */

static void probe(const struct mig_hardware *h, struct planned *p)
{
	const struct mig_objector o = { add_line, &p->lines };
	const struct mig_host_side host = { 0 };

	plan(h, &host, p);
	mig_hardware_probe(h, &p->cfg, &o);
}

static void test_a_disk_that_is_there(void **state)
{
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	h.nr_nets = 0;
	h.disks[1].direct = false; /* not every file system can */
	probe(&h, &p);
	assert_string_equal(p.lines.text, "");
}

static void test_each_disk_that_is_not_right(void **state)
{
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	h.nr_nets = 0;
	h.nr_disks = 3;
	h.disks[0].bytes = DISK_BYTES + 512;
	h.disks[1].path = "/nonexistent/disk";
	h.disks[2] = h.disks[0];
	h.disks[2].path = "/dev/null"; /* no file, no block device */
	probe(&h, &p);
	assert_int_equal(p.lines.nr, 3);
	assert_non_null(strstr(p.lines.text, "disk 0: "));
	assert_non_null(strstr(p.lines.text, "1049088")); /* both sizes */
	assert_non_null(strstr(p.lines.text, "1048576"));
	assert_non_null(strstr(p.lines.text, "/nonexistent/disk"));
	assert_non_null(strstr(p.lines.text, "/dev/null"));
}

static void test_a_tap_that_is_not_there(void **state)
{
	struct mig_hardware h = sample();
	struct planned p;

	(void)state;
	h.nr_disks = 0;
	h.nr_nets = 2;
	h.nets[0].tap = "vmmd-no-such";
	h.nets[1] = h.nets[0];
	h.nets[1].tap = "lo"; /* an interface, but no tap */
	probe(&h, &p);
	assert_int_equal(p.lines.nr, 2);
	assert_non_null(strstr(p.lines.text, "vmmd-no-such"));
	assert_non_null(strstr(p.lines.text, "'lo'"));
}

/* ---- what came of it ---- */

static struct mig_hardware machine; /* what the wrapped calls tell of a vm */

void __wrap_vm_disk_info(struct vm *vm, size_t i, struct vm_disk_info *ret);
void __wrap_vm_net_info(struct vm *vm, size_t i, struct vm_net_info *ret);

void __wrap_vm_disk_info(struct vm *vm, size_t i, struct vm_disk_info *ret)
{
	(void)vm;
	*ret = machine.disks[i];
}

void __wrap_vm_net_info(struct vm *vm, size_t i, struct vm_net_info *ret)
{
	(void)vm;
	*ret = machine.nets[i];
}

static void compare(const struct mig_hardware *h, struct lines *l)
{
	const struct mig_objector o = { add_line, l };

	memset(l, 0, sizeof(*l));
	mig_hardware_compare(h, NULL, &o);
}

static void test_the_same_machine(void **state)
{
	struct mig_hardware h = machine = sample();
	struct lines l;

	(void)state;
	machine.disks[0].path = "/elsewhere"; /* which no guest can see */
	machine.disks[0].direct = true;
	compare(&h, &l);
	assert_string_equal(l.text, "");
}

static void test_every_difference_is_told(void **state)
{
	struct mig_hardware h = machine = sample();
	struct lines l;

	(void)state;
	machine.disks[0].features = h.disks[0].features ^ (1 << 6 | 1 << 13);
	machine.disks[0].bytes -= 512;
	machine.disks[1].read_only = false;
	machine.nets[0].features |= UINT64_C(1) << 63;
	machine.nets[0].nr_queues = 1;
	compare(&h, &l);
	assert_int_equal(l.nr, 5);
	/* Missing here: 6. More than the guest knows: 13. */
	assert_non_null(strstr(l.text, "disk 0: features differ"));
	assert_non_null(
		strstr(l.text, "has not: 6; the other way round: 13\n"));
	assert_non_null(strstr(l.text, "has not: none; the other way round: "
				       "63\n"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arrives_as_it_went),
		cmocka_unit_test(test_no_message_is_no_hardware),
		cmocka_unit_test(test_nonsense_is_refused),
		cmocka_unit_test(test_counts_and_lengths_are_bounded),
		cmocka_unit_test(test_nothing_said_is_where_it_was),
		cmocka_unit_test(test_the_host_says_where),
		cmocka_unit_test(test_every_contradiction_is_told),
		cmocka_unit_test(test_a_writable_disk_is_not_made_read_only),
		cmocka_unit_test(test_more_than_the_guest_has),
		cmocka_unit_test(test_a_disk_that_is_there),
		cmocka_unit_test(test_each_disk_that_is_not_right),
		cmocka_unit_test(test_a_tap_that_is_not_there),
		cmocka_unit_test(test_the_same_machine),
		cmocka_unit_test(test_every_difference_is_told),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
