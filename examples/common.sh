# Sourced by the examples: where the build is, and a run directory of their own.
set -euo pipefail

build=${BUILD:-$(dirname "$0")/../build/release}
vmmd=$build/cli/vmmd
guest=$build/tests/guest/guest.elf

if [ ! -x "$vmmd" ]; then
	echo "no $vmmd: run cmake --preset release && cmake --build --preset release" >&2
	exit 1
fi

VMMD_RUN_DIR=$(mktemp -d)
export VMMD_RUN_DIR
started=()

cleanup() {
	local name

	for name in "${started[@]}"; do
		"$vmmd" stop --force "$name" >/dev/null 2>&1 || true
	done
	rm -rf "$VMMD_RUN_DIR"
}
trap cleanup EXIT
