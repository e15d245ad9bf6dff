#!/bin/bash
# Install the Debian packages that building and testing vmmd needs, and only
# those that are missing. Debian 12 and 13; safe to repeat.
#
#	scripts/setup.sh [--lab]	with what tests/lab needs besides
set -euo pipefail

packages=(
	build-essential cmake ninja-build pkg-config clang llvm acpica-tools
	clang-format-19 clang-tidy-19 # in both: what is clean here is clean there
	libcmocka-dev libev-dev libjansson-dev libprotobuf-c-dev
	liburing-dev libxxhash-dev protobuf-c-compiler
	jq python3 python3-pytest valgrind xfsprogs
)

# An emulator with AMD SVM, kernels for it, and what its guests are made of.
lab_packages=(
	qemu-system-x86 linux-source-6.12 flex bison bc libelf-dev patch xz-utils
	busybox-static cpio e2fsprogs file iproute2 kmod
)

installed() {
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Prints those of its arguments that are not installed.
missing() {
	local package

	for package; do
		installed "$package" || echo "$package"
	done
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "setup: not root and no sudo; as root run: $*" >&2
		return 1
	fi
}

install_missing() {
	local -a wanted

	mapfile -t wanted < <(missing "$@")
	[ "${#wanted[@]}" -eq 0 ] && return
	echo "setup: installing ${wanted[*]}"
	as_root apt-get update -q
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get install -q -y --no-install-recommends "${wanted[@]}"
}

if ! command -v dpkg-query >/dev/null; then
	echo "setup: this is not Debian; install yourself: ${packages[*]}" >&2
	exit 1
fi
install_missing "${packages[@]}"
# clang's sanitizer and fuzzer runtime is named after its major version.
install_missing "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
[ "${1:-}" = --lab ] || exit 0
install_missing "${lab_packages[@]}" ||
	echo "setup: not all of the lab's packages can be had; its tests will be skipped"
# Part of QEMU in Debian 12.
if apt-cache show virtiofsd >/dev/null 2>&1; then
	install_missing virtiofsd ||
		echo "setup: no virtiofsd; tests in a lab with Debian's kernel will be skipped"
fi
