#include "page.h"

#include "machine.h"
#include "options.h"

/* splitmix64's constants (Vigna, public domain). */
#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)
#define MIX_1  UINT64_C(0xbf58476d1ce4e5b9)
#define MIX_2  UINT64_C(0x94d049bb133111eb)

enum {
	WORD_NAME,
	WORD_VERSION,
	WORD_SEED,
	WORD_TOUCHES,
	WORD_TOUCH_HASH,
	WORD_STREAM
};

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * MIX_1;
	x = (x ^ x >> 27) * MIX_2;
	return x ^ x >> 31;
}

static uint64_t page_key(uint64_t name, uint32_t version)
{
	return mix(options.seed + mix(name + mix(version + GOLDEN)));
}

/* One multiplication a word: generation must not be what is measured. */
static inline uint64_t stream_word(uint64_t key, uint32_t word)
{
	uint64_t x = key + word * GOLDEN;

	x = (x ^ x >> 32) * MIX_1;
	return x ^ x >> 29;
}

static bool is_zeros(uint64_t key, uint32_t version)
{
	return version == 0 || (options.zero && key % options.zero == 0);
}

static void header(uint64_t name, uint32_t version, uint32_t touches,
		   uint64_t key, uint64_t ret_words[WORD_STREAM])
{
	ret_words[WORD_NAME] = PAGE_MAGIC ^ name;
	ret_words[WORD_VERSION] = version;
	ret_words[WORD_SEED] = options.seed;
	ret_words[WORD_TOUCHES] = touches;
	ret_words[WORD_TOUCH_HASH] = mix(key + touches);
}

static void fill(volatile uint64_t *words, uint64_t name, uint32_t version,
		 uint32_t touches)
{
	uint64_t key = page_key(name, version);
	uint64_t head[WORD_STREAM];

	if (is_zeros(key, version)) {
		for (uint32_t i = 0; i < PAGE_WORDS; i++)
			words[i] = 0;
		return;
	}
	header(name, version, touches, key, head);
	for (uint32_t i = 0; i < WORD_STREAM; i++)
		words[i] = head[i];
	for (uint32_t i = WORD_STREAM; i < PAGE_WORDS; i++)
		words[i] = stream_word(key, i);
}

void page_fill(uint64_t gpa, uint64_t name, uint32_t version)
{
	fill((volatile uint64_t *)gpa, name, version, 0);
}

void page_write(uint64_t page)
{
	struct record *r = &memory.records[page];
	uint64_t gpa = memory_page_gpa(page);
	uint32_t version = (r->version + 1) & ~RECORD_WRITING;

	r->version = version | RECORD_WRITING;
	fill((volatile uint64_t *)gpa, gpa, version, r->touches);
	r->version = version;
}

void page_touch(uint64_t page)
{
	struct record *r = &memory.records[page];
	uint64_t gpa = memory_page_gpa(page);
	volatile uint64_t *words = (volatile uint64_t *)gpa;
	uint64_t key = page_key(gpa, r->version);
	uint32_t touches = r->touches + 1;

	if (is_zeros(key, r->version)) {
		page_write(page);
		return;
	}
	r->version |= RECORD_WRITING;
	r->touches = touches;
	words[WORD_TOUCHES] = touches;
	words[WORD_TOUCH_HASH] = mix(key + touches);
	r->version &= ~RECORD_WRITING;
}

static bool differs(const volatile uint64_t *words, uint32_t i, uint64_t want,
		    struct page_error *ret_error)
{
	uint64_t got = words[i];

	if (got == want)
		return false;
	ret_error->gpa = (uint64_t)words;
	ret_error->word = i;
	ret_error->want = want;
	ret_error->got = got;
	return true;
}

/* Which word it was: only after page_verify() has found that there is one. */
static void find_error(const volatile uint64_t *words, uint64_t key, bool zeros,
		       const uint64_t head[WORD_STREAM],
		       struct page_error *ret_error)
{
	for (uint32_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t want = i < WORD_STREAM ? head[i] : stream_word(key, i);

		if (differs(words, i, zeros ? 0 : want, ret_error))
			return;
	}
}

bool page_check(uint64_t gpa, uint64_t name, uint32_t version, uint32_t touches,
		struct page_error *ret_error)
{
	const uint64_t *words = (const uint64_t *)gpa;
	uint64_t key = page_key(name, version);
	bool zeros = is_zeros(key, version);
	uint64_t head[WORD_STREAM] = { 0 };
	uint64_t wrong = 0;

	barrier();
	if (zeros) {
		for (uint32_t i = 0; i < PAGE_WORDS; i++)
			wrong |= words[i];
	} else {
		header(name, version, touches, key, head);
		for (uint32_t i = 0; i < WORD_STREAM; i++)
			wrong |= words[i] ^ head[i];
		for (uint32_t i = WORD_STREAM; i < PAGE_WORDS; i++)
			wrong |= words[i] ^ stream_word(key, i);
	}
	barrier();
	if (wrong == 0)
		return true;
	*ret_error = (struct page_error){ .gpa = gpa, .word = PAGE_WORDS };
	find_error(words, key, zeros, head, ret_error);
	return false;
}

bool page_verify(uint64_t page, struct page_error *ret_error)
{
	const struct record *r = &memory.records[page];
	uint64_t gpa = memory_page_gpa(page);

	return page_check(gpa, gpa, r->version, r->touches, ret_error);
}
