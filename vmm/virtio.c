/*
 * vmm/virtio.c: the life of a virtio device: its worker thread, starting and
 * stopping, interrupts, configuration changes.
 *
 * The worker follows `wanted`: others write it and wake the worker; only the
 * worker enters and leaves the rings, and says so in `running`. A device that
 * broke still counts as running until it is told to stop, so that ops->stop
 * follows every ops->start.
 */
#include "vmm/virtio_internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/urgent.h"
#include "vmm/vm_internal.h"

enum wanted { WANT_REST, WANT_RUN, WANT_QUIT };

struct virtio_worker {
	/* Constant after worker_new(). */
	struct virtio_device *dev;
	struct ev_loop *loop;
	pthread_t thread;
	/* The worker's; ev_async_send() by any thread. */
	ev_async wake;
	bool started; /* ops->start was called and went well */
	/* Under lock. wanted is read by the worker without it too. */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* running */
	_Atomic enum wanted wanted;
	bool running;
	void (*posted[VIRTIO_POSTS_MAX])(struct virtio_device *v);
	unsigned int nr_posted;
};

struct ev_loop *virtio_loop(struct virtio_device *v)
{
	return v->worker->loop;
}

bool virtio_has(const struct virtio_device *v, uint64_t feature)
{
	return (v->accepted & feature) == feature;
}

bool virtio_shall_stop(const struct virtio_device *v)
{
	return atomic_load_explicit(&v->worker->wanted, memory_order_relaxed) !=
	       WANT_RUN;
}

void virtio_interrupt_queue(struct virtio_queue *q)
{
	atomic_fetch_or(&q->dev->isr, VIRTIO_ISR_QUEUE);
	vm_pci_msix_raise(&q->dev->pci, atomic_load(&q->vector));
}

void virtio_interrupt_config(struct virtio_device *v)
{
	/* Section 3.1.1: the driver hears nothing of us before DRIVER_OK. */
	if (!(atomic_load(&v->status) & VIRTIO_STATUS_DRIVER_OK))
		return;
	atomic_fetch_or(&v->isr, VIRTIO_ISR_CONFIG);
	vm_pci_msix_raise(&v->pci, atomic_load(&v->config_vector));
}

static void stop_kicks(struct virtio_device *v)
{
	for (unsigned int i = 0; i < v->nr_queues; i++)
		ev_io_stop(v->worker->loop, &v->queues[i].kick);
}

void virtio_broken(struct virtio_device *v, const char *why)
{
	const char *none = NULL;

	if (!atomic_compare_exchange_strong(&v->broken, &none, why))
		return;
	stop_kicks(v);
	virtio_interrupt_config(v);
}

static bool is_broken(const struct virtio_device *v)
{
	return atomic_load(&v->broken) != NULL;
}

static void on_kick(struct ev_loop *loop, ev_io *io, int revents)
{
	struct virtio_queue *q = io->data;
	uint64_t rings;

	(void)loop;
	(void)revents;
	/*
	 * Emptied before the ring is looked at: a kick that comes later makes it
	 * readable again. Nothing in it: somebody else's wake-up.
	 */
	if (read(q->kick_fd, &rings, sizeof(rings)) == sizeof(rings))
		q->dev->ops->kicked(q->dev, q);
}

/*
 * An MSI that was on its way through one of the host kernel's work queues when
 * the machine was stopped is in no state that we can save. So the driver is told
 * once more of everything: to look in vain is allowed, to be forgotten is not.
 */
static void repeat_interrupts(struct virtio_device *v)
{
	if (!v->loaded)
		return;
	v->loaded = false;
	virtio_interrupt_config(v);
	for (unsigned int i = 0; i < v->nr_queues; i++) {
		if (v->queues[i].enabled)
			virtio_interrupt_queue(&v->queues[i]);
	}
}

static void begin(struct virtio_worker *w)
{
	struct virtio_device *v = w->dev;
	unsigned int i;

	for (i = 0; i < v->nr_queues && !is_broken(v); i++) {
		if (v->queues[i].enabled && virtqueue_start(&v->queues[i]) < 0)
			virtio_broken(v, "a queue that is not in memory");
	}
	if (is_broken(v))
		return;
	w->started = !v->ops->start || v->ops->start(v) == 0;
	if (!w->started)
		virtio_broken(v, "the device cannot start");
	repeat_interrupts(v);
	for (i = 0; i < v->nr_queues && !is_broken(v); i++) {
		if (!v->queues[i].enabled)
			continue;
		ev_io_start(w->loop, &v->queues[i].kick);
		v->ops->kicked(v, &v->queues[i]);
	}
}

static void end(struct virtio_worker *w)
{
	stop_kicks(w->dev);
	if (w->started && w->dev->ops->stop)
		w->dev->ops->stop(w->dev);
	w->started = false;
}

static void run_posted(struct virtio_worker *w)
{
	void (*posted[VIRTIO_POSTS_MAX])(struct virtio_device *v);
	unsigned int n;

	pthread_mutex_lock(&w->lock);
	n = w->nr_posted;
	memcpy(posted, w->posted, n * sizeof(posted[0]));
	w->nr_posted = 0;
	pthread_mutex_unlock(&w->lock);
	for (unsigned int i = 0; i < n && w->started && !is_broken(w->dev); i++)
		posted[i](w->dev);
}

static void on_wake(struct ev_loop *loop, ev_async *wake, int revents)
{
	struct virtio_worker *w = wake->data;
	bool run, quit;

	(void)revents;
	pthread_mutex_lock(&w->lock);
	while ((run = w->wanted == WANT_RUN) != w->running) {
		if (run)
			w->running = true;
		pthread_mutex_unlock(&w->lock);
		if (run)
			begin(w);
		else
			end(w);
		pthread_mutex_lock(&w->lock);
		if (!run) {
			w->running = false;
			pthread_cond_broadcast(&w->changed);
		}
	}
	quit = w->wanted == WANT_QUIT;
	pthread_mutex_unlock(&w->lock);
	run_posted(w);
	if (quit)
		ev_break(loop, EVBREAK_ALL);
}

static void *worker_main(void *arg)
{
	struct virtio_worker *w = arg;
	char name[16]; /* the kernel's limit */

	snprintf(name, sizeof(name), "%.15s", w->dev->name);
	pthread_setname_np(pthread_self(), name);
	ev_run(w->loop, 0);
	return NULL;
}

/* Signals are for other threads. */
static int start_thread(struct virtio_worker *w)
{
	sigset_t all, old;
	int ret;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&w->thread, NULL, worker_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ret;
}

static int worker_new(struct virtio_device *v)
{
	struct virtio_worker *w = calloc(1, sizeof(*w));
	int ret = -ENOMEM;

	if (!w)
		return ret;
	w->dev = v;
	w->loop = ev_loop_new(EVFLAG_NOENV);
	if (!w->loop)
		goto free_w;
	ret = -pthread_mutex_init(&w->lock, NULL);
	if (ret < 0)
		goto destroy_loop;
	ret = -pthread_cond_init(&w->changed, NULL);
	if (ret < 0)
		goto destroy_lock;
	ev_async_init(&w->wake, on_wake);
	w->wake.data = w;
	ev_async_start(w->loop, &w->wake);
	v->worker = w;
	ret = start_thread(w);
	if (ret < 0)
		goto destroy_cond;
	return 0;
destroy_cond:
	v->worker = NULL;
	pthread_cond_destroy(&w->changed);
destroy_lock:
	pthread_mutex_destroy(&w->lock);
destroy_loop:
	ev_loop_destroy(w->loop);
free_w:
	free(w);
	return ret;
}

static void want(struct virtio_worker *w, enum wanted wanted)
{
	pthread_mutex_lock(&w->lock);
	w->wanted = wanted;
	if (wanted != WANT_RUN)
		w->nr_posted = 0;
	pthread_mutex_unlock(&w->lock);
	ev_async_send(w->loop, &w->wake);
}

static void worker_free(struct virtio_worker *w)
{
	if (!w)
		return;
	want(w, WANT_QUIT);
	pthread_join(w->thread, NULL);
	ev_loop_destroy(w->loop);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

void virtio_start(struct virtio_device *v)
{
	if ((atomic_load(&v->status) & VIRTIO_STATUS_DRIVER_OK) &&
	    !is_broken(v))
		want(v->worker, WANT_RUN);
}

void virtio_stop(struct virtio_device *v)
{
	struct virtio_worker *w = v->worker;

	want(w, WANT_REST);
	pthread_mutex_lock(&w->lock);
	while (w->running)
		pthread_cond_wait(&w->changed, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void virtio_post(struct virtio_device *v, void (*fn)(struct virtio_device *v))
{
	struct virtio_worker *w = v->worker;
	unsigned int i = 0;

	pthread_mutex_lock(&w->lock);
	if (w->wanted == WANT_RUN) {
		while (i < w->nr_posted && w->posted[i] != fn)
			i++;
		assert(i < VIRTIO_POSTS_MAX);
		w->posted[i] = fn;
		if (i == w->nr_posted)
			w->nr_posted++;
	}
	pthread_mutex_unlock(&w->lock);
	ev_async_send(w->loop, &w->wake);
}

void virtio_config_changed(struct virtio_device *v, unsigned int offset,
			   const void *data, unsigned int bytes)
{
	assert(offset <= v->config_bytes && bytes <= v->config_bytes - offset);
	pthread_mutex_lock(&v->config_lock);
	memcpy(v->config + offset, data, bytes);
	v->config_generation++;
	pthread_mutex_unlock(&v->config_lock);
	virtio_interrupt_config(v);
}

void virtio_reset(struct virtio_device *v)
{
	v->accepted = 0;
	v->loaded = false;
	atomic_store(&v->status, 0);
	atomic_store(&v->config_vector, VIRTIO_NO_VECTOR);
	atomic_store(&v->broken, NULL);
	atomic_store(&v->isr, 0);
	for (unsigned int i = 0; i < v->nr_queues; i++)
		virtqueue_reset(&v->queues[i]);
	*virtio_pci_selects(v) = (struct virtio_pci_selects){ 0 };
	if (v->ops->reset)
		v->ops->reset(v);
}

static struct virtio_device *to_virtio(struct vm_device *d)
{
	return (struct virtio_device *)d;
}

static void device_start(struct vm_device *d)
{
	struct virtio_device *v = to_virtio(d);

	pthread_mutex_lock(&d->lock);
	v->machine_runs = true;
	pthread_mutex_unlock(&d->lock);
	virtio_start(v);
}

/* Whether there is anything to stop. */
static bool is_live(struct virtio_worker *w)
{
	bool live;

	pthread_mutex_lock(&w->lock);
	live = w->running || w->wanted == WANT_RUN;
	pthread_mutex_unlock(&w->lock);
	return live;
}

static void device_stop(struct vm_device *d)
{
	struct virtio_device *v = to_virtio(d);

	pthread_mutex_lock(&d->lock);
	v->machine_runs = false;
	pthread_mutex_unlock(&d->lock);
	if (!is_live(v->worker))
		return;
	vm_thread_urgent(v->worker->thread, true);
	virtio_stop(v);
	vm_thread_urgent(v->worker->thread, false);
}

static void device_reset(struct vm_device *d)
{
	struct virtio_device *v = to_virtio(d);

	virtio_stop(v);
	virtio_reset(v);
	vm_pci_function_reset(&v->pci);
}

static void device_free(struct vm_device *d)
{
	struct virtio_device *v = to_virtio(d);

	virtio_device_fini(v);
	v->ops->free(v);
}

static int init_queues(struct virtio_device *v, uint16_t entries)
{
	for (unsigned int i = 0; i < v->nr_queues; i++) {
		struct virtio_queue *q = &v->queues[i];

		q->dev = v;
		q->index = i;
		q->entries_max = entries;
		virtqueue_reset(q);
		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->kick_fd < 0)
			return -errno;
		ev_io_init(&q->kick, on_kick, q->kick_fd, EV_READ);
		q->kick.data = q;
	}
	return 0;
}

int virtio_device_init(struct virtio_device *v, const struct virtio_ops *ops,
		       struct vm *vm, unsigned int index,
		       unsigned int nr_queues, uint16_t entries,
		       uint64_t offered, unsigned int config_bytes)
{
	int ret;

	assert(nr_queues <= VIRTIO_QUEUES_MAX);
	assert(entries <= VIRTIO_QUEUE_ENTRIES_MAX);
	assert(config_bytes <= VIRTIO_CONFIG_BYTES_MAX);
	v->ops = ops;
	v->mem = vm_mem(vm);
	v->nr_queues = nr_queues;
	v->config_bytes = config_bytes;
	v->offered = offered | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC |
		     VIRTIO_F_EVENT_IDX;
	snprintf(v->name, sizeof(v->name), "%s%u", ops->name, index);
	for (unsigned int i = 0; i < nr_queues; i++)
		v->queues[i].kick_fd = -1;
	v->device_ops = (struct vm_device_ops){ .name = v->name,
						.start = device_start,
						.stop = device_stop,
						.reset = device_reset,
						.free = device_free };
	v->pci.device.ops = &v->device_ops;
	atomic_store(&v->config_vector, VIRTIO_NO_VECTOR);
	ret = -pthread_mutex_init(&v->config_lock, NULL);
	if (ret < 0)
		return ret;
	ret = init_queues(v, entries);
	if (ret == 0)
		ret = virtio_pci_init(v);
	if (ret == 0)
		ret = virtio_state_init(v);
	if (ret == 0)
		ret = worker_new(v);
	if (ret < 0)
		virtio_device_fini(v);
	return ret;
}

/* The worker first: it uses all the rest. */
void virtio_device_fini(struct virtio_device *v)
{
	worker_free(v->worker);
	v->worker = NULL;
	virtio_state_fini(v);
	virtio_pci_fini(v);
	for (unsigned int i = 0; i < v->nr_queues; i++) {
		if (v->queues[i].kick_fd >= 0)
			close(v->queues[i].kick_fd);
		v->queues[i].kick_fd = -1;
	}
	pthread_mutex_destroy(&v->config_lock);
}
