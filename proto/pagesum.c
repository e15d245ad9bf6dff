#include "proto/wire.h"

#include <immintrin.h>
#include <xxhash.h>
#ifdef XXHASH_DISPATCHES
/* The same functions, as wide as the CPU that we run on allows. */
#include <xxh_x86dispatch.h>
#endif

uint64_t proto_page_sum(uint64_t page, const void *data)
{
	return XXH3_64bits_withSeed(data, PROTO_PAGE_BYTES, page);
}

/* Two lines at a time. AVX-512 gains nothing more: memory does not keep up. */
static __attribute__((target("avx2"))) bool is_zero_avx2(const __m256i *p)
{
	size_t i;

	for (i = 0; i < PROTO_PAGE_BYTES / sizeof(*p); i += 4) {
		__m256i any = _mm256_loadu_si256(p + i);

		any |= _mm256_loadu_si256(p + i + 1);
		any |= _mm256_loadu_si256(p + i + 2);
		any |= _mm256_loadu_si256(p + i + 3);
		if (!_mm256_testz_si256(any, any))
			return false;
	}
	return true;
}

static bool is_zero(const uint64_t *p)
{
	size_t i;

	for (i = 0; i < PROTO_PAGE_BYTES / sizeof(*p); i += 8) {
		if ((p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] |
		     p[i + 5] | p[i + 6] | p[i + 7]) != 0)
			return false;
	}
	return true;
}

/* Nearly every page that is not zero differs in its first line: both leave early. */
bool proto_page_is_zero(const void *data)
{
	return __builtin_cpu_supports("avx2") ? is_zero_avx2(data)
					      : is_zero(data);
}
