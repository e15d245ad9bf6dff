/*
 * migrate/stats.h: what an operation (migration, snapshot, restore) tells of
 * itself while it runs and when it has ended. All of it is measured.
 *
 * Plain values: the operation fills a copy under its lock, the reader owns it.
 */
#ifndef MIGRATE_STATS_H
#define MIGRATE_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/phase.h"
#include "vmm/state.h"

enum mig_mode { MIG_MODE_HYBRID, MIG_MODE_PRECOPY, MIG_MODE_POSTCOPY };

const char *mig_mode_name(enum mig_mode mode);
int mig_mode_parse(const char *name, enum mig_mode *ret_mode); /* -EINVAL */

/* Of page faults: from the fault being read to the page being usable. */
struct mig_latency {
	uint64_t count;
	uint64_t p50_us;
	uint64_t p99_us;
	uint64_t max_us;
};

/* Of a guest that runs while pages are still elsewhere. */
struct mig_faults {
	/* A page and a vCPU that waits for it is one; and what each is made of: */
	struct mig_latency all;
	struct mig_latency request; /* until it was asked for */
	struct mig_latency wire;    /* until it was here */
	struct mig_latency place;   /* until it was in place, who waits woken */
	unsigned int nr_cpus;
	/*
	 * All waits of each vCPU's thread, and those of others: devices, and kernel
	 * threads to which KVM hands a vCPU's fault (virt/kvm/async_pf.c).
	 */
	uint64_t blocked_us[VM_CPUS_MAX];
	uint64_t others_us;
};

/* A migration, seen from either end. */
struct mig_stats {
	enum mig_mode mode;
	bool switched;   /* downtime and switchover are valid */
	bool postcopied; /* switchover: "postcopy" rather than "precopy" */
	uint64_t total_us;
	uint64_t setup_us;
	uint64_t precopy_us;
	uint64_t downtime_us; /* source: first vCPU told to stop .. peer runs */
	struct {
		uint64_t stop_us;  /* until all vCPUs were parked */
		uint64_t sync_us;  /* last dirty sync */
		uint64_t pages_us; /* last pages out, or what is pending told */
		uint64_t state_us; /* state saved, sent, loaded over there */
		uint64_t commit_us; /* token and its answer, less start_us */
		uint64_t start_us;  /* peer: vCPUs started */
	} downtime;
	/* Every stop of the guest, of tries that were given up too. */
	struct {
		uint64_t count;
		uint64_t sum_us;
		uint64_t max_us;
	} pauses;
	/* What the tracker took, beside start_us each time it was asked. */
	struct {
		uint64_t start_us;
		uint64_t count;
		uint64_t sum_us;
		uint64_t max_us;
	} syncs;
	uint64_t postcopy_us;
	uint64_t rounds;
	uint64_t bytes_sent; /* all channels, headers too */
	uint64_t pages_sent;
	uint64_t pages_zero;
	uint64_t pages_skipped; /* never populated */
	/* Left to the next round, since written before this one had sent them. */
	uint64_t pages_deferred;
	unsigned int channels;
	const char *tracker;             /* static string; "" at the receiver */
	uint64_t throughput_bytes_per_s; /* while pages were flowing */
	struct mig_faults faults;        /* postcopy, at the receiver */
	uint64_t pages_stale; /* it had an older copy of, thrown away for it */
	uint64_t pages_duplicate; /* came when they were already there */
	/* Progress of the running phase. */
	uint64_t left_pages;
	uint64_t total_pages;
};

struct mig_snapshot_stats {
	uint64_t pause_us;
	uint64_t total_us;
	uint64_t bytes_written;
	uint64_t pages; /* data pages in the image */
	struct mig_latency wp_faults;
	unsigned int disks;        /* copied or cloned into it */
	unsigned int disks_cloned; /* of these: blocks shared, nothing copied */
	uint64_t disk_bytes;       /* their sizes, holes and all */
	uint64_t disks_us;         /* part of the pause */
	uint64_t left_pages;
	uint64_t total_pages;
};

struct mig_restore_stats {
	uint64_t start_us; /* from opening the image to vCPUs running */
	uint64_t total_us; /* until every page was in */
	struct mig_faults faults;
	uint64_t left_pages;
	uint64_t total_pages;
};

/* Where an operation is, for whoever asks. */
#define MIG_ERROR_BYTES 4096
struct mig_status {
	enum mig_phase phase;
	/* One line (setup refusals: several) for people; "" when all is well. */
	char error[MIG_ERROR_BYTES];
};

#endif
