#include "migrate/say.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

int mig_say(char **err, int ret, const char *fmt, ...)
{
	va_list ap;

	if (!err || *err)
		return ret;
	va_start(ap, fmt);
	if (vasprintf(err, fmt, ap) < 0)
		*err = NULL;
	va_end(ap);
	return ret;
}

void mig_clean_text(char *text)
{
	for (; *text; text++) {
		if (*text != '\n' && (*text < ' ' || *text > '~'))
			*text = '?';
	}
}
