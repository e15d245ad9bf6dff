#include "cli/report.h"

#include "vmm/mem.h"

const char *report_result(enum mig_phase phase)
{
	switch (phase) {
	case MIG_COMPLETE:
		return "completed";
	case MIG_FAILED:
		return "failed";
	case MIG_CANCELLED:
		return "cancelled";
	case MIG_PAUSED:
		return "paused";
	default:
		return "running";
	}
}

static json_t *ms(uint64_t us)
{
	return json_real((double)us / 1000.0);
}

static json_t *latency(const struct mig_latency *l)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "count", (json_int_t)l->count,
			 "p50_us", (json_int_t)l->p50_us, "p99_us",
			 (json_int_t)l->p99_us, "max_us",
			 (json_int_t)l->max_us);
}

static json_t *new_report(const struct mig_status *status)
{
	json_t *o = json_pack("{s:s}", "result", report_result(status->phase));

	/* Only a bad end has a reason; what was said on the way is no error. */
	if (status->error[0] && status->phase != MIG_COMPLETE)
		json_object_set_new(o, "error", json_string(status->error));
	return o;
}

static json_t *downtime(const struct mig_stats *s)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "stop_ms",
			 ms(s->downtime.stop_us), "sync_ms",
			 ms(s->downtime.sync_us), "pages_ms",
			 ms(s->downtime.pages_us), "state_ms",
			 ms(s->downtime.state_us), "commit_ms",
			 ms(s->downtime.commit_us), "start_ms",
			 ms(s->downtime.start_us));
}

static void set_int(json_t *o, const char *key, uint64_t value)
{
	json_object_set_new(o, key, json_integer((json_int_t)value));
}

/* What "faults" are made of, and whom they kept waiting. */
static void add_fault_parts(json_t *o, const struct mig_faults *f)
{
	json_t *blocked = json_array();

	for (unsigned int i = 0; i < f->nr_cpus; i++)
		json_array_append_new(blocked, ms(f->blocked_us[i]));
	json_object_set_new(o, "blocked_ms", blocked);
	json_object_set_new(o, "blocked_others_ms", ms(f->others_us));
	json_object_set_new(o, "fault_request", latency(&f->request));
	json_object_set_new(o, "fault_wire", latency(&f->wire));
	json_object_set_new(o, "fault_place", latency(&f->place));
}

json_t *report_migration(const struct mig_status *status,
			 const struct mig_stats *s)
{
	json_t *o = new_report(status);

	json_object_set_new(o, "mode", json_string(mig_mode_name(s->mode)));
	json_object_set_new(o, "switchover",
			    !s->switched    ? json_null()
			    : s->postcopied ? json_string("postcopy")
					    : json_string("precopy"));
	json_object_set_new(o, "total_ms", ms(s->total_us));
	json_object_set_new(o, "setup_ms", ms(s->setup_us));
	json_object_set_new(o, "precopy_ms", ms(s->precopy_us));
	json_object_set_new(o, "downtime_ms", ms(s->downtime_us));
	json_object_set_new(o, "downtime", downtime(s));
	json_object_set_new(o, "pauses",
			    json_pack("{s:I, s:o, s:o}", "count",
				      (json_int_t)s->pauses.count, "sum_ms",
				      ms(s->pauses.sum_us), "max_ms",
				      ms(s->pauses.max_us)));
	json_object_set_new(o, "syncs",
			    json_pack("{s:o, s:I, s:o, s:o}", "start_ms",
				      ms(s->syncs.start_us), "count",
				      (json_int_t)s->syncs.count, "sum_ms",
				      ms(s->syncs.sum_us), "max_ms",
				      ms(s->syncs.max_us)));
	json_object_set_new(o, "postcopy_ms", ms(s->postcopy_us));
	set_int(o, "rounds", s->rounds);
	set_int(o, "bytes_sent", s->bytes_sent);
	set_int(o, "pages_sent", s->pages_sent);
	set_int(o, "pages_zero", s->pages_zero);
	set_int(o, "pages_skipped", s->pages_skipped);
	set_int(o, "pages_deferred", s->pages_deferred);
	set_int(o, "pages_stale", s->pages_stale);
	set_int(o, "pages_duplicate", s->pages_duplicate);
	set_int(o, "channels", s->channels);
	json_object_set_new(o, "tracker",
			    json_string(s->tracker ? s->tracker : ""));
	set_int(o, "throughput_bytes_per_s", s->throughput_bytes_per_s);
	json_object_set_new(o, "faults", latency(&s->faults.all));
	add_fault_parts(o, &s->faults);
	return o;
}

json_t *report_snapshot(const struct mig_status *status,
			const struct mig_snapshot_stats *s)
{
	json_t *o = new_report(status);

	json_object_set_new(o, "pause_ms", ms(s->pause_us));
	json_object_set_new(o, "total_ms", ms(s->total_us));
	set_int(o, "bytes_written", s->bytes_written);
	set_int(o, "pages", s->pages);
	json_object_set_new(o, "wp_faults", latency(&s->wp_faults));
	json_object_set_new(o, "disks",
			    json_pack("{s:i, s:i, s:I, s:o}", "count",
				      (int)s->disks, "cloned",
				      (int)s->disks_cloned, "bytes",
				      (json_int_t)s->disk_bytes, "copy_ms",
				      ms(s->disks_us)));
	return o;
}

json_t *report_restore(const struct mig_status *status,
		       const struct mig_restore_stats *s)
{
	json_t *o = new_report(status);

	json_object_set_new(o, "start_ms", ms(s->start_us));
	json_object_set_new(o, "total_ms", ms(s->total_us));
	json_object_set_new(o, "faults", latency(&s->faults.all));
	add_fault_parts(o, &s->faults);
	return o;
}

json_t *report_progress(const struct report_progress *p)
{
	return json_pack(
		"{s:s, s:I, s:I, s:I, s:I}", "phase", mig_phase_name(p->phase),
		"round", (json_int_t)p->rounds, "left_bytes",
		(json_int_t)(p->left_pages * VM_PAGE_BYTES), "total_bytes",
		(json_int_t)(p->total_pages * VM_PAGE_BYTES), "bytes",
		(json_int_t)p->bytes);
}
