#include "migrate/hardware_codec.h"

#include <errno.h>
#include <limits.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "migrate/say.h"
#include "vmm/boot.h"

static void fill_disk(Vmmd__Disk *msg, const struct vm_disk_info *d)
{
	vmmd__disk__init(msg);
	msg->path = (char *)d->path;
	msg->bytes = d->bytes;
	msg->features = d->features;
	msg->nr_queues = d->nr_queues;
	msg->read_only = d->read_only;
	msg->direct = d->direct;
}

static void fill_net(Vmmd__Net *msg, const struct vm_net_info *n)
{
	vmmd__net__init(msg);
	msg->tap = (char *)n->tap;
	msg->mac.data = (uint8_t *)n->mac;
	msg->mac.len = sizeof(n->mac);
	msg->features = n->features;
	msg->nr_queues = n->nr_queues;
}

/* protobuf-c's empty string is one that it compares by address. */
static char *text_or_empty(const char *text)
{
	return text ? (char *)text : (char *)protobuf_c_empty_string;
}

static void fill_boot_files(struct mig_hardware_msg *m,
			    const struct vm_boot_files *f)
{
	vmmd__boot_files__init(&m->boot_files);
	m->boot_files.kernel = (char *)f->kernel;
	m->boot_files.initrd = text_or_empty(f->initrd);
	m->boot_files.cmdline = text_or_empty(f->cmdline);
	m->msg.boot_files = &m->boot_files;
}

void mig_hardware_fill(const struct mig_hardware *h, struct mig_hardware_msg *m)
{
	size_t i;

	vmmd__hardware__init(&m->msg);
	for (i = 0; i < h->nr_disks; i++) {
		fill_disk(&m->disks[i], &h->disks[i]);
		m->disk_list[i] = &m->disks[i];
	}
	m->msg.disks = m->disk_list;
	m->msg.n_disks = h->nr_disks;
	for (i = 0; i < h->nr_nets; i++) {
		fill_net(&m->nets[i], &h->nets[i]);
		m->net_list[i] = &m->nets[i];
	}
	m->msg.nets = m->net_list;
	m->msg.n_nets = h->nr_nets;
	if (h->has_vsock) {
		vmmd__vsock__init(&m->vsock);
		m->vsock.cid = h->vsock.cid;
		m->vsock.path = (char *)h->vsock.path;
		m->msg.vsock = &m->vsock;
	}
	if (h->boot_files.kernel)
		fill_boot_files(m, &h->boot_files);
	m->msg.console = h->console;
	m->msg.rng = h->rng;
	m->msg.balloon = h->balloon;
}

/* A path that some process may be asked to open: absolute and printable. */
static bool path_ok(const char *path, size_t bytes_max)
{
	const unsigned char *p = (const unsigned char *)path;

	if (path[0] != '/' || strlen(path) >= bytes_max)
		return false;
	for (; *p; p++) {
		if (*p < ' ' || *p == 0x7f)
			return false;
	}
	return true;
}

static bool tap_ok(const char *tap)
{
	size_t bytes = strlen(tap);

	return bytes > 0 && bytes < IF_NAMESIZE && tap[0] != '.' &&
	       strspn(tap, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			   "abcdefghijklmnopqrstuvwxyz"
			   "0123456789_.-") == bytes;
}

static int take_disk(const Vmmd__Disk *msg, size_t i, struct mig_hardware *h,
		     char **err)
{
	struct vm_disk_info *d = &h->disks[i];

	if (!path_ok(msg->path, PATH_MAX))
		return mig_say(err, -EBADMSG, "disk %zu: its path is no path",
			       i);
	if (msg->bytes > INT64_MAX || msg->nr_queues < 1 ||
	    msg->nr_queues > MIG_QUEUES_MAX)
		return mig_say(err, -EBADMSG,
			       "disk %zu: a value is out of range", i);
	*d = (struct vm_disk_info){
		.path = strdup(msg->path),
		.bytes = msg->bytes,
		.features = msg->features,
		.nr_queues = msg->nr_queues,
		.read_only = msg->read_only,
		.direct = msg->direct,
	};
	if (!d->path)
		return -ENOMEM;
	h->nr_disks++;
	return 0;
}

static int take_net(const Vmmd__Net *msg, size_t i, struct mig_hardware *h,
		    char **err)
{
	struct vm_net_info *n = &h->nets[i];

	if (!tap_ok(msg->tap))
		return mig_say(err, -EBADMSG,
			       "net %zu: its tap has no name that could be one",
			       i);
	if (msg->mac.len != sizeof(n->mac) || msg->nr_queues < 1 ||
	    msg->nr_queues > MIG_QUEUES_MAX)
		return mig_say(err, -EBADMSG,
			       "net %zu: a value is out of range", i);
	*n = (struct vm_net_info){
		.tap = strdup(msg->tap),
		.features = msg->features,
		.nr_queues = msg->nr_queues,
	};
	if (!n->tap)
		return -ENOMEM;
	memcpy(n->mac, msg->mac.data, sizeof(n->mac));
	h->nr_nets++;
	return 0;
}

static int take_vsock(const Vmmd__Vsock *msg, struct mig_hardware *h,
		      char **err)
{
	if (msg->cid < MIG_CID_MIN || msg->cid == UINT32_MAX ||
	    !path_ok(msg->path, sizeof(((struct sockaddr_un *)0)->sun_path)))
		return mig_say(err, -EBADMSG, "vsock: a value is out of range");
	h->vsock.cid = msg->cid;
	h->vsock.path = strdup(msg->path);
	if (!h->vsock.path)
		return -ENOMEM;
	h->has_vsock = true;
	return 0;
}

static int take_boot_files(const Vmmd__BootFiles *msg, struct mig_hardware *h,
			   char **err)
{
	bool initrd = msg->initrd[0] != '\0';

	if (!path_ok(msg->kernel, PATH_MAX) ||
	    (initrd && !path_ok(msg->initrd, PATH_MAX)) ||
	    strlen(msg->cmdline) >= VM_CMDLINE_BYTES_MAX)
		return mig_say(
			err, -EBADMSG,
			"what it is booted from: a value is out of range");
	return vm_boot_files_copy(
		&(struct vm_boot_files){
			.kernel = msg->kernel,
			.initrd = initrd ? msg->initrd : NULL,
			.cmdline = msg->cmdline,
		},
		&h->boot_files);
}

static int take_all(const Vmmd__Hardware *msg, struct mig_hardware *h,
		    char **err)
{
	int ret = 0;
	size_t i;

	if (msg->n_disks > MIG_DISKS_MAX || msg->n_nets > MIG_NETS_MAX)
		return mig_say(err, -EBADMSG,
			       "%zu disks and %zu nets: at most %d and %d are "
			       "supported",
			       msg->n_disks, msg->n_nets, MIG_DISKS_MAX,
			       MIG_NETS_MAX);
	for (i = 0; ret == 0 && i < msg->n_disks; i++)
		ret = take_disk(msg->disks[i], i, h, err);
	for (i = 0; ret == 0 && i < msg->n_nets; i++)
		ret = take_net(msg->nets[i], i, h, err);
	if (ret == 0 && msg->vsock)
		ret = take_vsock(msg->vsock, h, err);
	if (ret == 0 && msg->boot_files)
		ret = take_boot_files(msg->boot_files, h, err);
	h->console = msg->console;
	h->rng = msg->rng;
	h->balloon = msg->balloon;
	return ret;
}

int mig_hardware_take(const Vmmd__Hardware *msg,
		      struct mig_hardware *ret_hardware, char **err)
{
	struct mig_hardware h = { 0 };
	int ret = msg ? take_all(msg, &h, err) : 0;

	if (ret < 0)
		mig_hardware_fini(&h);
	else
		*ret_hardware = h;
	return ret;
}
