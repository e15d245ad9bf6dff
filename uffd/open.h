/*
 * uffd/open.h: userfaultfds of this host. Used in this folder alone.
 */
#ifndef UFFD_OPEN_H
#define UFFD_OPEN_H

/*
 * A userfaultfd with the features that uffd.c needs, non-blocking, the caller's
 * to close; -errno, and *err (to be freed) says how to enable what is missing.
 * Any thread.
 */
int uffd_open(char **err);

#endif
