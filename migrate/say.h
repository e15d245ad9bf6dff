/*
 * migrate/say.h: one line for people beside an -errno.
 *
 * *err (err may be NULL) gets a malloc'd line unless it already has one: the
 * place closest to the trouble speaks first. Returns ret, so that it can stand
 * in a return statement. Any thread.
 */
#ifndef MIGRATE_SAY_H
#define MIGRATE_SAY_H

int mig_say(char **err, int ret, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Text that a peer sent, made fit for a terminal and for JSON: one byte for one,
 * only printable ASCII and newlines stay. In place.
 */
void mig_clean_text(char *text);

#endif
