/*
 * vmm/run.c: vCPU threads, who may run, and the events that end a run; devices
 * that work by themselves run with them.
 *
 * vm->run says what vCPUs shall do. A thread counts in nr_parked from before it
 * waits until after it has seen that it may run: a pause that follows right
 * behind a resume finds threads that have not woken up yet parked, as they are.
 */
#include "vmm/vm_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "vmm/slice.h"
#include "vmm/urgent.h"

/* Interrupts KVM_RUN; nothing else in the process uses it. */
#define KICK_SIGNAL SIGUSR1

int vm_run_init(struct vm *vm)
{
	int ret = pthread_mutex_init(&vm->lock, NULL);

	if (ret != 0)
		return -ret;
	ret = pthread_cond_init(&vm->changed, NULL);
	if (ret != 0)
		goto destroy_lock;
	ret = pthread_mutex_init(&vm->devices_lock, NULL);
	if (ret != 0)
		goto destroy_changed;
	return 0;
destroy_changed:
	pthread_cond_destroy(&vm->changed);
destroy_lock:
	pthread_mutex_destroy(&vm->lock);
	return -ret;
}

void vm_run_fini(struct vm *vm)
{
	pthread_mutex_destroy(&vm->devices_lock);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
}

/* Empty: that there is a handler makes the signal end KVM_RUN. */
static void on_kick(int sig)
{
	(void)sig;
}

static int handle_kicks(void)
{
	struct sigaction sa = { .sa_handler = on_kick };

	sigemptyset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

/* Under vm->lock: its thread lives as long as it has a tid. */
static void set_slice(struct vm_cpu *c)
{
	bool want = c->vm->wake_soon;

	if (c->tid != 0 && c->wakes_soon != want &&
	    vm_thread_slice_short(c->tid, want))
		c->wakes_soon = want;
}

/* Parks until the vCPU may run: true, or shall end: false. */
static bool park(struct vm_cpu *c)
{
	struct vm *vm = c->vm;
	bool go_on;

	pthread_mutex_lock(&vm->lock);
	vm->nr_parked++;
	pthread_cond_broadcast(&vm->changed);
	while (!atomic_load(&vm->run) && !vm->quit)
		pthread_cond_wait(&vm->changed, &vm->lock);
	vm->nr_parked--;
	go_on = !vm->quit;
	vm_thread_urgent(pthread_self(), false);
	set_slice(c);
	if (!go_on) {
		c->tid = 0;
		c->wakes_soon = false;
	}
	pthread_mutex_unlock(&vm->lock);
	return go_on;
}

static void *cpu_thread(void *arg)
{
	struct vm_cpu *c = arg;
	char name[16];
	sigset_t kick;

	atomic_store(&c->tid, gettid());
	snprintf(name, sizeof(name), "vcpu/%u", c->index);
	pthread_setname_np(pthread_self(), name);
	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	while (park(c))
		vm_cpu_run(c);
	return NULL;
}

int vm_cpu_of_thread(const struct vm *vm, pid_t tid)
{
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		if (tid != 0 && atomic_load(&vm->cpus[i].tid) == tid)
			return (int)i;
	}
	return -1;
}

/*
 * vCPU threads take no signal but the kick, and those that a thread raises
 * itself, which nobody can block.
 */
static void block_signals(sigset_t *ret_old)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP };
	sigset_t all;

	sigfillset(&all);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		sigdelset(&all, own[i]);
	pthread_sigmask(SIG_SETMASK, &all, ret_old);
}

/* One that is urgent, in park() or on its way there, does it when it goes on. */
void vm_cpus_wake_soon(struct vm *vm, bool on)
{
	pthread_mutex_lock(&vm->lock);
	vm->wake_soon = on;
	for (unsigned int i = 0; i < vm->nr_cpus; i++)
		set_slice(&vm->cpus[i]);
	pthread_mutex_unlock(&vm->lock);
}

static void wait_parked(struct vm *vm)
{
	while (vm->nr_parked < vm->nr_threads)
		pthread_cond_wait(&vm->changed, &vm->lock);
}

int vm_start(struct vm *vm)
{
	sigset_t old;
	int ret = handle_kicks();

	if (ret < 0)
		return ret;
	block_signals(&old);
	for (unsigned int i = 0; i < vm->nr_cpus && ret == 0; i++) {
		struct vm_cpu *c = &vm->cpus[i];

		ret = -pthread_create(&c->thread, NULL, cpu_thread, c);
		c->has_thread = ret == 0;
		vm->nr_threads += c->has_thread;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret < 0) {
		vm_cpus_stop(vm);
		return ret;
	}
	pthread_mutex_lock(&vm->lock);
	wait_parked(vm);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/* Under lock. The order is vcpu.c's. */
static void stop_running(struct vm *vm)
{
	if (!atomic_load(&vm->run))
		return;
	atomic_store(&vm->run, false);
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		struct vm_cpu *c = &vm->cpus[i];

		__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		vm_thread_urgent(c->thread, true); /* until it goes on */
		pthread_kill(c->thread, KICK_SIGNAL);
	}
}

void vm_cpus_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	stop_running(vm);
	vm->quit = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned int i = 0; i < vm->nr_cpus; i++) {
		struct vm_cpu *c = &vm->cpus[i];

		if (c->has_thread)
			pthread_join(c->thread, NULL);
		c->has_thread = false;
	}
	vm->nr_threads = 0;
	vm->quit = false;
}

void vm_devices_start(struct vm *vm)
{
	pthread_mutex_lock(&vm->devices_lock);
	for (size_t i = 0; i < vm->nr_devices && !vm->devices_run; i++) {
		struct vm_device *d = vm->devices[i];

		if (d->ops->start)
			d->ops->start(d);
	}
	vm->devices_run = true;
	pthread_mutex_unlock(&vm->devices_lock);
}

bool vm_devices_run(struct vm *vm)
{
	bool run;

	pthread_mutex_lock(&vm->devices_lock);
	run = vm->devices_run;
	pthread_mutex_unlock(&vm->devices_lock);
	return run;
}

/* Two may pause at once: both return when the devices are at rest. */
void vm_devices_stop(struct vm *vm)
{
	pthread_mutex_lock(&vm->devices_lock);
	for (size_t i = 0; i < vm->nr_devices && vm->devices_run; i++) {
		struct vm_device *d = vm->devices[i];

		if (d->ops->stop)
			d->ops->stop(d);
	}
	vm->devices_run = false;
	pthread_mutex_unlock(&vm->devices_lock);
}

/*
 * Devices after vCPUs: nobody gives them anything new to do. Also where the vCPUs
 * parked by themselves, after an event: devices go on until somebody pauses.
 */
int vm_pause(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	stop_running(vm);
	wait_parked(vm);
	pthread_mutex_unlock(&vm->lock);
	vm_devices_stop(vm);
	return 0;
}

/* 1: it runs already, 0: it may run, all vCPUs are parked. */
static int prepare_resume(struct vm *vm)
{
	int ret = 0;

	pthread_mutex_lock(&vm->lock);
	if (vm->event != VM_EVENT_NONE) {
		ret = -ECANCELED;
	} else if (vm->nr_threads == 0) {
		ret = -EINVAL;
	} else if (atomic_load(&vm->run)) {
		ret = 1;
	} else {
		/*
		 * An event that was taken while a vCPU was still on its way
		 * out: what that vCPU does there must not count as new.
		 */
		wait_parked(vm);
		vm->ended = false;
	}
	pthread_mutex_unlock(&vm->lock);
	return ret;
}

/*
 * Devices before vCPUs, and without vm->lock, which comes after theirs. Nothing
 * happens in between: only vCPUs post events, and they are parked.
 */
int vm_resume(struct vm *vm)
{
	int ret = prepare_resume(vm);

	if (ret != 0)
		return ret < 0 ? ret : 0;
	vm_devices_start(vm);
	pthread_mutex_lock(&vm->lock);
	atomic_store(&vm->run, true);
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

bool vm_is_running(struct vm *vm)
{
	return atomic_load(&vm->run);
}

/*
 * Of several vCPUs that report while the machine stops, the first is believed,
 * even if its event has been taken meanwhile: the others saw the same end.
 */
void vm_event_post(struct vm *vm, enum vm_event ev, const char *reason)
{
	bool first;

	pthread_mutex_lock(&vm->lock);
	first = !vm->ended;
	if (first) {
		vm->ended = true;
		vm->event = ev;
		snprintf(vm->reason, sizeof(vm->reason), "%s",
			 reason ? reason : "");
	}
	stop_running(vm);
	pthread_mutex_unlock(&vm->lock);
	if (first && vm->ops && vm->ops->event)
		vm->ops->event(vm->ctx);
}

enum vm_event vm_event_peek(struct vm *vm)
{
	enum vm_event ev;

	pthread_mutex_lock(&vm->lock);
	ev = vm->event;
	pthread_mutex_unlock(&vm->lock);
	return ev;
}

enum vm_event vm_event_take(struct vm *vm)
{
	enum vm_event ev;

	pthread_mutex_lock(&vm->lock);
	ev = vm->event;
	vm->event = VM_EVENT_NONE;
	pthread_mutex_unlock(&vm->lock);
	return ev;
}

const char *vm_event_reason(struct vm *vm)
{
	return vm->reason;
}
