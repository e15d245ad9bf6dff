#include "migrate/complete_codec.h"

static Vmmd__Latency *fill_part(const struct mig_latency *l, Vmmd__Latency *msg)
{
	vmmd__latency__init(msg);
	msg->p50_us = l->p50_us;
	msg->p99_us = l->p99_us;
	msg->max_us = l->max_us;
	return msg;
}

void mig_complete_fill(struct mig_stats *s, Vmmd__Complete *msg,
		       struct mig_faults_msg *parts)
{
	struct mig_faults *f = &s->faults;

	msg->faults = f->all.count;
	msg->fault_p50_us = f->all.p50_us;
	msg->fault_p99_us = f->all.p99_us;
	msg->fault_max_us = f->all.max_us;
	msg->request = fill_part(&f->request, &parts->request);
	msg->wire = fill_part(&f->wire, &parts->wire);
	msg->place = fill_part(&f->place, &parts->place);
	msg->n_blocked_us = f->nr_cpus;
	msg->blocked_us = f->blocked_us;
	msg->others_us = f->others_us;
	msg->pages_stale = s->pages_stale;
	msg->pages_duplicate = s->pages_duplicate;
}

static void read_part(const Vmmd__Latency *msg, uint64_t count,
		      struct mig_latency *l)
{
	if (msg)
		*l = (struct mig_latency){ count, msg->p50_us, msg->p99_us,
					   msg->max_us };
}

void mig_complete_read(const Vmmd__Complete *msg, struct mig_stats *s)
{
	struct mig_faults *f = &s->faults;

	f->all = (struct mig_latency){ msg->faults, msg->fault_p50_us,
				       msg->fault_p99_us, msg->fault_max_us };
	read_part(msg->request, msg->faults, &f->request);
	read_part(msg->wire, msg->faults, &f->wire);
	read_part(msg->place, msg->faults, &f->place);
	for (f->nr_cpus = 0;
	     f->nr_cpus < msg->n_blocked_us && f->nr_cpus < VM_CPUS_MAX;
	     f->nr_cpus++)
		f->blocked_us[f->nr_cpus] = msg->blocked_us[f->nr_cpus];
	f->others_us = msg->others_us;
	s->pages_stale = msg->pages_stale;
	s->pages_duplicate = msg->pages_duplicate;
}
