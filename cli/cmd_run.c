/* vmmd run: a guest from a kernel. */
#include <errno.h>
#include <string.h>

#include "cli/guest_opts.h"
#include "vmm/boot.h"
#include "vmm/state.h"

#define MEM_DEFAULT (UINT64_C(512) << 20)

static int set_mem(void *settings, const char *value)
{
	struct guest_opts *o = settings;
	uint64_t bytes;

	if (cli_parse_size(value, &bytes) < 0 || bytes < VM_RAM_BYTES_MIN ||
	    bytes > VM_RAM_BYTES_MAX || bytes % VM_PAGE_BYTES != 0)
		return -EINVAL;
	o->cfg.ram_bytes = bytes;
	return 0;
}

static int set_cpus(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	return cli_parse_u64(value, 1, VM_CPUS_MAX, &o->cfg.nr_cpus);
}

static int set_kernel(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.kernel = value;
	return *value ? 0 : -EINVAL;
}

static int set_initrd(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.initrd = value;
	return *value ? 0 : -EINVAL;
}

static int set_cmdline(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	o->cfg.cmdline = value;
	return strlen(value) < VM_CMDLINE_BYTES_MAX ? 0 : -EINVAL;
}

static int set_mem_backend(void *settings, const char *value)
{
	struct guest_opts *o = settings;

	return vm_mem_backend_parse(value, &o->cfg.mem_backend);
}

static const struct cli_opt opts[] = {
	GUEST_OPT_NAME,
	{ .name = "mem",
	  .arg = "SIZE",
	  .help = "guest memory, 2M to 512G in whole pages (default 512M)",
	  .set = set_mem },
	{ .name = "cpus",
	  .arg = "N",
	  .help = "vCPUs, 1 to 64 (default 1)",
	  .set = set_cpus },
	{ .name = "kernel",
	  .arg = "FILE",
	  .help = "ELF with a PVH note, Linux bzImage or vmlinux",
	  .set = set_kernel },
	{ .name = "initrd",
	  .arg = "FILE",
	  .help = "initial RAM disk (default: none)",
	  .set = set_initrd },
	{ .name = "cmdline",
	  .arg = "TEXT",
	  .help = "kernel command line (default: empty)",
	  .set = set_cmdline },
	GUEST_OPT_DISK("a disk: a file or block device, raw; up to 16, in the "
		       "order given"),
	GUEST_OPT_NET("a network device on this tap; up to 8 (default mac: "
		      "a random one)"),
	GUEST_OPT_VSOCK("cid=N,path=F",
			"sockets to the host: the guest is N (3 or more), "
			"unix sockets F and F_PORT"),
	GUEST_OPT_SERIAL,
	GUEST_OPT_CONSOLE("add a virtio console that leads there"),
	CLI_FLAG("rng", struct guest_opts, cfg.rng,
		 "add a source of random numbers"),
	CLI_FLAG("balloon", struct guest_opts, cfg.balloon,
		 "add a balloon, for vmmd balloon and pages the guest frees"),
	{ .name = "mem-backend",
	  .arg = "anon|memfd|hugetlb",
	  .help = "what guest memory is made of (default anon)",
	  .set = set_mem_backend },
	GUEST_OPT_DIRTY_RING,
	{ .name = "config",
	  .arg = "FILE",
	  .help = "JSON object with these options as keys; the command line "
		  "wins" },
	GUEST_OPT_DETACH,
	{ 0 },
};

static int run(const struct cli_cmd *cmd, int argc, char **argv)
{
	static struct guest_opts o = {
		.cfg = { .origin = FROM_KERNEL,
			 .ram_bytes = MEM_DEFAULT,
			 .nr_cpus = 1,
			 .mem_backend = VM_MEM_ANON,
			 .cmdline = "" },
	};
	struct cli_call call;
	int ret;

	if (!guest_opts_parse(cmd, argc, argv, &o, &call, &ret))
		return ret;
	if (!o.cfg.kernel)
		return cli_usage(&call, "--kernel is needed");
	if (o.cfg.vsock_given && o.cfg.vsock.cid == 0)
		return cli_usage(&call, "--vsock needs a cid");
	return daemon_main(&o.cfg);
}

const struct cli_cmd cli_cmd_run = {
	.name = "run",
	.summary = "Boot a guest from a kernel",
	.args = "",
	.opts = opts,
	.details =
		"The process lives as long as the guest. On a terminal, Ctrl-A "
		"x stops it.\n"
		"KVM can only add a dirty ring before the first vCPU exists: "
		"with --dirty-ring\n"
		"migrations use the tracker 'ring', without it one of the "
		"others.\n"
		"A disk is locked while the guest has it: nobody else may run "
		"on it. A comma in a path\n"
		"is doubled. In the file of --config, options that may be "
		"repeated are lists.\n\n"
		"Example:\n  vmmd run --name a --mem 512M --cpus 2 --kernel "
		"bzImage --detach\n",
	.run = run,
};
