/* vmm/boot_files.c: from what a machine is booted again, wherever it is then. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/vm.h"

/* NULL stays NULL. */
static int copy_text(const char *from, const char **ret_to)
{
	*ret_to = from ? strdup(from) : NULL;
	return from && !*ret_to ? -ENOMEM : 0;
}

int vm_boot_files_copy(const struct vm_boot_files *from,
		       struct vm_boot_files *ret_to)
{
	struct vm_boot_files to = { 0 };
	int ret;

	ret = copy_text(from->kernel, &to.kernel);
	if (ret == 0)
		ret = copy_text(from->initrd, &to.initrd);
	if (ret == 0)
		ret = copy_text(from->cmdline, &to.cmdline);
	if (ret < 0)
		vm_boot_files_fini(&to);
	else
		*ret_to = to;
	return ret;
}

void vm_boot_files_fini(struct vm_boot_files *f)
{
	free((char *)f->kernel);
	free((char *)f->initrd);
	free((char *)f->cmdline);
	*f = (struct vm_boot_files){ 0 };
}
