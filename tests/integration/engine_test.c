/*
 * Both ends of a migration in one process: every mode, tracker and a spread of
 * channels, with the guest writing at full speed, moved there and back again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"
#include "migrate/dest.h"
#include "migrate/net.h"
#include "migrate/source.h"

static void on_changed(void *ctx)
{
	(void)ctx;
}

static const struct mig_source_ops source_ops = { .changed = on_changed };
static const struct mig_dest_ops dest_ops = { .changed = on_changed };

static void nap(void)
{
	const struct timespec tick = { .tv_nsec = 2000000 };

	nanosleep(&tick, NULL);
}

static struct mig_dest *listen_here(struct console *c, uint32_t ring,
				    uint16_t *ret_port)
{
	struct mig_addr addr = { .host = "127.0.0.1", .port = "0" };
	struct mig_dest_config cfg = {
		.dirty_ring_entries = ring,
		.vm_ops = &harness_vm_ops,
		.vm_ctx = c,
	};
	struct mig_dest *d;
	char *err = NULL;

	if (mig_net_listen(&addr, &cfg.listen_fd, ret_port, &err) < 0)
		die("listen: %s", err);
	if (mig_dest_start(&cfg, &dest_ops, NULL, &d) < 0)
		die("dest start");
	return d;
}

static void report(const char *what, struct mig_stats *st)
{
	printf("  %s: %s switch=%s total=%llu us down=%llu us (stop %llu sync "
	       "%llu pages %llu state %llu commit %llu start %llu) rounds=%llu "
	       "pages=%llu zero=%llu faults=%llu p50=%llu max=%llu\n",
	       what, mig_mode_name(st->mode),
	       st->postcopied ? "postcopy" : "precopy",
	       (unsigned long long)st->total_us,
	       (unsigned long long)st->downtime_us,
	       (unsigned long long)st->downtime.stop_us,
	       (unsigned long long)st->downtime.sync_us,
	       (unsigned long long)st->downtime.pages_us,
	       (unsigned long long)st->downtime.state_us,
	       (unsigned long long)st->downtime.commit_us,
	       (unsigned long long)st->downtime.start_us,
	       (unsigned long long)st->rounds,
	       (unsigned long long)st->pages_sent,
	       (unsigned long long)st->pages_zero,
	       (unsigned long long)st->faults.all.count,
	       (unsigned long long)st->faults.all.p50_us,
	       (unsigned long long)st->faults.all.max_us);
}

static void await(struct mig_source *s, struct mig_dest *d)
{
	struct mig_status src, dst;
	struct mig_stats st;
	int ticks = 0;

	do {
		nap();
		mig_source_status(s, &src, &st);
		mig_dest_status(d, &dst, &st);
		if (ticks++ > 60000)
			die("stuck: source %s, dest %s",
			    mig_phase_name(src.phase),
			    mig_phase_name(dst.phase));
	} while (!mig_phase_is_end(src.phase) || !mig_phase_is_end(dst.phase));
	if (src.phase != MIG_COMPLETE || dst.phase != MIG_COMPLETE)
		die("source %s: %s\ndest %s: %s", mig_phase_name(src.phase),
		    src.error, mig_phase_name(dst.phase), dst.error);
}

static struct mig_guest *move(struct mig_guest *g, struct console *c,
			      enum mig_mode mode, unsigned int channels,
			      uint32_t limit_ms, uint32_t ring)
{
	struct mig_source_config cfg = {
		.mode = mode,
		.channels = channels,
		.downtime_limit_ms = limit_ms,
		.tracker = "auto",
	};
	struct mig_guest *there;
	struct mig_source *s;
	struct mig_dest *d;
	struct mig_status status;
	struct mig_stats st;
	char *err = NULL;
	char uri[64];
	uint16_t port;

	d = listen_here(c, ring, &port);
	snprintf(uri, sizeof(uri), "tcp://127.0.0.1:%u", port);
	cfg.uri = uri;
	if (mig_source_start(g, &cfg, &source_ops, NULL, &s, &err) < 0)
		die("source: %s", err);
	await(s, d);
	mig_source_status(s, &status, &st);
	report("source", &st);
	mig_dest_status(d, &status, &st);
	report("dest", &st);
	there = mig_dest_guest(d);
	if (!there)
		die("no guest at the destination");
	mig_source_free(s);
	mig_dest_free(d);
	mig_guest_free(g);
	return there;
}

static void verify(struct mig_guest *g, struct console *c)
{
	size_t from = console_bytes(c);

	c->vm = g->vm;
	vm_serial_input(g->vm, (const uint8_t *)"v", 1);
	console_wait(c, from, "verify-all ok");
	console_check(c);
}

static void there_and_back(const char *cmdline, unsigned int cpus,
			   enum mig_mode mode, unsigned int channels,
			   uint32_t ring)
{
	struct vm_config cfg = {
		.ram_bytes = 160u << 20,
		.nr_cpus = cpus,
		.dirty_ring_entries = ring,
	};
	struct mig_guest *g;
	struct console c;
	struct vm *vm;
	int hop;

	printf("%s cpus=%u mode=%s channels=%u ring=%u\n", cmdline, cpus,
	       mig_mode_name(mode), channels, ring);
	console_init(&c);
	vm = boot_guest(&cfg, cmdline, &c);
	console_wait(&c, 0, "GUEST-READY");
	if (mig_guest_new(vm, &g) < 0)
		die("guest");
	for (hop = 0; hop < 2; hop++) {
		/* On a busy host the default does not let precopy end. */
		g = move(g, &c, mode, channels,
			 mode == MIG_MODE_PRECOPY
				 ? 500
				 : MIG_DOWNTIME_LIMIT_MS_DEFAULT,
			 ring);
		verify(g, &c);
	}
	vm_pause(g->vm);
	mig_guest_free(g);
	console_fini(&c);
}

/*
 * With no downtime allowed a few pages always stay behind, so few that the last
 * can be in before the receiver has said that the guest runs.
 */
static void a_few_pages_stay_behind(void)
{
	struct vm_config cfg = { .ram_bytes = 64u << 20, .nr_cpus = 1 };
	struct mig_guest *g;
	struct console c;
	struct vm *vm;
	int hop;

	printf("a few pages stay behind\n");
	console_init(&c);
	vm = boot_guest(&cfg, "work=dirty mem=16M ws=8K", &c);
	console_wait(&c, 0, "GUEST-READY");
	if (mig_guest_new(vm, &g) < 0)
		die("guest");
	for (hop = 0; hop < 20; hop++)
		g = move(g, &c, MIG_MODE_HYBRID, 2, 0, 0);
	verify(g, &c);
	vm_pause(g->vm);
	mig_guest_free(g);
	console_fini(&c);
}

int main(void)
{
	need_kvm();
	a_few_pages_stay_behind();
	there_and_back("work=idle mem=64M", 1, MIG_MODE_PRECOPY, 1, 0);
	there_and_back("work=fill mem=64M", 1, MIG_MODE_POSTCOPY, 1, 0);
	there_and_back("work=dirty mem=64M ws=8M", 1, MIG_MODE_HYBRID, 2, 0);
	there_and_back("work=sparse mem=96M", 2, MIG_MODE_HYBRID, 4, 4096);
	there_and_back("work=dirty mem=64M zero=8", 2, MIG_MODE_POSTCOPY, 3, 0);
	there_and_back("work=read mem=96M irq=1", 4, MIG_MODE_POSTCOPY, 16,
		       4096);
	there_and_back("work=sparse mem=64M light=1 rate=5000 irq=1", 3,
		       MIG_MODE_PRECOPY, 2, 0);
	return 0;
}
