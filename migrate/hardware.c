#include "migrate/hardware.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/hardware_internal.h"

void mig_objectf(const struct mig_objector *o, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	o->object(o->ctx, line);
}

/* ---- what a machine has ---- */

static int copy_disks(struct vm *vm, struct mig_hardware *h)
{
	size_t i, nr = vm_nr_disks(vm);

	if (nr > MIG_DISKS_MAX)
		return -E2BIG;
	for (i = 0; i < nr; i++) {
		vm_disk_info(vm, i, &h->disks[i]);
		h->disks[i].path = strdup(h->disks[i].path);
		h->nr_disks++;
		if (!h->disks[i].path)
			return -ENOMEM;
	}
	return 0;
}

static int copy_nets(struct vm *vm, struct mig_hardware *h)
{
	size_t i, nr = vm_nr_nets(vm);

	if (nr > MIG_NETS_MAX)
		return -E2BIG;
	for (i = 0; i < nr; i++) {
		vm_net_info(vm, i, &h->nets[i]);
		h->nets[i].tap = strdup(h->nets[i].tap);
		h->nr_nets++;
		if (!h->nets[i].tap)
			return -ENOMEM;
	}
	return 0;
}

static int copy_vsock(struct vm *vm, struct mig_hardware *h)
{
	const struct vm_vsock_config *have = vm_vsock_info(vm);

	if (!have)
		return 0;
	h->has_vsock = true;
	h->vsock = *have;
	h->vsock.path = strdup(have->path);
	return h->vsock.path ? 0 : -ENOMEM;
}

int mig_hardware_of(struct vm *vm, struct mig_hardware *ret_hardware)
{
	struct mig_hardware h = {
		.console = vm_has_console(vm),
		.rng = vm_has_rng(vm),
		.balloon = vm_has_balloon(vm),
	};
	int ret;

	ret = copy_disks(vm, &h);
	if (ret == 0)
		ret = copy_nets(vm, &h);
	if (ret == 0)
		ret = copy_vsock(vm, &h);
	if (ret == 0)
		ret = vm_boot_files_copy(vm_boot_files(vm), &h.boot_files);
	if (ret < 0)
		mig_hardware_fini(&h);
	else
		*ret_hardware = h;
	return ret;
}

void mig_hardware_fini(struct mig_hardware *h)
{
	while (h->nr_disks > 0)
		free((char *)h->disks[--h->nr_disks].path);
	while (h->nr_nets > 0)
		free((char *)h->nets[--h->nr_nets].tap);
	if (h->has_vsock)
		free((char *)h->vsock.path);
	h->has_vsock = false;
	vm_boot_files_fini(&h->boot_files);
}

bool mig_hardware_is_any(const struct mig_hardware *h)
{
	return h->nr_disks > 0 || h->nr_nets > 0 || h->has_vsock ||
	       h->console || h->rng || h->balloon || h->boot_files.kernel;
}

/* ---- with what the host has instead ---- */

/* True when each of the guest's can have one of what was given. */
static bool counts_match(const char *what, size_t guest, size_t given,
			 const struct mig_objector *o)
{
	if (given == 0 || given == guest)
		return true;
	mig_objectf(o,
		    "%zu --%s given here, but the guest has %zu: give one for "
		    "each of them, or none",
		    given, what, guest);
	return false;
}

static void plan_disk(const struct mig_hardware *h, size_t i,
		      const struct vm_disk_config *given,
		      struct vm_disk_config *plan, const struct mig_objector *o)
{
	*plan = (struct vm_disk_config){
		.path = given ? given->path : h->disks[i].path,
		.read_only = h->disks[i].read_only,
		.direct = given ? given->direct : h->disks[i].direct,
	};
	if (given && given->read_only && !plan->read_only)
		mig_objectf(o,
			    "disk %zu (%s): given as read-only here, but the "
			    "guest may write to it",
			    i, given->path);
}

static void mac_text(const uint8_t mac[6], char text[18])
{
	snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
		 mac[2], mac[3], mac[4], mac[5]);
}

static void plan_net(const struct mig_hardware *h, size_t i,
		     const struct vm_net_config *given,
		     struct vm_net_config *plan, const struct mig_objector *o)
{
	static const uint8_t unset[sizeof(given->mac)];
	char guest[18];

	plan->tap = given ? given->tap : h->nets[i].tap;
	memcpy(plan->mac, h->nets[i].mac, sizeof(plan->mac));
	if (!given || memcmp(given->mac, unset, sizeof(unset)) == 0 ||
	    memcmp(given->mac, plan->mac, sizeof(plan->mac)) == 0)
		return;
	mac_text(plan->mac, guest);
	mig_objectf(o,
		    "net %zu (%s): another mac was given here than the "
		    "guest's, which is %s",
		    i, given->tap, guest);
}

static void plan_vsock(const struct mig_hardware *h,
		       const struct vm_vsock_config *given,
		       struct vm_vsock_config *plan,
		       const struct mig_objector *o)
{
	if (given && !h->has_vsock) {
		mig_objectf(o, "--vsock given here, but the guest has none");
		return;
	}
	plan->cid = h->vsock.cid;
	plan->path = given ? given->path : h->vsock.path;
	if (given && given->cid != 0 && given->cid != plan->cid)
		mig_objectf(o,
			    "vsock: cid %u was given here, but the guest has "
			    "cid %u",
			    given->cid, plan->cid);
}

void mig_hardware_plan(const struct mig_hardware *h,
		       const struct mig_host_side *host, struct mig_plan *plan,
		       struct vm_config *cfg, const struct mig_objector *o)
{
	bool disks, nets;
	size_t i;

	*plan = (struct mig_plan){ 0 };
	disks = counts_match("disk", h->nr_disks, host->nr_disks, o) &&
		host->nr_disks > 0;
	nets = counts_match("net", h->nr_nets, host->nr_nets, o) &&
	       host->nr_nets > 0;
	for (i = 0; i < h->nr_disks; i++)
		plan_disk(h, i, disks ? &host->disks[i] : NULL, &plan->disks[i],
			  o);
	for (i = 0; i < h->nr_nets; i++)
		plan_net(h, i, nets ? &host->nets[i] : NULL, &plan->nets[i], o);
	plan_vsock(h, host->vsock, &plan->vsock, o);
	if (host->console && !h->console)
		mig_objectf(o, "--console given here, but the guest has none");
	cfg->disks = plan->disks;
	cfg->nr_disks = h->nr_disks;
	cfg->nets = plan->nets;
	cfg->nr_nets = h->nr_nets;
	cfg->vsock = h->has_vsock ? &plan->vsock : NULL;
	cfg->console = h->console;
	cfg->rng = h->rng;
	cfg->balloon = h->balloon;
	cfg->boot_files = h->boot_files;
}
