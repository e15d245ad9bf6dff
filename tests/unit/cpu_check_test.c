/* A CPU that this host cannot show is refused by name; its own is not. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "migrate/cpu_check.h"
#include "vmm/cpuid.h"

struct table {
	struct kvm_cpuid_entry2 *entries;
	size_t nr;
};

static int load_host(void **state)
{
	static struct table t;
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int ret = vm_cpuid_supported(fd, &t.entries, &t.nr);

	close(fd);
	*state = &t;
	return ret;
}

static int free_host(void **state)
{
	free(((struct table *)*state)->entries);
	return 0;
}

static void count_lines(void *ctx, const char *line)
{
	assert_non_null(strstr(line, "CPUID leaf"));
	++*(size_t *)ctx;
}

static void test_own_cpu_is_fine(void **state)
{
	struct table *t = *state;
	size_t lines = 0;

	assert_int_equal(
		mig_cpu_missing(t->entries, t->nr, count_lines, &lines), 0);
	assert_int_equal(lines, 0);
}

static void test_a_cpu_from_the_future_is_not(void **state)
{
	struct table *t = *state;
	size_t i, lines = 0;

	for (i = 0; i < t->nr; i++) {
		if (t->entries[i].function == 7 && t->entries[i].index == 0)
			t->entries[i].ebx = t->entries[i].ecx = UINT32_MAX;
	}
	assert_true(mig_cpu_missing(t->entries, t->nr, count_lines, &lines) >=
		    1);
	assert_true(lines >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_own_cpu_is_fine),
		cmocka_unit_test(test_a_cpu_from_the_future_is_not),
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		printf("skipped: no usable /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, load_host, free_host);
}
