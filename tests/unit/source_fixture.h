/*
 * tests/unit/source_fixture.h: as much of a source as its bitmaps and scans need,
 * without a session: mem and ram_pages are set, all else is as calloc() left it.
 */
#ifndef TESTS_UNIT_SOURCE_FIXTURE_H
#define TESTS_UNIT_SOURCE_FIXTURE_H

#include "migrate/source_internal.h"

/* mem is the caller's. Fails the test when memory is short. */
struct mig_source *source_fixture_new(struct vm_mem *mem);
void source_fixture_free(struct mig_source *s);

#endif
