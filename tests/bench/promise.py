#!/usr/bin/python3
"""How often a move keeps its downtime limit, on this host.

promise.py [--moves N] [--mem MIB] [--limit MS] [--as text|markdown|json] [--smoke]

Guests that write nothing, some, and all they can are each moved N times, there
and back and there, in every mode that ends for them. The downtime is what vmmd
reports, from the stop to the word that the guest runs; the stall is what the
guest's own loop missed by the TSC, the host's scheduling included. "host withheld": moves
during which the host of this (virtual) machine did not run a CPU of it.

Environment: VMMD, GUEST_ELF; else the release build's.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from limits import ROOT, Warm
from table import print_table

sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ.setdefault("GUEST_ELF",
                      str(ROOT / "build/release/tests/guest/guest.elf"))

from contenders import host_times_s  # noqa: E402  (the environment)
from vmmd import MIB, Host  # noqa: E402

# Precopy ends for who writes slower than pages are sent; hybrid for all.
CASES = [("precopy", "idle", "work=fill halt=0"),
         ("precopy", "some", "work=dirty rate=5000 halt=0"),
         ("hybrid", "idle", "work=fill halt=0"),
         ("hybrid", "some", "work=dirty rate=5000 halt=0"),
         ("hybrid", "greedy", "work=dirty halt=0"),
         ("postcopy", "greedy", "work=dirty halt=0")]

COLUMNS = (("mode", "mode"), ("guest", "guest writes"), ("moves", "moves"),
           ("kept", "downtime within the limit"), ("median_ms", "median, ms"),
           ("p99_ms", "99%, ms"), ("max_ms", "longest, ms"),
           ("felt_kept", "stall felt within it"),
           ("felt_median_ms", "stall felt, median, ms"),
           ("felt_max_ms", "longest, ms"), ("withheld", "host withheld"))


def p99(values):
    return sorted(values)[-1 - len(values) // 100]


def row(mode, name, limit_ms, samples):
    downs, felts, stolen = zip(*samples)
    return {"mode": mode, "guest": name, "moves": len(samples),
            "kept": sum(down <= limit_ms for down in downs),
            "median_ms": statistics.median(downs), "p99_ms": p99(downs),
            "max_ms": max(downs),
            "felt_kept": sum(felt <= limit_ms for felt in felts),
            "felt_median_ms": statistics.median(felts),
            "felt_max_ms": max(felts), "withheld": sum(s > 0 for s in stolen)}


def one_move(host, guest, mode, mem_mib, limit_ms):
    """(downtime_ms, felt_ms, seconds that the host withheld)"""
    Warm(mem_mib * MIB).release()
    since = guest.forget_stalls()
    stolen = host_times_s()[1]
    stats = host.move(guest, "--mode", mode, "--downtime-limit", limit_ms)
    stolen = host_times_s()[1] - stolen
    return stats["downtime_ms"], guest.felt_ms(since), stolen


def measure(host, args):
    rows = []
    for mode, name, work in CASES:
        guest = host.run(f"mem={args.mem}M hb=50 {work}",
                         mem=f"{args.mem + 64}M").wait_ready()
        samples = [one_move(host, guest, mode, args.mem, args.limit)
                   for _ in range(args.moves)]
        guest.verify()
        guest.vmm.stop(force=True)
        rows.append(row(mode, name, args.limit, samples))
        print(rows[-1], file=sys.stderr)
    return rows


def parse():
    parser = argparse.ArgumentParser(
        description="How often a move keeps its downtime limit.")
    parser.add_argument("--moves", type=int, default=100, metavar="N")
    parser.add_argument("--mem", type=int, default=256, metavar="MIB",
                        help="data in the guest")
    parser.add_argument("--limit", type=int, default=20, metavar="MS")
    parser.add_argument("--as", dest="form", default="text",
                        choices=("text", "markdown", "json"))
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 1 move of 16 MiB")
    return parser.parse_args()


def main():
    args = parse()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED promise: no usable /dev/kvm")
        return 77
    if args.smoke:
        args.moves, args.mem = 1, 16
    directory = Path(tempfile.mkdtemp(prefix="vmmd-promise-"))
    host = Host(directory)
    try:
        rows = measure(host, args)
    finally:
        host.close()
        shutil.rmtree(directory)
    if args.form == "json":
        print(json.dumps({"limit_ms": args.limit, "guest_mib": args.mem,
                          "rows": rows}, indent=1))
    else:
        print(f"limit {args.limit} ms, {args.mem} MiB of data")
        print_table(COLUMNS, rows, args.form == "markdown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
