#!/usr/bin/python3
"""Move a guest that writes a tenth of its memory as fast as it can: which tracker?

greedy.py [--json] [--smoke] [--mem MIB] [--runs N] [--limit MS]
          [--kvm-param M.NAME=V]

In the lab, on a stock and on the patched kernel, with each tracker, by precopy, in
two cases, those of cases 2.1 and 2.2 of "KVM: MMU: fast write protect" (2017):

    fresh    of its memory the guest has touched only what it writes
    written  it has written all of it once before

Prints, as medians of N moves, how many pages the guest wrote a second before and
while it moved (from the command to its last heartbeat at the source), how long all
of it took, and what of that the tracker took: to start, and for all syncs. What
"manual" takes to protect pages again as they are sent, and "ring" to empty a ring
that is full, is in neither, but in the time and in what the guest could write.

The lab's clock counts instructions (tests/lab/README.md). It has one CPU, which the
guest, both processes and KVM share: whatever a tracker takes, they lose.

Environment: VMMD, GUEST_ELF; else the release build's.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import both_kernels
from both_kernels import KERNELS, ROOT
from table import print_table

sys.path.insert(0, str(ROOT / "tests/integration"))
# vmmd.py reads it when it is imported. By the lab's clock; who gives up on a lab
# that hangs is run.sh.
os.environ["VMMD_PATIENCE"] = "3000"

from guestlog import Stream  # noqa: E402  pylint: disable=C0413
from vmmd import Host  # noqa: E402  pylint: disable=C0413

CASES = ("fresh", "written")
TRACKERS = {"stock": ("log", "manual", "ring"), "patched": ("log", "wp-all")}
OPTIONS = {"ring": ("--dirty-ring", "65536")}
GREEDY_PART = 10
MEM_MIB_MIN = 160  # the guest writes 16 MiB or more
UNMOVED_S = 1
BEATS_MIN = 3
LAB_OVERHEAD_MIB = 1024
COLUMNS = (("case", "case"), ("tracker", "tracker, kernel"),
           ("unmoved", "thousand pages a second, unmoved"),
           ("moving", "while it moves"), ("relative", "of the stock log's, %"),
           ("total_ms", "all moved, ms"), ("start_ms", "start, ms"),
           ("syncs_ms", "syncs, ms"), ("syncs", "of them"),
           ("downtime_ms", "downtime, ms"))


def thousand_pages_per_s(beats):
    """What the guest wrote from the first of these heartbeats to the last."""
    if len(beats) < BEATS_MIN:
        sys.exit(f"greedy.py: {len(beats)} heartbeats say nothing: take more --mem")
    us = beats[-1]["up_us"] - beats[0]["up_us"]
    return 1e3 * (beats[-1]["writes"] - beats[0]["writes"]) / us


def start_guest(host, args, case, tracker):
    greedy_mib = args.mem // GREEDY_PART
    touched_mib = {"fresh": greedy_mib, "written": args.mem}[case]
    guest = host.run(f"mem={touched_mib}M ws={greedy_mib}M work=dirty light=1 "
                     "verify=0 hb=20", mem=f"{args.mem + 64}M",
                     options=OPTIONS.get(tracker, ()))
    return guest.wait_ready()


def move(host, args, case, tracker):
    """One move. The guest's heartbeats at its source tell how it fared."""
    guest = start_guest(host, args, case, tracker)
    source, destination = guest.vmm, host.receive()
    begin = guest.last_seq()
    time.sleep(UNMOVED_S)  # whoever looked meanwhile would take the guest's CPU
    moved_at = guest.last_seq()
    stats = host.migrate(guest, destination, "--mode", "precopy", "--tracker",
                         tracker, "--downtime-limit", args.limit)
    guest.wait_beats(1)
    guest.vmm.stop(force=True)
    beats = Stream(source.serial).beats()
    return {"case": case, "tracker": tracker,
            "unmoved": thousand_pages_per_s(beats[begin:moved_at]),
            "moving": thousand_pages_per_s(beats[moved_at:]),
            "total_ms": stats["total_ms"],
            "start_ms": stats["syncs"]["start_ms"],
            "syncs_ms": stats["syncs"]["sum_ms"],
            "syncs": stats["syncs"]["count"],
            "downtime_ms": stats["downtime_ms"]}


def inside(args):
    """In the lab: one line of JSON for each move."""
    with tempfile.TemporaryDirectory() as directory:
        host = Host(Path(directory))
        try:
            for case in CASES:
                for tracker in args.inside.split(","):
                    for _ in range(args.runs):
                        print(json.dumps(move(host, args, case, tracker)),
                              flush=True)
        finally:
            host.close()


def measure(kernel, binaries, args):
    """Medians, a row for each case and tracker."""
    lines = both_kernels.run(
        kernel, ["--inside", ",".join(TRACKERS[kernel]), "--mem",
                 str(args.mem), "--runs", str(args.runs), "--limit",
                 str(args.limit)],
        options=["--cpus", "1", "--mem", str(2 * args.mem + LAB_OVERHEAD_MIB),
                 "--clock", "instructions",
                 *both_kernels.param_options(args.kvm_param)],
        environment=binaries)
    samples = defaultdict(list)
    for line in lines:
        sample = json.loads(line)
        samples[sample.pop("case"), sample.pop("tracker")].append(sample)
    return [{"case": case, "tracker": f"{tracker}, {kernel}",
             **{key: statistics.median(sample[key] for sample in group)
                for key in group[0]}}
            for (case, tracker), group in samples.items()]


def add_relative(rows):
    """Beside each rate of a guest that moves, that under the stock log."""
    log = {row["case"]: row["moving"] for row in rows
           if row["tracker"] == "log, stock"}
    for row in rows:
        row["relative"] = 100 * row["moving"] / log[row["case"]]


def main():
    parser = both_kernels.parser(__doc__)
    both_kernels.add_kvm_param(parser)
    parser.add_argument("--mem", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=300,
                        help="the downtime limit; QEMU's default by default")
    args = parser.parse_args()
    if args.smoke:
        args.mem, args.runs = MEM_MIB_MIN, 1
    if args.mem < MEM_MIB_MIN:
        parser.error(f"--mem: at least {MEM_MIB_MIN}")
    if args.inside:
        inside(args)
        return
    binaries = {"VMMD": both_kernels.binary("VMMD", "cli/vmmd"),
                "GUEST_ELF": both_kernels.binary("GUEST_ELF",
                                                 "tests/guest/guest.elf")}
    rows = [row for kernel in KERNELS
            for row in measure(kernel, binaries, args)]
    add_relative(rows)
    rows.sort(key=lambda row: (row["case"], row["tracker"]))
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(COLUMNS, rows, markdown=True)


if __name__ == "__main__":
    main()
