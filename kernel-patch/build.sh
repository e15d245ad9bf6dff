#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Build what the patch series is tried with, and print where it is.
#
#	kernel-patch/build.sh [WHAT]...
#
# WHAT is one of
#	stock		the lab's kernel without the series
#	patched		with it (both are built when nothing is said)
#	debug		as stock, patched-debug as patched, with lockdep, KASAN and
#			KVM's own checks
#	selftests	the kernel's own KVM selftests, the series' one among them
#
# Kernels come from tests/lab/kernel.sh, cache and all. Selftests are built from
# the patched source; they run on every kernel.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
kernel=$here/../tests/lab/kernel.sh
cache=${VMMD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vmmd-lab}

build_selftests() {
	local source headers=$cache/selftests-headers out=$cache/selftests

	source=$("$kernel" --source patched)
	mkdir -p "$headers" "$out"
	{
		make -s -C "$source" O="$headers" headers
		make -C "$source/tools/testing/selftests/kvm" -j "$(nproc)" \
			KHDR_INCLUDES="-isystem $headers/usr/include" OUTPUT="$out"
	} >"$cache/selftests.log" 2>&1 || {
		tail -n 30 "$cache/selftests.log" >&2
		return 1
	}
	echo "$out"
}

[ $# -gt 0 ] || set -- stock patched
for what; do
	case $what in
	stock) "$kernel" built ;;
	patched|debug|patched-debug) "$kernel" "$what" ;;
	selftests) build_selftests ;;
	--help) sed -n '3,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" ;;
	*) "$0" --help >&2; exit 2 ;;
	esac
done
