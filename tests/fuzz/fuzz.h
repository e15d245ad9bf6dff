/* fuzz.h: what the fuzz targets share. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* A claim about what was decoded: a breach is a finding. */
#define FUZZ_CLAIM(condition)                                                  \
	do {                                                                   \
		if (!(condition))                                              \
			__builtin_trap();                                      \
	} while (0)

/*
 * Well-formed input with a few bytes changed reaches deeper than noise: data is
 * a list of patches (offset, u16 little-endian; length, u8; bytes) that are
 * written over base. Patches past its end are dropped.
 */
static inline void fuzz_patch(uint8_t *base, size_t base_bytes,
			      const uint8_t *data, size_t bytes)
{
	while (bytes > 3) {
		size_t offset = data[0] | (size_t)data[1] << 8;
		size_t len = data[2];

		data += 3;
		bytes -= 3;
		if (len > bytes)
			len = bytes;
		for (size_t i = 0; i < len && offset + i < base_bytes; i++)
			base[offset + i] = data[i];
		data += len;
		bytes -= len;
	}
}

#endif
