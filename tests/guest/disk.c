#include "disk.h"

#include <stddef.h>

#include "blk.h"
#include "loop.h"
#include "memory.h"
#include "options.h"
#include "work.h"

#define RUN_BLOCKS       8
#define BLOCK_SECTORS    (PAGE_BYTES / BLK_SECTOR_BYTES)
#define TURNS_A_WRITE    4  /* one request in so many writes */
#define WRITES_A_FLUSH   32 /* and after so many writes all are flushed */
#define NAME_OF_BLOCK(b) (UINT64_C(1) << 62 | (b) * PAGE_BYTES)

enum doing {
	IDLE,
	READING,  /* a run of blocks into a run of pages */
	LOADING,  /* the same, into pages that had nothing so far */
	WRITING,  /* from the buffer; then read again */
	CHECKING, /* into the buffer */
	FLUSHING
};

struct slot {
	enum doing doing;
	uint64_t block;
	uint64_t page;
	uint32_t nr;
};

/* A vCPU's own. */
struct share {
	struct slot slots[BLK_SLOTS];
	uint64_t first_block, nr_blocks;
	uint64_t next_fill, next_load, next_check; /* from the first of each */
	uint32_t writes_since_flush;
	uint32_t nr_flying;
};

static struct share shares[BLK_QUEUES_MAX];
static uint8_t buffers[BLK_QUEUES_MAX][BLK_SLOTS][RUN_BLOCKS * PAGE_BYTES]
	__attribute__((aligned(PAGE_BYTES)));
static uint64_t nr_blocks;

bool disk_init(const char **ret_why)
{
	uint32_t wanted = options.cpus ? (uint32_t)options.cpus
				       : machine.nr_cpus;

	if (!blk_init(wanted, ret_why))
		return false;
	nr_blocks = (options.disk && options.disk < blk.bytes ? options.disk
							      : blk.bytes) /
		    PAGE_BYTES;
	*ret_why = "disk-too-small";
	if (nr_blocks < blk.nr_queues * BLK_SLOTS * RUN_BLOCKS)
		return false;
	*ret_why = "disk-read-only";
	return !blk.read_only ||
	       (options.work == WORK_DISKONLY && options.prefilled);
}

uint64_t disk_blocks(void)
{
	return nr_blocks;
}

uint32_t disk_nr_cpus(void)
{
	return nr_cpus < blk.nr_queues ? nr_cpus : blk.nr_queues;
}

void disk_deal(void)
{
	uint32_t nr = disk_nr_cpus();

	for (uint32_t id = 0; id < nr; id++) {
		struct share *s = &shares[id];

		s->first_block = nr_blocks * id / nr;
		s->nr_blocks = nr_blocks * (id + 1) / nr - s->first_block;
		s->next_check = s->nr_blocks;
		if (!options.prefilled)
			continue;
		s->next_fill = s->nr_blocks;
		for (uint64_t i = 0; i < s->nr_blocks; i++)
			memory.disk_versions[s->first_block + i] = 1;
		cpus[id].writes = s->nr_blocks;
	}
}

static struct share *share_of(struct cpu *c)
{
	return c->id < disk_nr_cpus() ? &shares[c->id] : NULL;
}

static struct slot *idle_slot(struct share *s)
{
	for (uint32_t i = 0; i < BLK_SLOTS; i++)
		if (s->slots[i].doing == IDLE)
			return &s->slots[i];
	return NULL;
}

static uint64_t buffer_gpa(struct cpu *c, const struct slot *slot)
{
	return (uint64_t)buffers[c->id][slot - shares[c->id].slots];
}

static void submit(struct cpu *c, struct slot *slot, enum doing doing,
		   uint64_t gpa)
{
	struct share *s = &shares[c->id];
	enum blk_type type = doing == WRITING    ? BLK_WRITE
			     : doing == FLUSHING ? BLK_FLUSH
						 : BLK_READ;

	slot->doing = doing;
	s->nr_flying++;
	blk_submit(c->id, (uint32_t)(slot - s->slots), type,
		   slot->block * BLOCK_SECTORS, gpa, slot->nr * PAGE_BYTES);
}

static bool overlap(uint64_t a, uint64_t b, uint64_t nr_a, uint64_t nr_b)
{
	return a < b + nr_b && b < a + nr_a;
}

/* No request in flight writes these blocks, or any of them. */
static bool blocks_are_quiet(const struct share *s, uint64_t block, uint32_t nr)
{
	for (uint32_t i = 0; i < BLK_SLOTS; i++) {
		const struct slot *o = &s->slots[i];

		if (o->doing != IDLE && o->doing != FLUSHING &&
		    overlap(o->block, block, o->nr, nr))
			return false;
	}
	return true;
}

static bool pages_are_free(const struct share *s, uint64_t page, uint32_t nr)
{
	for (uint32_t i = 0; i < BLK_SLOTS; i++) {
		const struct slot *o = &s->slots[i];

		if ((o->doing == READING || o->doing == LOADING) &&
		    overlap(o->page, page, o->nr, nr))
			return false;
	}
	return true;
}

/* Of nr pages from page on, how many can be one piece of memory. */
static uint32_t in_one_piece(uint64_t page, uint32_t nr)
{
	uint64_t gpa = memory_page_gpa(page);

	while (memory_page_gpa(page + nr - 1) != gpa + (nr - 1) * PAGE_BYTES)
		nr--;
	return nr;
}

static bool read_into(struct cpu *c, struct slot *slot, enum doing doing,
		      uint64_t page)
{
	const struct share *s = &shares[c->id];

	slot->nr = in_one_piece(page, slot->nr);
	slot->page = page;
	if (!pages_are_free(s, page, slot->nr))
		return false;
	for (uint32_t i = 0; i < slot->nr; i++)
		memory.records[page + i].version |= RECORD_WRITING;
	submit(c, slot, doing, memory_page_gpa(page));
	return true;
}

/* A random run of blocks of this vCPU that no request is busy with. */
static bool choose_blocks(struct cpu *c, struct slot *slot, uint64_t nr_max)
{
	const struct share *s = &shares[c->id];
	uint64_t random = work_random(c);

	slot->nr = (uint32_t)(random % RUN_BLOCKS) + 1;
	if (slot->nr > nr_max)
		slot->nr = (uint32_t)nr_max;
	slot->block = s->first_block +
		      (random >> 8) % (s->nr_blocks - slot->nr + 1);
	return blocks_are_quiet(s, slot->block, slot->nr);
}

static bool read_at_random(struct cpu *c, struct slot *slot)
{
	uint64_t page = work_random(c) % c->working_pages;

	return choose_blocks(c, slot, c->working_pages - page) &&
	       read_into(c, slot, READING, c->first_page + page);
}

/* The next version of the slot's blocks. */
static void write_blocks(struct cpu *c, struct slot *slot)
{
	uint64_t gpa = buffer_gpa(c, slot);

	for (uint32_t i = 0; i < slot->nr; i++) {
		uint64_t block = slot->block + i;

		page_fill(gpa + i * PAGE_BYTES, NAME_OF_BLOCK(block),
			  ++memory.disk_versions[block]);
	}
	submit(c, slot, WRITING, gpa);
}

static bool write_at_random(struct cpu *c, struct slot *slot)
{
	struct share *s = &shares[c->id];

	if (s->writes_since_flush >= WRITES_A_FLUSH) {
		s->writes_since_flush = 0;
		slot->block = slot->nr = 0;
		submit(c, slot, FLUSHING, 0);
		return true;
	}
	if (!choose_blocks(c, slot, RUN_BLOCKS))
		return false;
	s->writes_since_flush++;
	write_blocks(c, slot);
	return true;
}

static void io_failed(struct cpu *c, const char *what, const struct slot *slot,
		      uint64_t status)
{
	struct line l;

	if (!failure_start(c, &l, "disk"))
		return;
	line_key(&l, "what", what);
	if (slot) {
		line_dec(&l, "doing", slot->doing);
		line_dec(&l, "block", slot->block);
		line_dec(&l, "nr", slot->nr);
	}
	line_dec(&l, "status", status);
	failure_end(c, &l);
}

static void pages_arrived(struct cpu *c, const struct slot *slot)
{
	for (uint32_t i = 0; i < slot->nr; i++) {
		struct record *r = &memory.records[slot->page + i];

		r->touches = (uint32_t)(slot->block + i + 1);
		r->version = memory.disk_versions[slot->block + i];
		c->disk_reads++;
		work_verify(c, slot->page + i);
	}
	if (slot->doing == LOADING)
		c->filled_pages += slot->nr;
}

static void check_buffer(struct cpu *c, const struct slot *slot, uint64_t gpa)
{
	struct page_error e;

	for (uint32_t i = 0; i < slot->nr; i++) {
		uint64_t block = slot->block + i;

		c->disk_reads++;
		if (!page_check(gpa + i * PAGE_BYTES, NAME_OF_BLOCK(block),
				memory.disk_versions[block], 0, &e))
			io_failed(c, "block-differs", slot, i);
	}
}

static void blocks_written(struct cpu *c, struct slot *slot)
{
	c->writes += slot->nr;
	if (c->filled_pages < c->nr_pages)
		return; /* the first pass will read them anyway */
	if (slot->nr <= c->working_pages) {
		uint64_t page = work_random(c) %
				(c->working_pages - slot->nr + 1);

		read_into(c, slot, READING, c->first_page + page);
	}
}

static void completed(struct cpu *c, struct slot *slot, uint8_t status)
{
	struct slot was = *slot;

	slot->doing = IDLE;
	shares[c->id].nr_flying--;
	if (status != 0)
		io_failed(c, "status", &was, status);
	else if (was.doing == READING || was.doing == LOADING)
		pages_arrived(c, &was);
	else if (was.doing == WRITING)
		blocks_written(c, slot);
	else if (was.doing == CHECKING)
		check_buffer(c, &was, buffer_gpa(c, slot));
}

void disk_poll(struct cpu *c)
{
	struct share *s = share_of(c);
	uint32_t id;
	uint8_t status;

	while (s && blk_poll(c->id, &id, &status)) {
		if (id >= BLK_SLOTS || s->slots[id].doing == IDLE)
			io_failed(c, "unexpected", NULL, status);
		else
			completed(c, &s->slots[id], status);
	}
}

/* The next run of at most `left` from *next on. */
static uint32_t take_run(uint64_t *next, uint64_t left)
{
	uint32_t nr = left < RUN_BLOCKS ? (uint32_t)left : RUN_BLOCKS;

	*next += nr;
	return nr;
}

static void load(struct cpu *c, struct share *s, struct slot *slot)
{
	if (s->next_load == c->nr_pages ||
	    !choose_blocks(c, slot, c->nr_pages - s->next_load))
		return;
	if (read_into(c, slot, LOADING, c->first_page + s->next_load))
		s->next_load += slot->nr;
}

void disk_first_turn(struct cpu *c)
{
	struct share *s = share_of(c);
	struct slot *slot = s ? idle_slot(s) : NULL;

	if (slot == NULL)
		return;
	if (s->next_fill < s->nr_blocks) {
		slot->block = s->first_block + s->next_fill;
		slot->nr = take_run(&s->next_fill, s->nr_blocks - s->next_fill);
		write_blocks(c, slot);
	} else if (s->next_load > 0 || s->nr_flying == 0) {
		load(c, s, slot);
	}
}

bool disk_step(struct cpu *c)
{
	struct share *s = share_of(c);
	struct slot *slot = s ? idle_slot(s) : NULL;

	if (slot && options.work == WORK_DISK &&
	    work_random(c) % TURNS_A_WRITE == 0)
		write_at_random(c, slot);
	else if (slot)
		read_at_random(c, slot);
	/* Without a rate to keep, what is in flight is waited for awake. */
	return s && (slot || options.rate == 0);
}

void disk_check_start(struct cpu *c)
{
	struct share *s = share_of(c);

	if (s == NULL)
		return;
	s->next_check = 0;
	for (uint64_t i = 0; i < s->nr_blocks; i++)
		c->pass_sum += memory.disk_versions[s->first_block + i];
}

bool disk_check_turn(struct cpu *c)
{
	struct share *s = share_of(c);
	struct slot *slot;

	if (s == NULL || (s->next_check == s->nr_blocks && s->nr_flying == 0))
		return false;
	slot = idle_slot(s);
	if (slot == NULL || s->next_check == s->nr_blocks)
		return true;
	slot->block = s->first_block + s->next_check;
	slot->nr = take_run(&s->next_check, s->nr_blocks - s->next_check);
	if (blocks_are_quiet(s, slot->block, slot->nr))
		submit(c, slot, CHECKING, buffer_gpa(c, slot));
	else
		s->next_check -= slot->nr;
	return true;
}

bool disk_page_verify(uint64_t page, struct page_error *ret_error)
{
	const struct record *r = &memory.records[page];
	uint64_t gpa = memory_page_gpa(page);

	if (r->version & RECORD_WRITING)
		return true;
	if (r->touches == 0)
		return page_check(gpa, gpa, 0, 0, ret_error);
	return page_check(gpa, NAME_OF_BLOCK((uint64_t)r->touches - 1),
			  r->version, 0, ret_error);
}
