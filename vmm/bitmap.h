/*
 * vmm/bitmap.h: bitmaps with one bit per page of RAM, in 64-bit words.
 *
 * Plain functions are for bitmaps that one thread owns at a time; the atomic
 * ones (bitmap_atomic_*) are for those that several threads share, and order
 * what they guard: a bit that is seen set or cleared was so after all that the
 * other thread did before.
 */
#ifndef VMM_BITMAP_H
#define VMM_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITMAP_WORD_BITS UINT64_C(64)

static inline size_t bitmap_words(uint64_t bits)
{
	return (size_t)((bits + BITMAP_WORD_BITS - 1) / BITMAP_WORD_BITS);
}

/*
 * All clear. A big one is address space only until it is used, and then comes in huge
 * pages: 64 GiB have 2 MiB of bits, and 512 page faults for these cost 1 to 2 ms.
 * NULL without memory. Free with the same number of bits.
 */
uint64_t *bitmap_new(uint64_t bits);
void bitmap_free(uint64_t *map, uint64_t bits);

static inline bool bitmap_test(const uint64_t *map, uint64_t bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}

static inline void bitmap_set(uint64_t *map, uint64_t bit)
{
	map[bit / 64] |= UINT64_C(1) << (bit % 64);
}

static inline void bitmap_clear(uint64_t *map, uint64_t bit)
{
	map[bit / 64] &= ~(UINT64_C(1) << (bit % 64));
}

/* Most words of a big one are zero, and not every CPU can count bits at once. */
static inline uint64_t bitmap_count_word(uint64_t word)
{
	return word ? (uint64_t)__builtin_popcountll(word) : 0;
}

static inline uint64_t bitmap_count(const uint64_t *map, uint64_t bits)
{
	uint64_t count = 0;
	size_t i;

	for (i = 0; i < bitmap_words(bits); i++)
		count += bitmap_count_word(map[i]);
	return count;
}

/*
 * ORs from into to (NULL: nowhere); from is all clear then. Writes no word that holds
 * nothing.
 */
static inline void bitmap_move(uint64_t *to, uint64_t *from, uint64_t bits)
{
	size_t i;

	for (i = 0; i < bitmap_words(bits); i++) {
		if (!from[i])
			continue;
		if (to)
			to[i] |= from[i];
		from[i] = 0;
	}
}

static inline bool bitmap_atomic_test(const uint64_t *map, uint64_t bit)
{
	uint64_t word = __atomic_load_n(&map[bit / 64], __ATOMIC_ACQUIRE);

	return word >> (bit % 64) & 1;
}

/* Both return whether the bit was set before. */
static inline bool bitmap_atomic_set(uint64_t *map, uint64_t bit)
{
	uint64_t mask = UINT64_C(1) << (bit % 64);

	return __atomic_fetch_or(&map[bit / 64], mask, __ATOMIC_ACQ_REL) & mask;
}

static inline bool bitmap_atomic_clear(uint64_t *map, uint64_t bit)
{
	uint64_t mask = UINT64_C(1) << (bit % 64);

	return __atomic_fetch_and(&map[bit / 64], ~mask, __ATOMIC_ACQ_REL) &
	       mask;
}

/* The first set bit in [from, end), or end. */
static inline uint64_t bitmap_next_set(const uint64_t *map, uint64_t from,
				       uint64_t end)
{
	uint64_t bit = from;

	while (bit < end) {
		uint64_t word = __atomic_load_n(&map[bit / 64],
						__ATOMIC_RELAXED) >>
				(bit % 64);

		if (word) {
			bit += (uint64_t)__builtin_ctzll(word);
			return bit < end ? bit : end;
		}
		bit += 64 - bit % 64;
	}
	return end;
}

/* The first clear bit in [from, end), or end. */
static inline uint64_t bitmap_next_clear(const uint64_t *map, uint64_t from,
					 uint64_t end)
{
	uint64_t bit = from;

	while (bit < end) {
		uint64_t word = ~__atomic_load_n(&map[bit / 64],
						 __ATOMIC_RELAXED) >>
				(bit % 64);

		if (word) {
			bit += (uint64_t)__builtin_ctzll(word);
			return bit < end ? bit : end;
		}
		bit += 64 - bit % 64;
	}
	return end;
}

#endif
