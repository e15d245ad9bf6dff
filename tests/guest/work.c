#include "work.h"

#include "console.h"
#include "disk.h"
#include "loop.h"
#include "options.h"
#include "page.h"

#define READS_PER_WRITE 64

static volatile uint64_t pass_epoch; /* the pass asked for last; 0: none */

static bool is_right(uint64_t page, struct page_error *ret_error)
{
	return disk_blocks() ? disk_page_verify(page, ret_error)
			     : page_verify(page, ret_error);
}

void work_verify(struct cpu *c, uint64_t page)
{
	const struct record *r = &memory.records[page];
	struct page_error e;
	struct line l;

	c->verified++;
	if (is_right(page, &e) || !failure_start(c, &l, "verify"))
		return;
	line_hex(&l, "gpa", e.gpa);
	line_dec(&l, "off", e.word * 8);
	line_hex(&l, "want", e.want);
	line_hex(&l, "got", e.got);
	line_dec(&l, "version", ((const volatile uint64_t *)e.gpa)[1]);
	line_dec(&l, "table", r->version);
	line_dec(&l, "touches", r->touches);
	failure_end(c, &l);
}

static void write(struct cpu *c, uint64_t index)
{
	if (options.light)
		page_touch(c->first_page + index);
	else
		page_write(c->first_page + index);
	c->writes++;
}

uint64_t work_random(struct cpu *c)
{
	/* xorshift64 (Marsaglia); the state is never 0 */
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	return c->random;
}

static bool never(struct cpu *c)
{
	(void)c;
	return false;
}

static bool write_in_order(struct cpu *c)
{
	write(c, c->write_cursor);
	c->write_cursor = (c->write_cursor + 1) % c->working_pages;
	return true;
}

static bool write_at_random(struct cpu *c)
{
	write(c, work_random(c) % c->working_pages);
	return true;
}

static bool read_mostly(struct cpu *c)
{
	if (c->turns % READS_PER_WRITE == 0)
		return write_at_random(c);
	work_verify(c, c->first_page + work_random(c) % c->working_pages);
	return true;
}

static const struct {
	bool fills; /* first write every page once */
	bool reads; /* first read every page once */
	bool (*step)(struct cpu *c);
} works[NR_WORKS] = {
	[WORK_IDLE] = { .step = never },
	[WORK_TOUCH] = { .reads = true, .step = never },
	[WORK_FILL] = { .fills = true, .step = never },
	[WORK_DIRTY] = { .fills = true, .step = write_in_order },
	[WORK_SPARSE] = { .fills = true, .step = write_at_random },
	[WORK_READ] = { .fills = true, .step = read_mostly },
	[WORK_DISK] = { .fills = true, .step = disk_step },
	[WORK_DISKONLY] = { .fills = true, .step = disk_step },
};

/* The disk is worked on by those who have a queue of it: the first ones. */
static uint64_t share(uint64_t pages, uint32_t id)
{
	uint32_t nr = disk_blocks() ? disk_nr_cpus() : nr_cpus;

	if (!nr)
		return 0;
	if (id > nr)
		id = nr;
	return pages / nr * id + (id < pages % nr ? id : pages % nr);
}

void work_init(void)
{
	uint64_t working = options.ws ? options.ws / PAGE_BYTES : memory.pages;

	if (working > memory.pages)
		working = memory.pages;
	for (uint32_t id = 0; id < nr_cpus; id++) {
		struct cpu *c = &cpus[id];

		c->first_page = share(memory.pages, id);
		c->nr_pages = share(memory.pages, id + 1) - c->first_page;
		c->working_pages = share(working, id + 1) - share(working, id);
		c->random = (options.seed + id) * 2 + 1;
	}
	if (disk_blocks())
		disk_deal();
}

static bool has_first_pass(void)
{
	return works[options.work].fills || works[options.work].reads;
}

static bool first_pass_turn(struct cpu *c)
{
	if (!has_first_pass() || c->filled_pages == c->nr_pages)
		return false;
	if (disk_blocks()) {
		disk_first_turn(c);
		return true;
	}
	if (works[options.work].fills) {
		page_write(c->first_page + c->filled_pages);
		c->writes++;
	} else {
		work_verify(c, c->first_page + c->filled_pages);
	}
	c->filled_pages++;
	return true;
}

bool work_ready(void)
{
	for (uint32_t id = 0; id < nr_cpus; id++)
		if (has_first_pass() &&
		    *(volatile uint64_t *)&cpus[id].filled_pages !=
			    cpus[id].nr_pages)
			return false;
	return true;
}

/*
 * The rate is kept over short stretches only: a guest that was stopped for a
 * while goes on at its rate, it does not catch up.
 */
static bool is_due(struct cpu *c)
{
	uint64_t elapsed_ns = c->last_ns - c->paced_from_ns;
	uint64_t due = elapsed_ns / NS_PER_US * options.rate /
		       (nr_cpus * UINT64_C(1000000));
	uint64_t burst = options.rate / nr_cpus / 10 +
			 2 * options.rate / nr_cpus / options.hz + 1;

	if (options.rate == 0)
		return true;
	if (c->paced_from_ns == 0 || due > c->paced_pages + burst ||
	    (elapsed_ns > NS_PER_S && due && due == c->paced_pages)) {
		c->paced_from_ns = c->last_ns;
		c->paced_pages = 0;
		return false;
	}
	if (due <= c->paced_pages)
		return false;
	c->paced_pages++;
	return true;
}

static void verify_next(struct cpu *c)
{
	work_verify(c, c->first_page + c->verify_cursor);
	c->verify_cursor = (c->verify_cursor + 1) % c->filled_pages;
}

void work_verify_next_is(struct cpu *c, uint64_t page)
{
	c->verify_cursor = page - c->first_page;
}

void work_pass_start(void)
{
	pass_epoch++;
}

bool work_pass_done(void)
{
	for (uint32_t id = 0; id < nr_cpus; id++)
		if (cpus[id].pass_done_epoch != pass_epoch)
			return false;
	return true;
}

/*
 * All records together must account for every write ever made: the count is
 * kept far from them, so a record page that is old shows here.
 */
static void pass_finish(struct cpu *c)
{
	struct line l;

	if (c->pass_sum != c->writes && failure_start(c, &l, "records")) {
		line_dec(&l, "want", c->writes);
		line_dec(&l, "got", c->pass_sum);
		failure_end(c, &l);
	}
	c->pass_done_epoch = c->pass_epoch;
}

static bool pass_turn(struct cpu *c)
{
	const struct record *r;

	if (c->pass_epoch != pass_epoch) {
		c->pass_epoch = pass_epoch;
		c->pass_cursor = 0;
		c->pass_sum = 0;
		disk_check_start(c);
	}
	if (c->pass_done_epoch == c->pass_epoch)
		return false;
	if (disk_check_turn(c))
		return true;
	if (c->pass_cursor == c->filled_pages) {
		pass_finish(c);
		return true;
	}
	r = &memory.records[c->first_page + c->pass_cursor];
	work_verify(c, c->first_page + c->pass_cursor++);
	if (!disk_blocks())
		c->pass_sum += (uint64_t)r->version + r->touches;
	return true;
}

bool work_turn(struct cpu *c)
{
	bool worked;

	disk_poll(c);
	if (pass_turn(c) || first_pass_turn(c))
		return true;
	worked = c->working_pages && is_due(c) && works[options.work].step(c);
	if (options.verify && c->filled_pages &&
	    (worked || options.rate == 0 || !options.halt))
		verify_next(c);
	return worked;
}
