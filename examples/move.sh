#!/bin/bash
# One guest, moved while it writes memory. MODE: precopy, postcopy or hybrid.
. "$(dirname "$0")/common.sh"

started=(here there)
"$vmmd" run --name here --mem 256M --cpus 2 --kernel "$guest" \
	--cmdline "work=dirty mem=128M" --serial "file:$VMMD_RUN_DIR/here.txt" --detach
sleep 2
uri=$("$vmmd" receive --name there --listen tcp://127.0.0.1:0 \
	--serial "file:$VMMD_RUN_DIR/there.txt" --detach --json | jq -r .listen)

"$vmmd" migrate here "$uri" --mode "${1:-hybrid}"
sleep 1
echo "its last line here, and its latest there:"
tail -n 2 "$VMMD_RUN_DIR/here.txt" | head -n 1
tail -n 1 "$VMMD_RUN_DIR/there.txt"
