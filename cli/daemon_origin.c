#include "cli/daemon_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/log.h"
#include "migrate/net.h"

/* What a command prints when its guest is ready. */
static json_t *ready_report(const struct daemon *d, const char *result)
{
	return json_pack("{s:s, s:s, s:i, s:s*, s:s*, s:s*}", "result", result,
			 "name", d->cfg->name, "pid", (int)getpid(), "listen",
			 d->listen_uri, "pty", serial_pty(d->serial),
			 "console_pty", serial_pty(d->console));
}

static char *add_pty(char *text, const char *what, const struct serial *s)
{
	char *longer;

	if (!text || !serial_pty(s))
		return text;
	longer = cli_line("%s, %s on %s", text, what, serial_pty(s));
	free(text);
	return longer;
}

static void announce_ready(struct daemon *d, json_t *report)
{
	char *text;

	if (d->cfg->origin == FROM_PEER)
		text = cli_line("listening on %s", d->listen_uri);
	else
		text = cli_line("running, process %d", (int)getpid());
	text = add_pty(text, "serial port", d->serial);
	text = add_pty(text, "console", d->console);
	daemon_announce(d, report, text ? text : "");
	free(text);
}

/* Non-blocking only for the open: a FIFO must not hang us. */
static int open_image(const char *what, const char *path, int *ret_fd,
		      char **err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), ret;

	if (fd < 0) {
		ret = -errno;
		*err = cli_line("%s %s: %s", what, path, strerror(-ret));
		return ret;
	}
	*ret_fd = fd;
	return 0;
}

int daemon_open_boot_files(struct daemon *d, const struct vm_boot_files *files,
			   char **err)
{
	int ret = 0;

	d->boot.cmdline = files->cmdline;
	if (d->boot.kernel_fd < 0)
		ret = open_image("kernel", files->kernel, &d->boot.kernel_fd,
				 err);
	if (ret == 0 && files->initrd && d->boot.initrd_fd < 0)
		ret = open_image("initrd", files->initrd, &d->boot.initrd_fd,
				 err);
	return ret;
}

static void guest_is_here(struct daemon *d, struct mig_guest *g)
{
	d->guest = g;
	mig_collapse_start(&g->collapse);
	serial_connect(d->serial, g->vm);
	if (d->console)
		serial_connect(d->console, g->vm);
	daemon_enter_idle(d);
}

static int name_file(const char *what, const char *text, const char **ret_path,
		     char **err)
{
	*ret_path = cli_guest_path(text, PATH_MAX);
	if (*ret_path)
		return 0;
	*err = cli_line("%s: its path goes with the guest, and must neither be "
			"empty nor have control characters or %d bytes",
			what, PATH_MAX);
	return -EINVAL;
}

/* For whoever boots it again, here or elsewhere. Also undone after a failure. */
static int name_boot_files(const struct daemon_config *cfg,
			   struct vm_boot_files *files, char **err)
{
	int ret = name_file("kernel", cfg->kernel, &files->kernel, err);

	if (ret == 0 && cfg->initrd)
		ret = name_file("initrd", cfg->initrd, &files->initrd, err);
	if (ret < 0)
		return ret;
	files->cmdline = strdup(cfg->cmdline);
	return files->cmdline ? 0 : -ENOMEM;
}

static int new_vm(struct daemon *d, struct vm **ret_vm, char **err)
{
	struct vm_config vm_cfg = {
		.ram_bytes = d->cfg->ram_bytes,
		.nr_cpus = (unsigned int)d->cfg->nr_cpus,
		.mem_backend = d->cfg->mem_backend,
		.dirty_ring_entries = d->cfg->dirty_ring_entries,
		.disks = d->cfg->disks,
		.nr_disks = d->cfg->nr_disks,
		.nets = d->cfg->nets,
		.nr_nets = d->cfg->nr_nets,
		.vsock = d->cfg->vsock_given ? &d->cfg->vsock : NULL,
		.console = d->cfg->console_given,
		.rng = d->cfg->rng,
		.balloon = d->cfg->balloon,
	};
	int ret;

	ret = name_boot_files(d->cfg, &vm_cfg.boot_files, err);
	if (ret == 0)
		ret = daemon_open_boot_files(d, &vm_cfg.boot_files, err);
	if (ret == 0)
		ret = vm_new(&vm_cfg, &daemon_vm_ops, d, ret_vm, err);
	vm_boot_files_fini(&vm_cfg.boot_files);
	d->boot.cmdline = d->cfg->cmdline;
	return ret;
}

static int begin_kernel(struct daemon *d, char **err)
{
	struct mig_guest *g = NULL;
	struct vm *vm = NULL;
	int ret;

	ret = new_vm(d, &vm, err);
	if (ret < 0)
		return ret;
	ret = mig_guest_new(vm, &g);
	if (ret < 0) {
		vm_free(vm);
		return ret;
	}
	ret = vm_boot(vm, &d->boot, err);
	if (ret == 0)
		ret = vm_start(vm);
	if (ret == 0)
		ret = mig_guest_resume(g, err);
	if (ret < 0) {
		mig_guest_free(g);
		return ret;
	}
	guest_is_here(d, g);
	announce_ready(d, ready_report(d, "running"));
	return 0;
}

static struct mig_host_side host_side(const struct daemon_config *cfg)
{
	return (struct mig_host_side){
		.disks = cfg->disks,
		.nr_disks = cfg->nr_disks,
		.nets = cfg->nets,
		.nr_nets = cfg->nr_nets,
		.vsock = cfg->vsock_given ? &cfg->vsock : NULL,
		.console = cfg->console_given,
	};
}

static int begin_peer(struct daemon *d, char **err)
{
	struct op_owner owner = { d->loop, daemon_on_arrival, d };
	struct mig_dest_config cfg = {
		.dirty_ring_entries = d->cfg->dirty_ring_entries,
		.host = host_side(d->cfg),
		.vm_ops = &daemon_vm_ops,
		.vm_ctx = d,
	};
	const char *host = d->cfg->listen.host;
	bool v6 = strchr(host, ':') != NULL;
	uint16_t port;
	int ret;

	ret = mig_net_listen(&d->cfg->listen, &cfg.listen_fd, &port, err);
	if (ret < 0)
		return ret;
	d->listen_uri = cli_line("tcp://%s%s%s:%u", v6 ? "[" : "", host,
				 v6 ? "]" : "", port);
	ret = op_receive(&owner, &cfg, &d->arrival, err);
	if (ret < 0) {
		close(cfg.listen_fd);
		return ret;
	}
	daemon_enter(d, DAEMON_INCOMING);
	announce_ready(d, ready_report(d, "listening"));
	return 0;
}

static int begin_snapshot(struct daemon *d, char **err)
{
	struct op_owner owner = { d->loop, daemon_on_arrival, d };
	struct mig_restore_config cfg = {
		.dir = d->cfg->dir,
		.lazy = d->cfg->lazy,
		.dirty_ring_entries = d->cfg->dirty_ring_entries,
		.host = host_side(d->cfg),
		.vm_ops = &daemon_vm_ops,
		.vm_ctx = d,
	};

	return op_restore(&owner, &cfg, &d->arrival, err);
}

int daemon_begin(struct daemon *d, char **err)
{
	switch (d->cfg->origin) {
	case FROM_KERNEL:
		return begin_kernel(d, err);
	case FROM_PEER:
		return begin_peer(d, err);
	case FROM_SNAPSHOT:
		return begin_snapshot(d, err);
	}
	return -EINVAL;
}

/* A restore is announced with its own report. */
static void announce_restored(struct daemon *d, json_t *report)
{
	json_t *more = ready_report(d, "running");

	json_object_update_missing(report, more);
	json_decref(more);
	announce_ready(d, report);
}

/*
 * Somebody who waits for the whole report in the foreground gets it when it is
 * whole; everybody else wants to know that the guest runs.
 */
static bool announce_at_start(const struct daemon *d)
{
	return d->cfg->origin == FROM_SNAPSHOT &&
	       (d->cfg->detach || !d->cfg->json);
}

static void on_guest_runs(struct daemon *d, struct mig_guest *g)
{
	guest_is_here(d, g);
	if (announce_at_start(d))
		announce_restored(d, op_report(d->arrival));
	else if (d->cfg->origin == FROM_PEER)
		cli_log("the guest runs here");
}

void daemon_on_arrival(void *daemon)
{
	struct daemon *d = daemon;
	struct mig_status status;
	struct mig_guest *g;

	if (!d->arrival || d->state == DAEMON_ENDED)
		return;
	op_status(d->arrival, &status);
	g = d->guest ? NULL : op_guest(d->arrival);
	if (g)
		on_guest_runs(d, g);
	if (status.phase == MIG_FAILED || status.phase == MIG_CANCELLED)
		daemon_end(d, CLI_FAILED, "%s",
			   status.error[0] ? status.error
					   : mig_phase_name(status.phase));
	else if (status.phase == MIG_PAUSED && d->arrival_seen != MIG_PAUSED)
		cli_log("paused: %s", status.error);
	d->arrival_seen = status.phase;
	daemon_settle(d);
}

void daemon_retire_arrival(struct daemon *d)
{
	d->arrived = op_report(d->arrival);
	if (d->cfg->origin == FROM_SNAPSHOT)
		announce_restored(d, json_incref(d->arrived));
	else
		cli_log("all of the guest's memory is here");
	op_free(d->arrival);
	d->arrival = NULL;
}

void daemon_origin_fini(struct daemon *d)
{
	if (d->boot.kernel_fd >= 0)
		close(d->boot.kernel_fd);
	if (d->boot.initrd_fd >= 0)
		close(d->boot.initrd_fd);
	free(d->listen_uri);
}
