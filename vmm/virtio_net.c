/*
 * vmm/virtio_net.c: the network card: what it offers, its control queue, its
 * life. Frames are virtio_net_rx.c's and virtio_net_tx.c's.
 *
 * Configuration (section 5.1.4): the MAC address, then a le16 of status bits.
 */
#include "vmm/virtio_net.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "vmm/virtio_devices.h"
#include "vmm/vm_internal.h"

#define NET_TYPE      1
#define NET_PCI_CLASS 0x020000 /* Ethernet */
#define NET_ENTRIES   256

#define CONFIG_STATUS 6
#define CONFIG_BYTES  8

/* Status bits. */
#define NET_S_LINK_UP  1
#define NET_S_ANNOUNCE 2

/* Control queue, section 5.1.6.5: a class and a command, answered by one byte. */
#define CTRL_HEAD_BYTES       2
#define NET_CTRL_ANNOUNCE     3
#define NET_CTRL_ANNOUNCE_ACK 0
#define NET_CTRL_OK           0
#define NET_CTRL_ERR          1

#define MAC_GROUP 0x01 /* of the first byte: not one card's address */
#define MAC_LOCAL 0x02 /* not given by a manufacturer */

#define FEATURES                                                               \
	(VIRTIO_NET_F_CSUM | VIRTIO_NET_F_GUEST_CSUM | VIRTIO_NET_F_MAC |      \
	 VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6 |                   \
	 VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6 |                     \
	 VIRTIO_NET_F_MRG_RXBUF | VIRTIO_NET_F_STATUS | VIRTIO_NET_F_CTRL_VQ | \
	 VIRTIO_NET_F_GUEST_ANNOUNCE)

struct net_state {
	uint8_t mac[NET_MAC_BYTES];
};

static const struct vm_field net_fields[] = {
	VM_FIELD(0x1000, VM_FIELD_BYTES, struct net_state, mac),
};

static struct virtio_net *to_net(struct virtio_device *v)
{
	return (struct virtio_net *)v;
}

static bool mac_is_good(const uint8_t mac[NET_MAC_BYTES])
{
	static const uint8_t none[NET_MAC_BYTES];

	return !(mac[0] & MAC_GROUP) && memcmp(mac, none, sizeof(none)) != 0;
}

static void set_mac(struct virtio_net *n, const uint8_t mac[NET_MAC_BYTES])
{
	if (memcmp(n->mac, mac, NET_MAC_BYTES) == 0)
		return;
	memcpy(n->mac, mac, NET_MAC_BYTES);
	virtio_config_changed(&n->v, 0, mac, NET_MAC_BYTES);
}

static void set_status(struct virtio_net *n, uint16_t status)
{
	const uint8_t le[2] = { (uint8_t)status, (uint8_t)(status >> 8) };

	if (n->status == status)
		return;
	n->status = status;
	virtio_config_changed(&n->v, CONFIG_STATUS, le, sizeof(le));
}

void virtio_net_lost(struct virtio_net *n)
{
	set_status(n, n->status & (uint16_t)~NET_S_LINK_UP);
}

static uint8_t obey(struct virtio_net *n, const struct virtio_chain *c)
{
	uint8_t head[CTRL_HEAD_BYTES];

	if (c->out_bytes != CTRL_HEAD_BYTES ||
	    virtio_drain(c, 0, head, sizeof(head)) != sizeof(head) ||
	    head[0] != NET_CTRL_ANNOUNCE || head[1] != NET_CTRL_ANNOUNCE_ACK ||
	    !virtio_has(&n->v, VIRTIO_NET_F_GUEST_ANNOUNCE))
		return NET_CTRL_ERR;
	set_status(n, n->status & (uint16_t)~NET_S_ANNOUNCE);
	return NET_CTRL_OK;
}

static void control_kicked(struct virtio_net *n, struct virtio_queue *q)
{
	struct virtio_chain c;

	while (virtio_pop(q, &c) == 1) {
		uint8_t answer;

		if (c.in_bytes == 0) {
			virtio_broken(&n->v, "a control request has no room "
					     "for the answer");
			return;
		}
		answer = obey(n, &c);
		virtio_fill(&n->v, &c, 0, &answer, sizeof(answer));
		virtio_push(q, c.head, sizeof(answer));
	}
	virtio_notify(q);
}

static void net_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct virtio_net *n = to_net(v);

	if (q->index == NET_RX)
		virtio_net_rx_kicked(n);
	else if (q->index == NET_TX)
		virtio_net_tx_kicked(n);
	else
		control_kicked(n, q);
}

/* The kernel refuses segments without checksums. */
static unsigned int wanted_offload(const struct virtio_device *v)
{
	unsigned int flags = 0;

	if (!virtio_has(v, VIRTIO_NET_F_GUEST_CSUM))
		return 0;
	if (virtio_has(v, VIRTIO_NET_F_GUEST_TSO4))
		flags |= TUN_F_TSO4;
	if (virtio_has(v, VIRTIO_NET_F_GUEST_TSO6))
		flags |= TUN_F_TSO6;
	return TUN_F_CSUM | flags;
}

/*
 * What waits in the tap was made under the old rules, and perhaps before this
 * guest was here: it is thrown away rather than shown to a driver that does not
 * expect it.
 */
static int set_offload(struct virtio_net *n)
{
	unsigned int flags = wanted_offload(&n->v);
	int ret;

	if (flags == n->offload)
		return 0;
	ret = tap_set_offload(n->tap, flags);
	if (ret < 0)
		return ret;
	n->offload = flags;
	tap_drain(n->tap);
	return 0;
}

static int net_start(struct virtio_device *v)
{
	struct virtio_net *n = to_net(v);
	int ret = set_offload(n);

	if (ret == -EBADFD)
		virtio_net_lost(n);
	else if (ret < 0)
		return ret;
	if (n->announce_to_guest && virtio_has(v, VIRTIO_NET_F_GUEST_ANNOUNCE))
		set_status(n, n->status | NET_S_ANNOUNCE);
	n->announce_to_guest = false;
	virtio_net_tx_announce(n);
	return 0;
}

static void net_stop(struct virtio_device *v)
{
	virtio_net_tx_stop(to_net(v));
	virtio_net_rx_stop(to_net(v));
}

static void net_reset(struct virtio_device *v)
{
	struct virtio_net *n = to_net(v);

	set_status(n, n->status & (uint16_t)~NET_S_ANNOUNCE);
	n->announce_to_guest = false;
	n->nr_announces = 0;
}

static void net_save(struct virtio_device *v, void *state)
{
	struct net_state *s = state;

	memcpy(s->mac, to_net(v)->mac, sizeof(s->mac));
}

/* What was announced and acknowledged elsewhere tells nobody where it is now. */
static int net_load(struct virtio_device *v, const void *state)
{
	const struct net_state *s = state;
	struct virtio_net *n = to_net(v);

	if (!mac_is_good(s->mac))
		return -EINVAL;
	set_mac(n, s->mac);
	n->announce_to_guest = true;
	n->nr_announces = NET_ANNOUNCES;
	return 0;
}

static void net_free(struct virtio_device *v)
{
	close(to_net(v)->tap);
	free(v);
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.type = NET_TYPE,
	.pci_class = NET_PCI_CLASS,
	.start = net_start,
	.kicked = net_kicked,
	.stop = net_stop,
	.reset = net_reset,
	.fields = net_fields,
	.nr_fields = sizeof(net_fields) / sizeof(net_fields[0]),
	.state_bytes = sizeof(struct net_state),
	.save = net_save,
	.load = net_load,
	.free = net_free,
};

static int choose_mac(const struct vm_net_config *cfg,
		      uint8_t ret_mac[NET_MAC_BYTES], char **err)
{
	static const uint8_t none[NET_MAC_BYTES];

	memcpy(ret_mac, cfg->mac, NET_MAC_BYTES);
	if (memcmp(ret_mac, none, sizeof(none)) == 0) {
		if (getrandom(ret_mac, NET_MAC_BYTES, 0) != NET_MAC_BYTES)
			return vm_err(err, -EIO, "no random MAC address");
		ret_mac[0] = (ret_mac[0] & (uint8_t)~MAC_GROUP) | MAC_LOCAL;
	}
	if (!mac_is_good(ret_mac))
		return vm_err(err, -EINVAL,
			      "tap %s: the MAC address is a group's", cfg->tap);
	return 0;
}

int virtio_net_new(struct vm *vm, unsigned int index,
		   const struct vm_net_config *cfg,
		   struct virtio_device **ret_device, char **err)
{
	struct virtio_net *n = calloc(1, sizeof(*n));
	uint8_t mac[NET_MAC_BYTES];
	int ret;

	if (!n)
		return vm_err(err, -ENOMEM, "no memory for a network card");
	ret = choose_mac(cfg, mac, err);
	if (ret < 0)
		goto free_n;
	ret = tap_open(cfg->tap, &n->tap, err);
	if (ret < 0)
		goto free_n;
	memcpy(n->tap_name, cfg->tap,
	       strlen(cfg->tap)); /* tap_open() checked */
	ret = virtio_device_init(&n->v, &net_ops, vm, index, NET_NR_QUEUES,
				 NET_ENTRIES, FEATURES, CONFIG_BYTES);
	if (ret < 0) {
		vm_err(err, ret, "network card %u: %s", index, strerror(-ret));
		goto close_tap;
	}
	virtio_net_rx_init(n);
	virtio_net_tx_init(n);
	memcpy(n->mac, mac, sizeof(mac));
	memcpy(n->v.config, mac, sizeof(mac));
	n->status = NET_S_LINK_UP;
	n->v.config[CONFIG_STATUS] = NET_S_LINK_UP;
	*ret_device = &n->v;
	return 0;
close_tap:
	close(n->tap);
free_n:
	free(n);
	return ret;
}

void virtio_net_info(struct virtio_device *v, struct vm_net_info *ret_info)
{
	const struct virtio_net *n = to_net(v);

	ret_info->tap = n->tap_name;
	memcpy(ret_info->mac, n->mac, sizeof(n->mac));
}
