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
	{ "mem", "SIZE",
	  "guest memory, 2M to 512G in whole pages (default 512M)", set_mem },
	{ "cpus", "N", "vCPUs, 1 to 64 (default 1)", set_cpus },
	{ "kernel", "FILE", "ELF with a PVH note, Linux bzImage or vmlinux",
	  set_kernel },
	{ "initrd", "FILE", "initial RAM disk (default: none)", set_initrd },
	{ "cmdline", "TEXT", "kernel command line (default: empty)",
	  set_cmdline },
	GUEST_OPT_DISK,
	GUEST_OPT_NET,
	GUEST_OPT_SERIAL,
	{ "mem-backend", "anon|memfd|hugetlb",
	  "what guest memory is made of (default anon)", set_mem_backend },
	GUEST_OPT_DIRTY_RING,
	{ "config", "FILE",
	  "JSON object with these options as keys; the command line wins",
	  NULL },
	GUEST_OPT_DETACH,
	GUEST_OPT_JSON,
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
	char **args;
	int ret;

	if (!cli_opts_parse(cmd, argc, argv, &o, &args, &ret))
		return ret;
	ret = guest_opts_check(cmd, &o);
	if (ret != CLI_DONE)
		return ret;
	if (!o.cfg.kernel)
		return cli_usage(cmd, "--kernel is needed");
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
		"others.\n\n"
		"Example:\n  vmmd run --name a --mem 512M --cpus 2 --kernel "
		"bzImage --detach\n",
	.run = run,
};
