#!/bin/bash
# Run a command in the lab that boots Linux guests: what guest.sh makes is made
# before, outside, where there is a network and time runs at full speed.
#
#	tests/lab/linux/run.sh [OPTION of ../run.sh...] [--] COMMAND [ARG...]
#
# The lab has one CPU unless it is told otherwise: ../README.md says what becomes of
# Linux guests with more. COMMAND finds the guests by $VMMD_LINUX_GUESTS:
# KIND=DIRECTORY, one a line. A kind that cannot be had is missing there; guest.sh
# has said why.
set -uo pipefail

here=$(dirname "$(realpath "$0")")
VMMD_LINUX_GUESTS=
for kind in debian-6.1 debian-6.12 built built-elf; do
	directory=$("$here/guest.sh" "$kind")
	case $? in
	0) VMMD_LINUX_GUESTS+="$kind=$directory"$'\n' ;;
	77) ;;
	*) exit 1 ;;
	esac
done
export VMMD_LINUX_GUESTS
exec "$here/../run.sh" --cpus 1 "$@"
