#include "tests/unit/source_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdlib.h>

struct mig_source *source_fixture_new(struct vm_mem *mem)
{
	struct mig_source *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->mem = mem;
	s->ram_pages = vm_mem_pages(mem);
	assert_int_equal(mig_source_new_maps(s), 0);
	return s;
}

void source_fixture_free(struct mig_source *s)
{
	assert_int_equal(bitmap_count(s->scratch, s->ram_pages), 0);
	mig_source_free_maps(s);
	free(s);
}
