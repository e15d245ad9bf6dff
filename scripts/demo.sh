#!/bin/bash
# The demo command: build vmmd and watch a guest move.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
if [ ! -e /dev/kvm ]; then
	cat >&2 <<-'END'
	demo: there is no /dev/kvm on this machine, so no guest can run.
	  On bare metal: enable VT-x or AMD-V in the firmware, then
	    modprobe kvm_intel    (or kvm_amd)
	  In a virtual machine: have nested virtualisation enabled for it.
	END
	exit 1
fi
if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
	echo "demo: you may not use /dev/kvm; as root, or after" \
		"'usermod -aG kvm $(id -un)' and a new login" >&2
	exit 1
fi

cmake --preset release >/dev/null
cmake --build --preset release -- --quiet
exec /usr/bin/python3 scripts/demo.py
