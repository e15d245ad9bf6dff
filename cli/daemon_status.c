#include "cli/daemon_internal.h"

#include <stdio.h>
#include <unistd.h>

#include "migrate/clock.h"
#include "migrate/guest.h"

static void set_progress(json_t *object, const char *key, const struct op *op)
{
	json_t *o = op_progress(op);

	json_object_set_new(o, "kind", json_string(op_name(op)));
	json_object_set_new(object, key, o);
}

static json_t *guest_fields(const struct daemon *d)
{
	struct vm *vm = d->guest->vm;
	struct vm_mem *mem = vm_mem(vm);

	return json_pack(
		"{s:i, s:I, s:I, s:I, s:s, s:i}", "vcpus", (int)vm_nr_cpus(vm),
		"memory_bytes", (json_int_t)vm_mem_bytes(mem), "resident_bytes",
		(json_int_t)d->resident_bytes, "missing_pages",
		(json_int_t)mig_guest_missing_pages(d->guest), "mem_backend",
		vm_mem_backend_name(vm_mem_backend(mem)), "dirty_ring_entries",
		(int)vm_dirty_ring_entries(vm));
}

static json_t *disk_entry(struct vm *vm, size_t i)
{
	struct vm_disk_info disk;

	vm_disk_info(vm, i, &disk);
	return json_pack("{s:s, s:s, s:I, s:b, s:b}", "type", "disk", "path",
			 disk.path, "bytes", (json_int_t)disk.bytes,
			 "read_only", disk.read_only, "direct", disk.direct);
}

static json_t *net_entry(struct vm *vm, size_t i)
{
	struct vm_net_info net;
	char mac[18];

	vm_net_info(vm, i, &net);
	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", net.mac[0],
		 net.mac[1], net.mac[2], net.mac[3], net.mac[4], net.mac[5]);
	return json_pack("{s:s, s:s, s:s}", "type", "net", "tap", net.tap,
			 "mac", mac);
}

/* In the order of their PCI slots. */
static json_t *devices(struct vm *vm)
{
	const struct vm_vsock_config *vsock = vm_vsock_info(vm);
	json_t *list = json_array();
	size_t i;

	for (i = 0; i < vm_nr_disks(vm); i++)
		json_array_append_new(list, disk_entry(vm, i));
	for (i = 0; i < vm_nr_nets(vm); i++)
		json_array_append_new(list, net_entry(vm, i));
	if (vm_has_console(vm))
		json_array_append_new(list,
				      json_pack("{s:s}", "type", "console"));
	if (vm_has_rng(vm))
		json_array_append_new(list, json_pack("{s:s}", "type", "rng"));
	if (vsock)
		json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "type",
						      "vsock", "cid",
						      (json_int_t)vsock->cid,
						      "path", vsock->path));
	if (vm_has_balloon(vm))
		json_array_append_new(
			list, json_pack("{s:s, s:I}", "type", "balloon",
					"actual_bytes",
					(json_int_t)vm_balloon_actual(vm)));
	return list;
}

json_t *daemon_status_report(const struct daemon *d)
{
	json_t *o = json_pack(
		"{s:s, s:s, s:i, s:f, s:s*, s:s*, s:s*, s:s*}", "name",
		d->cfg->name, "state", daemon_state_name(d), "pid",
		(int)getpid(), "uptime_s",
		(double)(mig_now_us() - d->begin_us) / 1e6, "kernel",
		d->cfg->kernel, "listen", d->listen_uri, "pty",
		serial_pty(d->serial), "console_pty", serial_pty(d->console));
	json_t *guest;

	if (d->guest) {
		guest = guest_fields(d);
		json_object_update(o, guest);
		json_decref(guest);
		json_object_set_new(o, "devices", devices(d->guest->vm));
	}
	if (d->op) {
		set_progress(o, "operation", d->op);
		json_object_set_new(json_object_get(o, "operation"), "target",
				    json_string(d->op_target));
	}
	if (d->arrival)
		set_progress(o, "arrival", d->arrival);
	if (d->arrived)
		json_object_set(o, "arrived", d->arrived);
	return o;
}
