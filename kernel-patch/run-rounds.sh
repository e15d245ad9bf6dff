#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Many rounds of the series' selftest in each of KVM's MMUs, with 4 KiB and with huge
# pages, while memslots change and MMU notifiers come all the time.
#
#	kernel-patch/run-rounds.sh [--only PARAMETER] [--kernel KIND] [--threads T]
#		[--results FILE] [ROUNDS]
#
# ROUNDS (default 10000) of each kind are run in pieces, each in a lab and with a
# seed of its own, which also says how many vCPUs there are, whether logs are
# initially set, and whether the guest is nested. The kinds take turns, so that all
# have got equally far whenever this is stopped. PARAMETER names one of the MMUs, as
# in run-selftests.sh.
#
# A piece that is done becomes a line of FILE. Those found there, of the same kernel,
# are not run again: stop this whenever you like, and start it again to go on. A piece
# that failed ends its kind, until its line is taken out of FILE.
#
# With --threads cpus the lab's CPUs run in parallel, which makes for more races. But
# that emulation breaks now and then (tests/lab/README.md): the lab dies, or a guest
# is shut down, which the stock kernel's guests are as well. Such a piece is run
# again, and said to have been. A complaint of the lab's kernel is a failure.
#
# Prints a line per kind; exit status 0 when all rounds are done and nothing was lost.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
lab=$here/../tests/lab
parameters=(- kvm.tdp_mmu=0 kvm_amd.npt=0)	# TDP MMU, shadow MMU, shadow paging
kinds=("4KiB" "huge -l 2m -s anonymous_thp")	# name and arguments
kernel=patched
threads=one
results=
rounds=10000
piece_rounds=250
timeout_s=1200
tries_max=5
lab_died=125

while [ $# -ge 2 ]; do
	case $1 in
	--only) parameters=("$2") ;;
	--kernel) kernel=$2 ;;
	--threads) threads=$2 ;;
	--results) results=$2 ;;
	*) break ;;
	esac
	shift 2
done
[ $# -eq 0 ] || rounds=$1
selftest=$("$here/build.sh" selftests)/x86_64/write_protect_all_test
image=$("$lab/kernel.sh" "$kernel")
key=$(basename "$(dirname "$image")")	# changes with the series, the selftest included
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
log=$tmp/log
results=${results:-$tmp/results}
touch "$results"

# What FILE says of a kind. Its lines:
# KEY PARAMETER NAME SEED ROUNDS SECONDS BROKEN VERDICT, and the selftest's last words
pieces_of() {
	awk -v key="$key" -v parameter="$1" -v name="$2" \
		'$1 == key && $2 == parameter && $3 == name' "$results"
}

sum() {
	awk -v column="$1" '{ n += $column } END { print n + 0 }'
}

# Was it the emulation that ended the piece, by what is in the log?
emulation_broke() {
	[ "$threads" = cpus ] || return 1
	grep -q 'Unexpected exit SHUTDOWN' "$log" && return
	[ "$1" -eq $lab_died ] && ! grep -q '^lab: its kernel complained' "$log"
}

# piece PARAMETER SEED ROUNDS ARGUMENTS...: sets status and broken
piece() {
	local parameter=$1 seed=$2 nr=$3 options=()
	shift 3

	[ "$parameter" = - ] || options=(--kvm-param "$parameter")
	# All combinations come along, the nested ones later and less often.
	[ $((seed / 4 % 2)) -eq 0 ] || set -- "$@" -i
	[ $((seed / 8 % 4)) -ne 1 ] || [ "$parameter" = kvm_amd.npt=0 ] ||
		set -- "$@" -M 1
	for ((broken = 0; broken < tries_max; broken++)); do
		status=0
		"$lab/run.sh" --kernel "$image" --threads "$threads" "${options[@]}" \
			--timeout $timeout_s -- "$selftest" -f -c -n -x "$@" \
			-v $((1 + seed % 4)) -S "$seed" -r "$nr" \
			</dev/null >"$log" 2>&1 || status=$?
		emulation_broke "$status" || break
	done
	[ "$status" -eq 0 ] || cat "$log" >&2
}

# reach GOAL PARAMETER NAME ARGUMENTS...: the rounds that a kind has not got there yet
reach() {
	local goal=$1 parameter=$2 name=$3 begin=$SECONDS seed left verdict=passed
	shift 3

	[ "$(pieces_of "$parameter" "$name" | grep -c ' FAILED ')" -eq 0 ] || return 0
	left=$((goal - $(pieces_of "$parameter" "$name" | sum 5)))
	[ "$left" -gt 0 ] || return 0
	seed=$(($(pieces_of "$parameter" "$name" | wc -l) + 1))

	piece "$parameter" "$seed" "$left" "$@"
	[ "$status" -eq 0 ] || verdict=FAILED
	echo "$key $parameter $name $seed $left $((SECONDS - begin)) $broken" \
		"$verdict $(tail -n 1 "$log")" >>"$results"
}

# summary PARAMETER NAME
summary() {
	local parameter=$1 name=$2 pieces verdict="nothing lost" nr

	pieces=$(pieces_of "$parameter" "$name")
	nr=$(grep ' passed ' <<<"$pieces" | sum 5) || true
	! grep -q ' FAILED ' <<<"$pieces" || verdict="FAILED with seed $(
		awk '$8 == "FAILED" { print $4 }' <<<"$pieces")"
	printf '%-16s %-5s %6d rounds %5d s, %d broken and run again: %s\n' \
		"$parameter" "$name" "$nr" "$(sum 6 <<<"$pieces")" \
		"$(sum 7 <<<"$pieces")" "$verdict"
	[ "$nr" -ge "$rounds" ]
}

for ((goal = 0; goal < rounds; )); do
	goal=$((goal + piece_rounds < rounds ? goal + piece_rounds : rounds))
	for parameter in "${parameters[@]}"; do
		for kind in "${kinds[@]}"; do
			# Word splitting is what makes name and arguments of it.
			# shellcheck disable=SC2086
			reach "$goal" "$parameter" $kind
		done
	done
done
status=0
for parameter in "${parameters[@]}"; do
	for kind in "${kinds[@]}"; do
		summary "$parameter" "${kind%% *}" || status=1
	done
done
exit $status
