#!/bin/bash
# A running guest saved to a directory, and a second one started from it.
. "$(dirname "$0")/common.sh"

started=(original copy)
"$vmmd" run --name original --mem 256M --kernel "$guest" \
	--cmdline "work=dirty mem=64M" --serial null --detach
sleep 1
"$vmmd" snapshot original "$VMMD_RUN_DIR/saved"
du -sh "$VMMD_RUN_DIR/saved"
"$vmmd" restore "$VMMD_RUN_DIR/saved" --name copy --lazy --serial null --detach
"$vmmd" list
