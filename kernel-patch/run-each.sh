#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Does KVM build after each patch of the series?
#
#	kernel-patch/run-each.sh
#
# For whoever bisects: arch/x86/kvm and what it takes from virt/kvm is compiled with
# the lab's configuration before the first patch and after each, in a tree of its own
# (some minutes), where a warning is an error, and so are the selftests after a patch
# that changes them.
#
# Prints a line per patch; exit status 0 when all build.
set -euo pipefail

here=$(dirname "$(realpath "$0")")
lab=$here/../tests/lab
cache=${VMMD_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vmmd-lab}/each
log=$cache/make.log

# Afresh: the last run left sources with patches, and objects of them.
prepare() {
	local pristine

	pristine=$("$lab/kernel.sh" --source built)
	rm -rf "$cache"
	mkdir -p "$cache/build"
	cp -a "$pristine" "$cache/source"
	make -s -C "$cache/source" O="$cache/build" \
		KCONFIG_ALLCONFIG="$lab/kernel.config" allnoconfig >&2
}

build() {
	make -C "$cache/source" O="$cache/build" -j "$(nproc)" KCFLAGS=-Werror \
		arch/x86/kvm/ >"$log" 2>&1
}

build_selftests() {
	local tests=$cache/source/tools/testing/selftests/kvm

	make -s -C "$cache/source" O="$cache/headers" headers >"$log" 2>&1 &&
		make -C "$tests" -j "$(nproc)" OUTPUT="$cache/selftests" \
			KHDR_INCLUDES="-isystem $cache/headers/usr/include" \
			>>"$log" 2>&1
}

try() {
	if "$2"; then
		echo "$1: $2"
	else
		echo "$1: $2 FAILED"
		grep -m 5 -E 'error|Error' "$log"
		exit 1
	fi
}

prepare
try "no patch" build
for patch in "$here"/linux-6.12/*.patch; do
	name=$(basename "$patch" .patch)
	[[ $name != 0000-* ]] || continue
	patch -s -p1 -d "$cache/source" --no-backup-if-mismatch <"$patch"
	try "$name" build
	if grep -q '^+++ b/tools/testing/selftests/kvm' "$patch"; then
		try "$name" build_selftests
	fi
done
