#!/usr/bin/python3
"""How fast a guest is while its pages become huge, on huge pages, and while it moves.

huge.py [--runs N] [--mem MIB] [--as text|markdown|json] [--smoke]

A guest that reads at random (and writes one page in 64) is launched, and vmmd makes
huge what it has filled; it is moved by precopy, whose receiver takes huge pages for
what comes whole, and then by postcopy, which brings small ones as well: they become
huge afterwards. Its speed is what it says itself between two heartbeats, in pages
read per second; huge: of the process's memory, from /proc/PID/smaps_rollup. Medians
of N runs.

Environment: VMMD, GUEST_ELF; else the release build's.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from limits import ROOT, Warm
from settle import huge_mib, wait_settled
from table import print_table

sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ.setdefault("GUEST_ELF",
                      str(ROOT / "build/release/tests/guest/guest.elf"))

from vmmd import MIB, Host  # noqa: E402

WATCH_S = 2
COLUMNS = (("phase", "phase"), ("ms", "lasted, ms"), ("huge_mib", "huge, MiB"),
           ("pages_per_s", "pages read per second"),
           ("stall_ms", "longest stall, ms"))


class Phase:
    """From now until end(): by the guest's own heartbeats."""

    def __init__(self, guest, name):
        self.guest, self.name = guest, name
        guest.wait_beats(1)
        self.first = guest.last_seq()

    def end(self):
        self.guest.wait_beats(1)
        beats = [beat for beat in self.guest.check()
                 if beat["seq"] >= self.first]
        ms = beats[-1]["t_ms"] - beats[0]["t_ms"]
        read = beats[-1]["verified"] - beats[0]["verified"]
        return {"phase": self.name, "ms": ms,
                "huge_mib": huge_mib(self.guest.vmm.pid),
                "pages_per_s": 1000 * read / ms,
                "stall_ms": max(beat["max_stall_all_us"]
                                for beat in beats[1:]) / 1000}


def watch(guest, name):
    phase = Phase(guest, name)
    time.sleep(WATCH_S)
    return phase.end()


def watch_settling(guest, name, mem_mib):
    phase = Phase(guest, name)
    wait_settled(guest.vmm.pid, mem_mib)
    return phase.end()


def measure(host, mem_mib):
    guest = host.run(f"mem={mem_mib}M hb=50 work=read",
                     mem=f"{mem_mib + 64}M").wait_ready()
    Warm(mem_mib * MIB).release()
    rows = [watch_settling(guest, "launched, while pages become huge", mem_mib),
            watch(guest, "on huge pages")]
    Warm(mem_mib * MIB).release()
    host.move(guest, "--mode", "precopy")
    rows.append(watch(guest, "after a precopy"))
    Warm(mem_mib * MIB).release()
    phase = Phase(guest, "during a postcopy")
    host.move(guest, "--mode", "postcopy")
    rows.append(phase.end())
    Warm(mem_mib * MIB).release()
    rows.append(watch_settling(guest, "while pages become huge", mem_mib))
    rows.append(watch(guest, "after that"))
    guest.verify()
    guest.vmm.stop(force=True)
    return rows


def medians(runs):
    return [{key: row[key] if key == "phase" else
             statistics.median(run[i][key] for run in runs) for key in row}
            for i, row in enumerate(runs[0])]


def parse():
    parser = argparse.ArgumentParser(
        description="A guest's speed on small pages, moving, on huge ones.")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--mem", type=int, default=1024, metavar="MIB",
                        help="data in the guest")
    parser.add_argument("--as", dest="form", default="text",
                        choices=("text", "markdown", "json"))
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 1 run of 64 MiB")
    return parser.parse_args()


def main():
    args = parse()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED huge: no usable /dev/kvm")
        return 77
    if args.smoke:
        args.runs, args.mem = 1, 64
    directory = Path(tempfile.mkdtemp(prefix="vmmd-huge-"))
    host = Host(directory)
    try:
        rows = medians([measure(host, args.mem) for _ in range(args.runs)])
    finally:
        host.close()
        shutil.rmtree(directory)
    if args.form == "json":
        print(json.dumps({"guest_mib": args.mem, "rows": rows}, indent=1))
    else:
        print(f"{args.mem} MiB of data, medians of {args.runs}")
        print_table(COLUMNS, rows, args.form == "markdown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
