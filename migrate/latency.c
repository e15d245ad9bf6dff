#include "migrate/latency.h"

#define SUB_BITS 4
#define SUB      (1u << SUB_BITS)

/* Up to 16 us each has its own bucket; above, 16 share each power of two. */
static unsigned int bucket_of(uint64_t us)
{
	unsigned int log2, bucket;

	if (us < SUB)
		return (unsigned int)us;
	log2 = 63 - (unsigned int)__builtin_clzll(us);
	bucket = (log2 - SUB_BITS + 1) * SUB +
		 (unsigned int)((us >> (log2 - SUB_BITS)) & (SUB - 1));
	return bucket < MIG_LATENCY_BUCKETS ? bucket : MIG_LATENCY_BUCKETS - 1;
}

/* The largest value that falls into bucket. */
static uint64_t bucket_top(unsigned int bucket)
{
	unsigned int shift;

	if (bucket < SUB)
		return bucket;
	shift = bucket / SUB - 1;
	return ((UINT64_C(1) * SUB + bucket % SUB + 1) << shift) - 1;
}

void mig_histogram_add(struct mig_histogram *h, uint64_t us)
{
	uint64_t max = atomic_load_explicit(&h->max_us, memory_order_relaxed);

	while (us > max && !atomic_compare_exchange_weak(&h->max_us, &max, us))
		;
	atomic_fetch_add_explicit(&h->buckets[bucket_of(us)], 1,
				  memory_order_relaxed);
}

static uint64_t percentile(const uint64_t *counts, uint64_t count,
			   unsigned int percent, uint64_t max_us)
{
	uint64_t rank = (count * percent + 99) / 100;
	uint64_t seen = 0;

	for (unsigned int i = 0; i < MIG_LATENCY_BUCKETS; i++) {
		seen += counts[i];
		if (seen >= rank)
			return bucket_top(i) < max_us ? bucket_top(i) : max_us;
	}
	return max_us;
}

void mig_histogram_read(const struct mig_histogram *h,
			struct mig_latency *ret_latency)
{
	uint64_t counts[MIG_LATENCY_BUCKETS];
	uint64_t count = 0, max_us;

	for (unsigned int i = 0; i < MIG_LATENCY_BUCKETS; i++) {
		counts[i] = atomic_load_explicit(&h->buckets[i],
						 memory_order_relaxed);
		count += counts[i];
	}
	max_us = atomic_load(&h->max_us);
	*ret_latency = (struct mig_latency){ .count = count };
	if (count == 0)
		return;
	ret_latency->p50_us = percentile(counts, count, 50, max_us);
	ret_latency->p99_us = percentile(counts, count, 99, max_us);
	ret_latency->max_us = max_us;
}
