#include "tests/unit/source_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdlib.h>

static uint64_t nr_stripes(const struct mig_source *s)
{
	return (s->ram_pages + MIG_STRIPE_PAGES - 1) / MIG_STRIPE_PAGES;
}

struct mig_source *source_fixture_new(struct vm_mem *mem)
{
	struct mig_source *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->mem = mem;
	s->ram_pages = vm_mem_pages(mem);
	s->todo = bitmap_new(s->ram_pages);
	s->later = bitmap_new(s->ram_pages);
	s->sent = bitmap_new(s->ram_pages);
	s->dirty = bitmap_new(s->ram_pages);
	s->window = bitmap_new(s->ram_pages);
	s->scratch = bitmap_new(s->ram_pages);
	s->hot = bitmap_new(nr_stripes(s));
	s->live = mig_source_new_live(s);
	assert_true(s->todo && s->later && s->sent && s->dirty && s->window &&
		    s->scratch && s->hot && s->live);
	return s;
}

void source_fixture_free(struct mig_source *s)
{
	assert_int_equal(bitmap_count(s->scratch, s->ram_pages), 0);
	bitmap_free(s->todo, s->ram_pages);
	bitmap_free(s->later, s->ram_pages);
	bitmap_free(s->sent, s->ram_pages);
	bitmap_free(s->dirty, s->ram_pages);
	bitmap_free(s->window, s->ram_pages);
	bitmap_free(s->scratch, s->ram_pages);
	bitmap_free(s->hot, nr_stripes(s));
	mig_source_free_live(s);
	free(s);
}
