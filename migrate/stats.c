#include "migrate/stats.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static const char *const mode_names[] = {
	[MIG_MODE_HYBRID] = "hybrid",
	[MIG_MODE_PRECOPY] = "precopy",
	[MIG_MODE_POSTCOPY] = "postcopy",
};

const char *mig_mode_name(enum mig_mode mode)
{
	return mode_names[mode];
}

int mig_mode_parse(const char *name, enum mig_mode *ret_mode)
{
	size_t i;

	for (i = 0; i < sizeof(mode_names) / sizeof(mode_names[0]); i++) {
		if (strcmp(name, mode_names[i]) == 0) {
			*ret_mode = (enum mig_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}
