#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Does the series' selftest notice when a part of the series is missing?
#
#	kernel-patch/run-mutants.sh [NAME...]
#
# Every patch in mutants/ takes one push-down, flush or check out of the series.
# For each (or those whose names start with a NAME) this builds the kernel with
# the series and the mutant, and runs the selftest in the lab for each line
#
#	Fails: PARAMETER -- ARGUMENTS
#
# of the patch: with that parameter of KVM ("-" is none) and those arguments the
# selftest must fail. A line "Passes: ..." is the opposite, for a control.
#
# Only what the selftest itself finds is a failure. Runs of the rounds alone (-f) are
# about races: the lab's CPUs run in parallel then, enough of them for one that protects
# while vCPUs spin. As that emulation breaks now and then (tests/lab/README.md: the lab
# dies, or a guest is shut down) the run is repeated.
#
# Prints a line per run; exit status 0 when all went as the patches say.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
lab=$here/../tests/lab
cache=${VMMD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vmmd-lab}/mutants
timeout_s=400
tries_max=3
# Exit statuses: run.sh's, TEST_ASSERT()'s, and what a shell adds 128 to.
lab_died=125
assertion=254
SIGALRM=14
wrong=0

# A tree of its own: others build the patched one meanwhile.
prepare() {
	local patched file

	patched=$("$lab/kernel.sh" --source patched)
	mkdir -p "$cache/build"
	[ -d "$cache/source" ] || cp -a "$patched" "$cache/source"
	while read -r file; do
		cmp -s "$patched/$file" "$cache/source/$file" ||
			cp "$patched/$file" "$cache/source/$file"
	done <"$patched/.patched-files"
	cp "$lab/kernel.config" "$cache/lab.config"
	cmp -s "$cache/lab.config" "$cache/lab.config.done" && return
	make -s -C "$cache/source" O="$cache/build" \
		KCONFIG_ALLCONFIG="$cache/lab.config" allnoconfig >&2
	cp "$cache/lab.config" "$cache/lab.config.done"
}

build() {
	nice make -C "$cache/source" O="$cache/build" -j "$(nproc)" bzImage \
		>"$cache/make.log" 2>&1 || {
		tail -n 20 "$cache/make.log" >&2
		return 1
	}
}

# Was it the emulation that ended the run, by its status and log?
emulation_broke() {
	[ "$1" -eq $lab_died ] || grep -q 'Unexpected exit SHUTDOWN' "$2"
}

# run NAME PARAMETER ARGUMENTS...: the selftest's verdict
run() {
	local name=$1 parameter=$2 tries status options=()
	local log=$cache/logs/$name-$parameter-$3-$RANDOM
	shift 2

	[ "$parameter" = - ] || options=(--kvm-param "$parameter")
	case " $* " in *' -f '*) options+=(--threads cpus --cpus 4) ;; esac
	log=${log// /_}
	for ((tries = 0; tries < tries_max; tries++)); do
		status=0
		"$lab/run.sh" --kernel "$cache/build/arch/x86/boot/bzImage" \
			"${options[@]}" --timeout $timeout_s -- "$selftest" "$@" \
			</dev/null >"$log" 2>&1 || status=$?
		emulation_broke "$status" "$log" || break
	done
	! emulation_broke "$status" "$log" || status=$lab_died
	why=$(grep -aE 'should|writes aren.t|Accepted|accepted|Round|nothing lost' "$log" |
		head -n 1) || true
	case $status in
	0) verdict=passes ;;
	"$assertion") verdict=fails ;;
	$((128 + SIGALRM))) verdict=fails why="a vCPU is stuck" ;;
	*) verdict="did not run" why="status $status, $log" ;;
	esac
}

judge() {
	local patch=$1 name expected parameter arguments begin

	name=$(basename "$patch" .patch)
	while read -r expected parameter _ arguments; do
		expected=${expected%:}
		begin=$SECONDS
		# Word splitting is what makes arguments of them.
		# shellcheck disable=SC2086
		run "$name" "$parameter" $arguments
		if [ "$verdict" = "${expected,}" ]; then
			result=right
		else
			result=WRONG
			wrong=$((wrong + 1))
		fi
		printf '%-6s %-26s %-16s %-36s %4d s  %s: %s\n' "$result" "$name" \
			"$parameter" "$arguments" $((SECONDS - begin)) "$verdict" "$why"
	done < <(sed -n '/^---$/q;/^\(Fails\|Passes\): /p' "$patch")
}

selftest=$("$here/build.sh" selftests)/x86_64/write_protect_all_test
prepare
mkdir -p "$cache/logs"
rm -f "$cache"/logs/*
for patch in "$here"/mutants/*.patch; do
	if [ $# -gt 0 ]; then
		wanted=
		for name; do
			case $(basename "$patch") in "$name"*) wanted=1 ;; esac
		done
		[ -n "$wanted" ] || continue
	fi
	patch -s -p1 -d "$cache/source" --no-backup-if-mismatch <"$patch"
	if build; then
		judge "$patch"
	else
		echo "WRONG  $(basename "$patch") does not build"
		wrong=$((wrong + 1))
	fi
	patch -s -R -p1 -d "$cache/source" --no-backup-if-mismatch <"$patch"
done
[ $wrong -eq 0 ]
