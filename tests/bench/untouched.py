#!/usr/bin/python3
"""What memory costs that a guest has and never touched.

untouched.py [--runs N] [--data MIB] [--backend anon|memfd]
             [--as text|markdown|json] [--smoke]

A guest writes so much data, rests, and is moved by precopy: the same guest in as
much memory as it needs, and in ever more. In turns; medians of N runs, and the ratio
of each total time to that of the smallest. Resident: all of the process, before the
move and after it, with KVM's memory not counted.

Environment: VMMD, GUEST_ELF; else the release build's.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from limits import ROOT, Warm, median_of
from table import print_table

sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ.setdefault("GUEST_ELF",
                      str(ROOT / "build/release/tests/guest/guest.elf"))

from vmmd import MIB, Host  # noqa: E402

OTHERS_MIB = (4096, 16384, 65536)
SPARE_MIB = 60  # for the guest itself
WARM_MIB = 156  # beyond the data: bitmaps, KVM's tables
COLUMNS = (("mem_mib", "memory, MiB"), ("total_ms", "total, ms"),
           ("ratio", "ratio"), ("setup_ms", "setup, ms"),
           ("precopy_ms", "precopy, ms"), ("downtime_ms", "downtime, ms"),
           ("before_mib", "resident before, MiB"),
           ("after_mib", "resident after, MiB"))
TIMES = ("total_ms", "setup_ms", "precopy_ms", "downtime_ms")


def measure(host, mem_mib, args):
    guest = host.run(f"mem={args.data}M hb=50 work=fill", mem=f"{mem_mib}M",
                     options=("--mem-backend", args.backend)).wait_ready()
    before_mib = guest.vmm.rss_bytes() / MIB
    Warm((args.data + WARM_MIB) * MIB).release()
    stats = host.move(guest, "--mode", "precopy")
    guest.wait_beats(1)
    row = {key: stats[key] for key in TIMES}
    row.update(before_mib=before_mib, after_mib=guest.vmm.rss_bytes() / MIB)
    guest.verify()
    guest.vmm.stop(force=True)
    return row


def medians(sizes, runs):
    """runs: {size: [row]}"""
    rows = [{"mem_mib": mib, **median_of(runs[mib])} for mib in sizes]
    for row in rows:
        row["ratio"] = f"{row['total_ms'] / rows[0]['total_ms']:.2f}"
    return rows


def parse():
    parser = argparse.ArgumentParser(
        description="What memory costs that was never touched.")
    parser.add_argument("--runs", type=int, default=9, metavar="N")
    parser.add_argument("--data", type=int, default=100, metavar="MIB",
                        help="what the guest has written")
    parser.add_argument("--backend", default="anon", choices=("anon", "memfd"))
    parser.add_argument("--as", dest="form", default="text",
                        choices=("text", "markdown", "json"))
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 1 run of 16 MiB")
    return parser.parse_args()


def main():
    args = parse()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED untouched: no usable /dev/kvm")
        return 77
    if args.smoke:
        args.runs, args.data = 1, 16
    sizes = (args.data + SPARE_MIB, *OTHERS_MIB)
    runs = {mib: [] for mib in sizes}
    directory = Path(tempfile.mkdtemp(prefix="vmmd-untouched-"))
    host = Host(directory)
    try:
        for _ in range(args.runs):
            for mib in sizes:
                runs[mib].append(measure(host, mib, args))
    finally:
        host.close()
        shutil.rmtree(directory)
    rows = medians(sizes, runs)
    if args.form == "json":
        print(json.dumps({"data_mib": args.data, "rows": rows}, indent=1))
    else:
        print(f"{args.data} MiB of data ({args.backend}), medians of {args.runs}")
        print_table(COLUMNS, rows, args.form == "markdown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
