#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Run the kernel's own KVM selftests in the lab, on stock and on the patched
# kernel, in both MMUs, and say where the results differ.
#
#	kernel-patch/run-selftests.sh [--only PARAMETER] [--match REGEX]
#		[--each SECONDS] [KIND...]
#
# KIND is what is compared with the stock kernel (default: patched). PARAMETER
# names one of the MMUs: "-", kvm.tdp_mmu=0 or kvm_amd.npt=0. REGEX chooses among the
# tests. A test may take so many seconds (default 120). Results are exit statuses: 0
# passed, 4 skipped, 124 took too long for the emulator. Exit status 0 when none
# differ, 1 when some do, else that of a lab that died.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
lab=$here/../tests/lab
parameters=(- kvm.tdp_mmu=0 kvm_amd.npt=0)	# TDP MMU, shadow MMU, shadow paging
each_s=120
match=.
boot_s=240

# Arguments make them small: the lab is some thirty times slower than hardware.
tests=(
	"dirty_log_test -i 4 -I 50"
	"dirty_log_perf_test -v 2 -i 2 -b 64M"
	"dirty_log_perf_test -v 2 -i 2 -b 64M -g"
	"dirty_log_perf_test -v 2 -i 2 -b 64M -s anonymous_thp -e"
	"demand_paging_test -v 2 -b 32M"
	"access_tracking_perf_test -v 2 -b 16M"
	"memslot_modification_stress_test -v 2 -i 50"
	"memslot_perf_test -l 1 -s 512"
	"set_memory_region_test"
	"kvm_page_table_test -v 2 -b 64M"
	"pre_fault_memory_test"
	"guest_memfd_test"
	"max_guest_memory_test -m 1 -s 1 -c 2"
	"kvm_binary_stats_test"
	"x86_64/dirty_log_page_splitting_test -b 16M -s anonymous_thp"
	"x86_64/smm_test"
	"x86_64/state_test"
	"x86_64/svm_vmcall_test"
	"x86_64/svm_int_ctl_test"
	"x86_64/svm_nested_soft_inject_test"
	"x86_64/svm_nested_shutdown_test"
	"x86_64/hyperv_tlb_flush"
	"x86_64/nested_exceptions_test"
	"x86_64/private_mem_conversions_test -n 1"
	"x86_64/exit_on_emulation_failure_test"
	"x86_64/set_sregs_test"
	"x86_64/sync_regs_test"
	"x86_64/userspace_io_test"
)

# In the lab: DIRECTORY
inside() {
	local test status

	for test in "${tests[@]}"; do
		[[ $test =~ $match ]] || continue
		status=0
		# Word splitting is what makes arguments of them.
		# shellcheck disable=SC2086
		timeout $each_s "$1"/$test >"$TMPDIR/out" 2>&1 </dev/null ||
			status=$?
		echo "$status $test"
		[ $status -eq 0 ] || [ $status -eq 4 ] ||
			sed 's/^/	/' "$TMPDIR/out" | tail -n 8 >&2
	done
}

while [ $# -ge 2 ]; do
	case $1 in
	--only) parameters=("$2") ;;
	--match) match=$2 ;;
	--each) each_s=$2 ;;
	--inside) inside "$2"; exit ;;
	*) break ;;
	esac
	shift 2
done
[ $# -gt 0 ] || set -- patched
directory=$("$here/build.sh" selftests)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

results() {
	local kernel=$1 parameter=$2 options=()

	[ "$parameter" = - ] || options=(--kvm-param "$parameter")
	"$lab/run.sh" --kernel "$kernel" "${options[@]}" \
		--timeout $((${#tests[@]} * each_s + boot_s)) -- \
		"$here/run-selftests.sh" --each "$each_s" --match "$match" \
			--inside "$directory"
}

differ=0
for parameter in "${parameters[@]}"; do
	results built "$parameter" >"$tmp/built"
	for kind; do
		results "$kind" "$parameter" >"$tmp/$kind"
		echo "$parameter: stock, $kind:"
		paste -d ' ' <(cut -d' ' -f1 "$tmp/built") "$tmp/$kind"
		diff "$tmp/built" "$tmp/$kind" || differ=1
	done
done
exit $differ
