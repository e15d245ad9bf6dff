#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many rounds of the series' selftest in each of KVM's MMUs, with 4 KiB and with huge
# pages, while memslots change and MMU notifiers come all the time.
#
#	kernel-patch/run-rounds.sh [--only PARAMETER] [--kernel KIND] [--threads T]
#		[ROUNDS]
#
# ROUNDS (default 10000) of each kind are run in pieces, each in a lab and with a
# seed of its own: with 1 to 4 vCPUs in turn, and with logs that are initially set
# in every other piece. PARAMETER names one of the MMUs, as in run-selftests.sh.
#
# With --threads cpus the lab's CPUs run in parallel, which makes for more races. But
# that emulation breaks now and then (tests/lab/README.md): the lab dies, or a guest
# is shut down, which the stock kernel's guests are as well. Such a piece is run
# again, and said to have been. A complaint of the lab's kernel is a failure.
#
# Prints a line per kind; exit status 0 when nothing was lost.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
lab=$here/../tests/lab
parameters=(- kvm.tdp_mmu=0 kvm_amd.npt=0)	# TDP MMU, shadow MMU, shadow paging
kernel=patched
threads=one
rounds=10000
piece_rounds=250
timeout_s=900
tries_max=5
lab_died=125

while [ $# -ge 2 ]; do
	case $1 in
	--only) parameters=("$2") ;;
	--kernel) kernel=$2 ;;
	--threads) threads=$2 ;;
	*) break ;;
	esac
	shift 2
done
[ $# -eq 0 ] || rounds=$1
selftest=$("$here/build.sh" selftests)/x86_64/write_protect_all_test
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Was it the emulation that ended the piece, by what is in the log?
emulation_broke() {
	[ "$threads" = cpus ] || return 1
	grep -q 'Unexpected exit SHUTDOWN' "$log" && return
	[ "$1" -eq $lab_died ] && ! grep -q '^lab: its kernel complained' "$log"
}

# piece PARAMETER SEED ROUNDS ARGUMENTS...
piece() {
	local parameter=$1 seed=$2 nr=$3 tries status options=()
	shift 3

	[ "$parameter" = - ] || options=(--kvm-param "$parameter")
	[ $((seed % 2)) -eq 0 ] || set -- "$@" -i
	for ((tries = 0; tries < tries_max; tries++)); do
		status=0
		"$lab/run.sh" --kernel "$kernel" --threads "$threads" "${options[@]}" \
			--timeout $timeout_s -- "$selftest" -f -c -n -x "$@" \
			-v $((1 + seed % 4)) -S "$seed" -r "$nr" \
			</dev/null >"$log" 2>&1 || status=$?
		emulation_broke "$status" || break
		broken=$((broken + 1))
	done
	[ "$status" -eq 0 ] || cat "$log" >&2
	return "$status"
}

# kind PARAMETER NAME ARGUMENTS...
kind() {
	local parameter=$1 name=$2 seed=0 left=$rounds nr verdict="nothing lost"
	local begin=$SECONDS
	shift 2

	broken=0
	while [ "$left" -gt 0 ]; do
		seed=$((seed + 1))
		nr=$((left < piece_rounds ? left : piece_rounds))
		piece "$parameter" "$seed" "$nr" "$@" || {
			verdict="FAILED with seed $seed"
			break
		}
		left=$((left - nr))
	done
	printf '%-16s %-5s %6d rounds %5d s, %d broken and run again: %s\n' \
		"$parameter" "$name" $((rounds - left)) $((SECONDS - begin)) \
		"$broken" "$verdict"
	[ "$left" -eq 0 ]
}

status=0
for parameter in "${parameters[@]}"; do
	kind "$parameter" 4KiB || status=1
	kind "$parameter" huge -l 2m -s anonymous_thp || status=1
done
exit $status
