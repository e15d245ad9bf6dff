#!/bin/bash
# Debian's own kernel with a root disk, to a shell on this terminal. Its end is the
# guest's; Ctrl-A x ends it as well.
#
#	linux.sh [KIND]		debian-6.12 (default) or debian-6.1
#
# The kernel's package is downloaded, not installed; tests/lab/linux/guest.sh makes
# the rest. Where KVM has no hardware to help it, the guest boots in the lab, an
# emulated machine that has (tests/lab): some thirty times slower, and since nobody
# can type there it shows itself and powers off.
. "$(dirname "$0")/common.sh"

kind=${1:-debian-6.12}
lab=$(realpath "$(dirname "$0")/../tests/lab")

# boot FILES WHAT
boot() {
	cp "$1/root.img" "$VMMD_RUN_DIR/root.img"
	"$vmmd" run --name linux --mem 512M --cpus 2 --rng --balloon \
		--kernel "$1/kernel" --initrd "$1/initramfs" \
		--disk "path=$VMMD_RUN_DIR/root.img" \
		--cmdline "console=ttyS0 root=/dev/vda $2"
}

if [ -n "${VMMD_LAB:-}" ]; then		# the call from below
	boot "$2" show
	exit
fi
files=$("$lab/linux/guest.sh" "$kind")
if grep -qwE 'vmx|svm' /proc/cpuinfo; then
	boot "$files" shell
else
	echo "no hardware virtualisation here: off to the lab" >&2
	# One CPU: see $lab/README.md.
	"$lab/run.sh" --cpus 1 -- env BUILD="$(realpath "$build")" \
		"$(realpath "$0")" "$kind" "$files"
fi
