#!/bin/bash
# A guest on this terminal. Ctrl-A x ends it.
. "$(dirname "$0")/common.sh"

"$vmmd" run --name boot --mem 128M --cpus 2 --kernel "$guest" \
	--cmdline "${1:-work=idle hb=1000}"
