#include "clock.h"

#include "machine.h"

static uint64_t scale(uint64_t tsc, uint32_t mul, int8_t shift)
{
	tsc = shift >= 0 ? tsc << shift : tsc >> -shift;
	return (uint64_t)(((unsigned __int128)tsc * mul) >> 32);
}

uint64_t clock_ns(const struct pvclock *p, uint64_t *ret_tsc)
{
	uint32_t version;
	uint64_t tsc, ns;

	do {
		version = p->version;
		barrier();
		tsc = rdtsc();
		ns = p->system_time + scale(tsc - p->tsc_timestamp,
					    p->tsc_to_system_mul, p->tsc_shift);
		barrier();
	} while ((version & 1) || version != p->version);
	*ret_tsc = tsc;
	return ns;
}

uint64_t clock_tsc_to_ns(const struct pvclock *p, uint64_t tsc)
{
	uint32_t version, mul;
	int8_t shift;

	do {
		version = p->version;
		barrier();
		mul = p->tsc_to_system_mul;
		shift = p->tsc_shift;
		barrier();
	} while ((version & 1) || version != p->version);
	return scale(tsc, mul, shift);
}

uint64_t clock_tsc_hz(const struct pvclock *p)
{
	/* ns per 2^32 ticks, in two steps that both stay exact enough */
	uint64_t ns = clock_tsc_to_ns(p, UINT64_C(1) << 32);

	return ns == 0 ? 0 : (uint64_t)(NS_PER_S << 32) / ns;
}
