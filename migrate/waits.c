#include "migrate/waits.h"

#include <stdlib.h>

#include "migrate/clock.h"

#define FIRST_ROOM 64

void mig_waits_fini(struct mig_waits *w)
{
	free(w->list);
}

static bool make_room(struct mig_waits *w)
{
	size_t max = w->max ? 2 * w->max : FIRST_ROOM;
	struct mig_wait *more;

	if (w->nr < w->max)
		return true;
	more = realloc(w->list, max * sizeof(*more));
	if (!more)
		return false;
	w->list = more;
	w->max = max;
	return true;
}

void mig_waits_add(struct mig_waits *w, uint64_t page, uint64_t since_us,
		   int cpu)
{
	size_t i;

	for (i = 0; i < w->nr; i++) {
		if (w->list[i].page == page && w->list[i].cpu == cpu)
			return;
	}
	if (make_room(w))
		w->list[w->nr++] = (struct mig_wait){ page, cpu, since_us, 0 };
}

void mig_waits_asked(struct mig_waits *w, uint64_t page)
{
	uint64_t now_us = mig_now_us();
	size_t i;

	for (i = 0; i < w->nr; i++) {
		if (w->list[i].page == page && w->list[i].asked_us == 0)
			w->list[i].asked_us = now_us;
	}
}

static uint64_t from_to(uint64_t from_us, uint64_t to_us)
{
	return to_us > from_us ? to_us - from_us : 0;
}

/* Unless it is known to have been asked for before it came it had no request. */
static void note(struct mig_waits *w, const struct mig_wait *wait,
		 uint64_t arrived_us, uint64_t now_us)
{
	uint64_t since_us = wait->since_us;
	uint64_t asked_us = wait->asked_us ? wait->asked_us : since_us;

	if (arrived_us < since_us)
		arrived_us = since_us;
	if (asked_us > arrived_us)
		asked_us = arrived_us;
	mig_histogram_add(&w->all, from_to(since_us, now_us));
	mig_histogram_add(&w->request, from_to(since_us, asked_us));
	mig_histogram_add(&w->wire, from_to(asked_us, arrived_us));
	mig_histogram_add(&w->place, from_to(arrived_us, now_us));
	atomic_fetch_add(wait->cpu < 0 ? &w->others_us
				       : &w->blocked_us[wait->cpu],
			 from_to(since_us, now_us));
}

bool mig_waits_has(const struct mig_waits *w, uint64_t page, uint64_t nr)
{
	size_t i = 0;

	while (i < w->nr && w->list[i].page - page >= nr)
		i++;
	return i < w->nr;
}

void mig_waits_end(struct mig_waits *w, uint64_t page, uint64_t nr,
		   uint64_t arrived_us)
{
	uint64_t now_us = mig_now_us();
	size_t i = 0;

	while (i < w->nr) {
		const struct mig_wait *wait = &w->list[i];

		if (wait->page - page >= nr) {
			i++;
			continue;
		}
		if (wait->since_us != 0)
			note(w, wait, arrived_us, now_us);
		w->list[i] = w->list[--w->nr];
	}
}

void mig_waits_read(const struct mig_waits *w, struct mig_faults *ret_faults)
{
	struct mig_faults *f = ret_faults;

	mig_histogram_read(&w->all, &f->all);
	mig_histogram_read(&w->request, &f->request);
	mig_histogram_read(&w->wire, &f->wire);
	mig_histogram_read(&w->place, &f->place);
	for (unsigned int i = 0; i < VM_CPUS_MAX; i++)
		f->blocked_us[i] = atomic_load(&w->blocked_us[i]);
	f->others_us = atomic_load(&w->others_us);
}
