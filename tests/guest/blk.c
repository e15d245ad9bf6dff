#include "blk.h"

#include "cpu.h"
#include "machine.h"
#include "pci.h"

#define VENDOR_VIRTIO 0x1af4
#define DEVICE_BLOCK  0x1042 /* 0x1040 + 2 */
#define CAP_VENDOR    0x09

/* Section 4.1.4: what a capability says, and the common configuration. */
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_DEVICE = 4 };
#define CAP_TYPE              3
#define CAP_BAR               4
#define CAP_OFFSET            8
#define CAP_NOTIFY_MULTIPLIER 16

#define COMMON_DEVICE_FEATURE_SELECT 0
#define COMMON_DEVICE_FEATURE        4
#define COMMON_DRIVER_FEATURE_SELECT 8
#define COMMON_DRIVER_FEATURE        12
#define COMMON_STATUS                20
#define COMMON_QUEUE_SELECT          22
#define COMMON_QUEUE_SIZE            24
#define COMMON_QUEUE_ENABLE          28
#define COMMON_QUEUE_NOTIFY_OFF      30
#define COMMON_QUEUE_DESC            32
#define COMMON_QUEUE_DRIVER          40
#define COMMON_QUEUE_DEVICE          48

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER      2
#define STATUS_DRIVER_OK   4
#define STATUS_FEATURES_OK 8

#define FEATURE_RO      (UINT64_C(1) << 5)
#define FEATURE_FLUSH   (UINT64_C(1) << 9)
#define FEATURE_MQ      (UINT64_C(1) << 12)
#define FEATURE_VERSION (UINT64_C(1) << 32)

#define CONFIG_CAPACITY   0 /* struct virtio_blk_config, section 5.2.4 */
#define CONFIG_NUM_QUEUES 34

#define DESC_NEXT          1
#define DESC_WRITE         2
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

#define ENTRIES       16 /* a power of two; three descriptors a slot */
#define DESCS_A_SLOT  3
#define STATUS_UNSEEN 0xff

struct desc {
	uint64_t gpa;
	uint32_t bytes;
	uint16_t flags;
	uint16_t next;
};

struct header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};

/* The used ring has pages of its own: nobody but the device writes them. */
struct queue {
	struct desc desc[ENTRIES];
	struct {
		uint16_t flags;
		volatile uint16_t index;
		uint16_t ring[ENTRIES];
	} avail;
	struct header headers[BLK_SLOTS];
	uint64_t notify_gpa;
	uint16_t next_used;
	struct {
		volatile uint16_t flags;
		volatile uint16_t index;
		volatile struct {
			uint32_t id;
			uint32_t bytes;
		} ring[ENTRIES];
	} used __attribute__((aligned(PAGE_BYTES)));
	/* Reset by us each time: one that is not answered for must show. */
	volatile uint8_t status[BLK_SLOTS] __attribute__((aligned(PAGE_BYTES)));
} __attribute__((aligned(PAGE_BYTES)));

struct blk blk;
static struct queue queues[BLK_QUEUES_MAX];
static struct {
	uint64_t common, notify, device; /* gpas */
	uint32_t notify_multiplier;
} regs;

static bool find_regs(uint32_t slot)
{
	uint32_t cap = 0;

	while ((cap = pci_find_cap(slot, CAP_VENDOR, cap)) != 0) {
		uint8_t type = pci_read8(slot, cap + CAP_TYPE);
		uint8_t bar = pci_read8(slot, cap + CAP_BAR);
		uint64_t gpa;

		if (type != CFG_COMMON && type != CFG_NOTIFY &&
		    type != CFG_DEVICE)
			continue;
		gpa = pci_bar_gpa(slot, bar);
		if (gpa == 0)
			return false;
		gpa += pci_read(slot, cap + CAP_OFFSET);
		if (type == CFG_COMMON) {
			regs.common = gpa;
		} else if (type == CFG_DEVICE) {
			regs.device = gpa;
		} else {
			regs.notify = gpa;
			regs.notify_multiplier =
				pci_read(slot, cap + CAP_NOTIFY_MULTIPLIER);
		}
	}
	return regs.common && regs.notify && regs.device;
}

static void set_status(uint8_t status)
{
	mmio_write8(regs.common + COMMON_STATUS, status);
}

static uint64_t offered(void)
{
	uint64_t features;

	mmio_write(regs.common + COMMON_DEVICE_FEATURE_SELECT, 1);
	features = (uint64_t)mmio_read(regs.common + COMMON_DEVICE_FEATURE)
		   << 32;
	mmio_write(regs.common + COMMON_DEVICE_FEATURE_SELECT, 0);
	return features | mmio_read(regs.common + COMMON_DEVICE_FEATURE);
}

static void accept(uint64_t features)
{
	mmio_write(regs.common + COMMON_DRIVER_FEATURE_SELECT, 0);
	mmio_write(regs.common + COMMON_DRIVER_FEATURE, (uint32_t)features);
	mmio_write(regs.common + COMMON_DRIVER_FEATURE_SELECT, 1);
	mmio_write(regs.common + COMMON_DRIVER_FEATURE,
		   (uint32_t)(features >> 32));
}

/* Section 3.1.1, up to FEATURES_OK. */
static bool negotiate(const char **ret_why)
{
	const uint8_t known = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
	uint64_t features;

	set_status(0);
	while (mmio_read8(regs.common + COMMON_STATUS) != 0)
		cpu_relax();
	set_status(STATUS_ACKNOWLEDGE);
	set_status(known);
	features = offered();
	*ret_why = "not-version-1";
	if (!(features & FEATURE_VERSION))
		return false;
	blk.read_only = features & FEATURE_RO;
	accept(features &
	       (FEATURE_VERSION | FEATURE_RO | FEATURE_FLUSH | FEATURE_MQ));
	set_status(known | STATUS_FEATURES_OK);
	*ret_why = "features-refused";
	if (!(mmio_read8(regs.common + COMMON_STATUS) & STATUS_FEATURES_OK))
		return false;
	blk.bytes = ((uint64_t)mmio_read(regs.device + CONFIG_CAPACITY + 4)
			     << 32 |
		     mmio_read(regs.device + CONFIG_CAPACITY)) *
		    BLK_SECTOR_BYTES;
	blk.nr_queues = features & FEATURE_MQ
				? mmio_read16(regs.device + CONFIG_NUM_QUEUES)
				: 1;
	return true;
}

static void write64(uint64_t gpa, uint64_t value)
{
	mmio_write(gpa, (uint32_t)value);
	mmio_write(gpa + 4, (uint32_t)(value >> 32));
}

static bool queue_init(uint16_t index)
{
	struct queue *q = &queues[index];

	mmio_write16(regs.common + COMMON_QUEUE_SELECT, index);
	if (mmio_read16(regs.common + COMMON_QUEUE_SIZE) < ENTRIES)
		return false;
	mmio_write16(regs.common + COMMON_QUEUE_SIZE, ENTRIES);
	q->avail.flags = AVAIL_NO_INTERRUPT;
	q->notify_gpa =
		regs.notify +
		(uint64_t)mmio_read16(regs.common + COMMON_QUEUE_NOTIFY_OFF) *
			regs.notify_multiplier;
	write64(regs.common + COMMON_QUEUE_DESC, (uint64_t)q->desc);
	write64(regs.common + COMMON_QUEUE_DRIVER, (uint64_t)&q->avail);
	write64(regs.common + COMMON_QUEUE_DEVICE, (uint64_t)&q->used);
	mmio_write16(regs.common + COMMON_QUEUE_ENABLE, 1);
	return true;
}

bool blk_init(uint32_t queues_wanted, const char **ret_why)
{
	int slot = pci_find(VENDOR_VIRTIO, DEVICE_BLOCK);

	*ret_why = "no-virtio-block-device";
	if (slot < 0)
		return false;
	*ret_why = "no-registers";
	if (!find_regs((uint32_t)slot))
		return false;
	pci_enable((uint32_t)slot);
	if (!negotiate(ret_why))
		return false;
	if (blk.nr_queues > queues_wanted)
		blk.nr_queues = queues_wanted;
	if (blk.nr_queues > BLK_QUEUES_MAX)
		blk.nr_queues = BLK_QUEUES_MAX;
	*ret_why = "queue-too-short";
	for (uint32_t i = 0; i < blk.nr_queues; i++)
		if (!queue_init((uint16_t)i))
			return false;
	set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK |
		   STATUS_DRIVER_OK);
	return true;
}

static void fill_descs(struct queue *q, uint32_t slot, enum blk_type type,
		       uint64_t gpa, uint32_t bytes)
{
	uint16_t first = (uint16_t)(slot * DESCS_A_SLOT);
	uint16_t status = (uint16_t)(first + 2);
	struct desc *d = &q->desc[first];

	d[0] = (struct desc){ (uint64_t)&q->headers[slot],
			      sizeof(struct header), DESC_NEXT,
			      bytes ? (uint16_t)(first + 1) : status };
	d[1] = (struct desc){ gpa, bytes,
			      (uint16_t)(DESC_NEXT |
					 (type == BLK_READ ? DESC_WRITE : 0)),
			      status };
	d[2] = (struct desc){ (uint64_t)&q->status[slot], 1, DESC_WRITE, 0 };
}

void blk_submit(uint32_t queue, uint32_t slot, enum blk_type type,
		uint64_t sector, uint64_t gpa, uint32_t bytes)
{
	struct queue *q = &queues[queue];

	q->headers[slot] = (struct header){ type, 0, sector };
	q->status[slot] = STATUS_UNSEEN;
	fill_descs(q, slot, type, gpa, bytes);
	q->avail.ring[q->avail.index % ENTRIES] =
		(uint16_t)(slot * DESCS_A_SLOT);
	barrier();
	q->avail.index++;
	/* The index is out before we look whether the device wants to know. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(q->used.flags & USED_NO_NOTIFY))
		mmio_write16(q->notify_gpa, (uint16_t)queue);
}

bool blk_poll(uint32_t queue, uint32_t *ret_slot, uint8_t *ret_status)
{
	struct queue *q = &queues[queue];
	uint32_t id;

	if (q->used.index == q->next_used)
		return false;
	barrier();
	id = q->used.ring[q->next_used++ % ENTRIES].id;
	*ret_slot = id % DESCS_A_SLOT ? BLK_SLOTS : id / DESCS_A_SLOT;
	*ret_status = STATUS_UNSEEN;
	if (*ret_slot < BLK_SLOTS)
		*ret_status = q->status[*ret_slot];
	return true;
}
