/*
 * vmm/virtio_console.c: a console of one port (virtio 1.2, section 5.3), without
 * the control queues of many.
 *
 * Threads: rings on the worker; what is typed comes on the main thread and waits
 *          in `typed` for the worker to find a buffer of the guest's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "vmm/virtio_devices.h"
#include "vmm/vm_internal.h"

#define CONSOLE_TYPE      3
#define CONSOLE_PCI_CLASS 0x078000 /* communication controller, other */
#define CONSOLE_ENTRIES   64

enum { CONSOLE_RX, CONSOLE_TX, CONSOLE_NR_QUEUES };

#define TYPED_BYTES 1024
/* Output at a time; what else the worker has to do waits no longer. */
#define OUTPUT_PIECE_BYTES 4096
#define OUTPUT_PIECES      16

struct console_state {
	uint64_t sent_bytes;
	uint16_t typed_bytes;
	uint8_t typed[TYPED_BYTES];
};

struct console {
	struct virtio_device v;
	struct vm *vm; /* constant */
	/* Worker: of the next request to be popped, what the sink has taken. */
	uint64_t sent_bytes;
	/* Under lock: never held while guest memory is touched. */
	pthread_mutex_t lock;
	size_t typed_bytes;
	uint8_t typed[TYPED_BYTES];
};

static const struct vm_field console_fields[] = {
	VM_FIELD(0x1000, VM_FIELD_UINT, struct console_state, sent_bytes),
	VM_FIELD(0x1001, VM_FIELD_UINT, struct console_state, typed_bytes),
	VM_FIELD(0x1002, VM_FIELD_BYTES, struct console_state, typed),
};

static struct console *to_console(struct virtio_device *v)
{
	return (struct console *)v;
}

/* False when the sink is full. */
static bool put(struct console *c, const uint8_t *data, size_t bytes)
{
	struct vm *vm = c->vm;
	size_t taken;

	while (bytes > 0) {
		taken = vm->ops->console_output(vm->ctx, data, bytes);
		if (taken == 0)
			return false;
		c->sent_bytes += taken;
		data += taken;
		bytes -= taken;
	}
	return true;
}

/*
 * 1: all of a request went out. 0: there is none, or the sink is full, or the
 * budget is used up, and then the rest of the request waits in the ring.
 */
static int send_next(struct console *c, struct virtio_queue *q,
		     unsigned int *budget)
{
	uint8_t piece[OUTPUT_PIECE_BYTES];
	struct virtio_chain chain;
	size_t got;
	int ret;

	ret = virtio_pop(q, &chain);
	if (ret <= 0)
		return ret;
	for (; *budget > 0; --*budget) {
		got = virtio_drain(&chain, c->sent_bytes, piece, sizeof(piece));
		if (got == 0) {
			c->sent_bytes = 0;
			virtio_push(q, chain.head, 0);
			return 1;
		}
		if (!put(c, piece, got))
			break;
	}
	virtio_put_back(q);
	return 0;
}

static void send_output(struct virtio_device *v)
{
	struct virtio_queue *q = &v->queues[CONSOLE_TX];
	unsigned int budget = OUTPUT_PIECES;

	while (send_next(to_console(v), q, &budget) == 1)
		;
	if (budget == 0)
		eventfd_write(q->kick_fd, 1);
	virtio_notify(q);
}

static bool has_typed(struct console *c)
{
	bool any;

	pthread_mutex_lock(&c->lock);
	any = c->typed_bytes > 0;
	pthread_mutex_unlock(&c->lock);
	return any;
}

/* At most max of what was typed. */
static size_t take_typed(struct console *c, uint8_t *buf, uint64_t max)
{
	size_t bytes;

	pthread_mutex_lock(&c->lock);
	bytes = c->typed_bytes < max ? c->typed_bytes : (size_t)max;
	memcpy(buf, c->typed, bytes);
	c->typed_bytes -= bytes;
	memmove(c->typed, c->typed + bytes, c->typed_bytes);
	pthread_mutex_unlock(&c->lock);
	return bytes;
}

static void deliver_input(struct virtio_device *v)
{
	struct console *c = to_console(v);
	struct virtio_queue *q = &v->queues[CONSOLE_RX];
	struct virtio_chain chain;
	uint8_t buf[TYPED_BYTES];
	size_t bytes;

	/* Only the worker takes: a buffer is popped only for what is there. */
	while (has_typed(c) && virtio_pop(q, &chain) == 1) {
		bytes = take_typed(c, buf, chain.in_bytes);
		virtio_fill(v, &chain, 0, buf, bytes);
		virtio_push(q, chain.head, (uint32_t)bytes);
	}
	virtio_notify(q);
}

static void console_kicked(struct virtio_device *v, struct virtio_queue *q)
{
	if (q->index == CONSOLE_RX)
		deliver_input(v);
	else
		send_output(v);
}

/* What was typed waits for the next driver. */
static void console_reset(struct virtio_device *v)
{
	to_console(v)->sent_bytes = 0;
}

static void console_save(struct virtio_device *v, void *state)
{
	struct console *c = to_console(v);
	struct console_state *s = state;

	s->sent_bytes = c->sent_bytes;
	pthread_mutex_lock(&c->lock);
	s->typed_bytes = (uint16_t)c->typed_bytes;
	memcpy(s->typed, c->typed, c->typed_bytes);
	pthread_mutex_unlock(&c->lock);
}

static int console_load(struct virtio_device *v, const void *state)
{
	const struct console_state *s = state;
	struct console *c = to_console(v);

	if (s->typed_bytes > TYPED_BYTES)
		return -EINVAL;
	c->sent_bytes = s->sent_bytes;
	pthread_mutex_lock(&c->lock);
	c->typed_bytes = s->typed_bytes;
	memcpy(c->typed, s->typed, s->typed_bytes);
	pthread_mutex_unlock(&c->lock);
	return 0;
}

static void console_free(struct virtio_device *v)
{
	pthread_mutex_destroy(&to_console(v)->lock);
	free(v);
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.type = CONSOLE_TYPE,
	.pci_class = CONSOLE_PCI_CLASS,
	.kicked = console_kicked,
	.reset = console_reset,
	.fields = console_fields,
	.nr_fields = sizeof(console_fields) / sizeof(console_fields[0]),
	.state_bytes = sizeof(struct console_state),
	.save = console_save,
	.load = console_load,
	.free = console_free,
};

int virtio_console_new(struct vm *vm, struct virtio_device **ret_device,
		       char **err)
{
	struct console *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return vm_err(err, -ENOMEM, "no memory for a console");
	c->vm = vm;
	pthread_mutex_init(&c->lock, NULL);
	ret = virtio_device_init(&c->v, &console_ops, vm, 0, CONSOLE_NR_QUEUES,
				 CONSOLE_ENTRIES, 0, 0);
	if (ret < 0) {
		vm_err(err, ret, "console: %s", strerror(-ret));
		pthread_mutex_destroy(&c->lock);
		free(c);
		return ret;
	}
	*ret_device = &c->v;
	return 0;
}

size_t virtio_console_input(struct virtio_device *v, const uint8_t *data,
			    size_t bytes)
{
	struct console *c = to_console(v);
	size_t room;

	pthread_mutex_lock(&c->lock);
	room = TYPED_BYTES - c->typed_bytes;
	if (bytes > room)
		bytes = room;
	memcpy(c->typed + c->typed_bytes, data, bytes);
	c->typed_bytes += bytes;
	pthread_mutex_unlock(&c->lock);
	virtio_post(v, deliver_input);
	return bytes;
}

/* Dropped by a stopped device, and then its start looks at the queue anyway. */
void virtio_console_output_ready(struct virtio_device *v)
{
	virtio_post(v, send_output);
}
