/*
 * vmm/virtio_balloon.c: memory that the guest gives back (virtio 1.2, section
 * 5.5): pages it puts into its balloon when it is asked to, and pages that happen
 * to be free, which it reports by itself. Both become holes in RAM, which are not
 * resident, not sent and not saved.
 *
 * Configuration: le32 num_pages, how much we want; le32 actual, how much the
 * driver says the balloon holds. Pages are of 4 KiB in both.
 *
 * Threads: rings on the worker; the configuration on vCPU threads; what the
 *          outside wants on any.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/virtio_devices.h"
#include "vmm/vm_internal.h"

#define BALLOON_TYPE      5
#define BALLOON_PCI_CLASS 0x00ff00 /* none that fits */
#define BALLOON_ENTRIES   256

#define BALLOON_F_DEFLATE_ON_OOM (UINT64_C(1) << 2)
#define BALLOON_F_REPORTING      (UINT64_C(1) << 5)

/*
 * Section 5.5.2 gives free page reports queue 4, after two that we do not offer.
 * Linux counts only the queues that are there, and uses queue 2. Neither means
 * anything else here, so both are read.
 */
enum {
	BALLOON_INFLATE,
	BALLOON_DEFLATE,
	BALLOON_REPORT_LINUX,
	BALLOON_UNUSED,
	BALLOON_REPORT,
	BALLOON_NR_QUEUES
};

#define CONFIG_NUM_PAGES 0
#define CONFIG_ACTUAL    4
#define CONFIG_BYTES     8

/*
 * Page numbers in one request: each may cost a system call, and stopping waits
 * for the request. Linux sends 256.
 */
#define INFLATE_PAGES_MAX (16 << 10)

struct balloon {
	struct virtio_device v;
	pthread_mutex_t lock;  /* then config_lock */
	uint32_t wanted_pages; /* under lock, as in the configuration */
};

struct balloon_state {
	uint32_t wanted_pages;
	uint32_t actual_pages;
};

static const struct vm_field balloon_fields[] = {
	VM_FIELD(0x1000, VM_FIELD_UINT, struct balloon_state, wanted_pages),
	VM_FIELD(0x1001, VM_FIELD_UINT, struct balloon_state, actual_pages),
};

static struct balloon *to_balloon(struct virtio_device *v)
{
	return (struct balloon *)v;
}

static uint32_t actual_pages(struct balloon *b)
{
	uint32_t pages;

	pthread_mutex_lock(&b->v.config_lock);
	memcpy(&pages, b->v.config + CONFIG_ACTUAL, sizeof(pages));
	pthread_mutex_unlock(&b->v.config_lock);
	return pages;
}

/* Without telling the driver, who either wrote it or is not there. */
static void set_actual(struct balloon *b, uint32_t pages)
{
	pthread_mutex_lock(&b->v.config_lock);
	memcpy(b->v.config + CONFIG_ACTUAL, &pages, sizeof(pages));
	pthread_mutex_unlock(&b->v.config_lock);
}

static void set_wanted(struct balloon *b, uint32_t pages)
{
	pthread_mutex_lock(&b->lock);
	b->wanted_pages = pages;
	virtio_config_changed(&b->v, CONFIG_NUM_PAGES, &pages, sizeof(pages));
	pthread_mutex_unlock(&b->lock);
}

/* num_pages is not the driver's to write: it gets back what it overwrote. */
static void balloon_config_written(struct virtio_device *v, unsigned int offset,
				   unsigned int bytes)
{
	struct balloon *b = to_balloon(v);

	(void)bytes;
	if (offset >= CONFIG_ACTUAL)
		return;
	pthread_mutex_lock(&b->lock);
	virtio_config_changed(v, CONFIG_NUM_PAGES, &b->wanted_pages,
			      sizeof(b->wanted_pages));
	pthread_mutex_unlock(&b->lock);
}

/*
 * Pages [pfn, pfn + nr). Those that are no RAM, or must stay for now, are the
 * guest's loss: it gave them away and nothing was won.
 */
static void give_back(struct balloon *b, uint64_t pfn, uint64_t nr)
{
	uint64_t offset;

	if (vm_mem_gpa_to_offset(b->v.mem, pfn << VM_PAGE_SHIFT,
				 nr << VM_PAGE_SHIFT, &offset) == 0)
		vm_mem_give_back(b->v.mem, offset, nr << VM_PAGE_SHIFT);
}

/* pfns in runs, in the order in which they come. */
static void give_back_runs(struct balloon *b, const uint32_t *pfns, size_t nr)
{
	size_t first = 0;

	for (size_t i = 1; i <= nr; i++) {
		if (i < nr && pfns[i] == pfns[i - 1] + 1)
			continue;
		give_back(b, pfns[first], i - first);
		first = i;
	}
}

/* Section 5.5.6: an array of le32 page numbers. */
static void inflate(struct balloon *b, const struct virtio_chain *c)
{
	uint32_t pfns[256];
	uint64_t at = 0;
	size_t got;

	if (c->out_bytes > INFLATE_PAGES_MAX * sizeof(pfns[0])) {
		virtio_broken(&b->v, "too many pages in one request");
		return;
	}
	do {
		got = virtio_drain(c, at, pfns, sizeof(pfns));
		if (got >= sizeof(pfns[0]))
			give_back_runs(b, pfns, got / sizeof(pfns[0]));
		at += got;
	} while (got == sizeof(pfns));
}

/* Section 5.5.6.7: the writable buffers are themselves the free pages. */
static void take_report(struct balloon *b, const struct virtio_chain *c)
{
	const uint8_t *ram = vm_mem_base(b->v.mem);

	for (unsigned int i = c->nr_out; i < c->nr_out + c->nr_in; i++)
		vm_mem_give_back(
			b->v.mem,
			(uint64_t)((uint8_t *)c->iov[i].iov_base - ram),
			c->iov[i].iov_len);
}

static void balloon_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	struct balloon *b = to_balloon(v);
	struct virtio_chain c;

	while (virtio_pop(q, &c) == 1) {
		if (q->index == BALLOON_INFLATE)
			inflate(b, &c);
		else if (q->index == BALLOON_REPORT_LINUX ||
			 q->index == BALLOON_REPORT)
			take_report(b, &c);
		virtio_push(q, c.head, 0);
	}
	virtio_notify(q);
}

static void balloon_reset(struct virtio_device *v)
{
	set_actual(to_balloon(v), 0);
}

static void balloon_save(struct virtio_device *v, void *state)
{
	struct balloon *b = to_balloon(v);
	struct balloon_state *s = state;

	pthread_mutex_lock(&b->lock);
	s->wanted_pages = b->wanted_pages;
	pthread_mutex_unlock(&b->lock);
	s->actual_pages = actual_pages(b);
}

static int balloon_load(struct virtio_device *v, const void *state)
{
	const struct balloon_state *s = state;
	struct balloon *b = to_balloon(v);

	set_wanted(b, s->wanted_pages);
	set_actual(b, s->actual_pages);
	return 0;
}

static void balloon_free(struct virtio_device *v)
{
	pthread_mutex_destroy(&to_balloon(v)->lock);
	free(v);
}

static const struct virtio_ops balloon_ops = {
	.name = "virtio-balloon",
	.type = BALLOON_TYPE,
	.pci_class = BALLOON_PCI_CLASS,
	.config_written = balloon_config_written,
	.kicked = balloon_kicked,
	.reset = balloon_reset,
	.fields = balloon_fields,
	.nr_fields = sizeof(balloon_fields) / sizeof(balloon_fields[0]),
	.state_bytes = sizeof(struct balloon_state),
	.save = balloon_save,
	.load = balloon_load,
	.free = balloon_free,
};

int virtio_balloon_new(struct vm *vm, struct virtio_device **ret_device,
		       char **err)
{
	struct balloon *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return vm_err(err, -ENOMEM, "no memory for a balloon");
	pthread_mutex_init(&b->lock, NULL);
	ret = virtio_device_init(
		&b->v, &balloon_ops, vm, 0, BALLOON_NR_QUEUES, BALLOON_ENTRIES,
		BALLOON_F_DEFLATE_ON_OOM | BALLOON_F_REPORTING, CONFIG_BYTES);
	if (ret < 0) {
		vm_err(err, ret, "balloon: %s", strerror(-ret));
		pthread_mutex_destroy(&b->lock);
		free(b);
		return ret;
	}
	b->v.config_writable = true;
	*ret_device = &b->v;
	return 0;
}

void virtio_balloon_set(struct virtio_device *v, uint64_t bytes)
{
	uint64_t ram_bytes = vm_mem_bytes(v->mem);

	if (bytes > ram_bytes)
		bytes = ram_bytes;
	set_wanted(to_balloon(v), (uint32_t)(bytes >> VM_PAGE_SHIFT));
}

/* What the driver says, and it may say anything. */
uint64_t virtio_balloon_actual(struct virtio_device *v)
{
	uint64_t bytes = (uint64_t)actual_pages(to_balloon(v)) << VM_PAGE_SHIFT;
	uint64_t ram_bytes = vm_mem_bytes(v->mem);

	return bytes < ram_bytes ? bytes : ram_bytes;
}
