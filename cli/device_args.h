/*
 * cli/device_args.h: what people type after --disk, --net and --vsock.
 *
 * Pieces between commas, each "key=value" or a word; a comma in a value is
 * doubled. Strict: an unknown, missing or repeated piece will not do.
 * Life:    the strings that are filled in are malloc'd and the caller's.
 * Threads: any; nothing here keeps state.
 * Errors:  -EINVAL, and then nothing was written.
 */
#ifndef CLI_DEVICE_ARGS_H
#define CLI_DEVICE_ARGS_H

#include "vmm/vm.h"

/* path=F[,ro][,direct]; the path becomes absolute. */
int cli_parse_disk(const char *text, struct vm_disk_config *ret_disk);
/* tap=T[,mac=M]; M: six pairs of hexadecimal digits, of one station. */
int cli_parse_net(const char *text, struct vm_net_config *ret_net);
/* path=F[,cid=N]; the path becomes absolute, cid is 0 when it is not said. */
int cli_parse_vsock(const char *text, struct vm_vsock_config *ret_vsock);

#endif
