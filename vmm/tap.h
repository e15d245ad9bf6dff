/*
 * vmm/tap.h: one tap interface of the host, as the far end of a guest's network
 * card. Linux Documentation/networking/tuntap.rst.
 *
 * Every frame that is read or written starts with a virtio_net_hdr of
 * TAP_HEADER_BYTES bytes; the kernel sets and obeys all of it but num_buffers
 * (bytes 10 and 11), which it neither reads nor writes.
 *
 * Owns:    the caller owns the file descriptor.
 * Threads: any, one at a time.
 * Errors:  -errno.
 */
#ifndef VMM_TAP_H
#define VMM_TAP_H

#define TAP_HEADER_BYTES 12

/*
 * Attaches to the interface, which is made if there is none and then goes when
 * it is closed. Its addresses, bridge and link state are the administrator's. The
 * descriptor does not block. *err (may be NULL) gets one line.
 */
int tap_open(const char *name, int *ret_fd, char **err);
/* What the host may leave undone in frames that we read: TUN_F_*. */
int tap_set_offload(int fd, unsigned int flags);
/* Throws away what waits to be read. */
void tap_drain(int fd);

#endif
