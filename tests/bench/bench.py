#!/usr/bin/python3
"""Measure vmmd on this host, and print a table (or JSON).

bench.py [--runs N] [--mem MIB] [--json] [--smoke]

Every figure is the median of N runs. Nothing here passes or fails by a time:
the figures are for people to compare, on an otherwise idle host. Before each
run, memory as large as the run needs is touched and given back, so that no run
pays for pages that the host of this machine has to fetch first.

Environment: VMMD, GUEST_ELF, TCPCOPY; else the release build's.
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

from limits import ROOT, Warm, median_of, tcpcopy

sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ.setdefault("GUEST_ELF",
                      str(ROOT / "build/release/tests/guest/guest.elf"))

from vmmd import GUEST_ELF, MIB, Host, wait_until  # noqa: E402

MODES = ("precopy", "postcopy", "hybrid")
CHANNELS = (1, 4)


class Bench:
    def __init__(self, host, runs, mem_mib):
        self.host = host
        self.runs = runs
        self.mem_mib = mem_mib
        self.bytes = mem_mib * MIB

    def repeat(self, measure, *args):
        samples = []
        for _ in range(self.runs):
            Warm(self.bytes).release()
            samples.append(measure(*args))
        return median_of(samples)

    def guest(self, work):
        return self.host.run(f"mem={self.mem_mib}M hb=50 {work}",
                             mem=f"{self.mem_mib + 64}M").wait_ready()

    def loopback(self):
        return {str(streams): statistics.median(
            tcpcopy(self.bytes, streams) for _ in range(max(3, self.runs)))
            for streams in CHANNELS}

    def move(self, mode, channels, work):
        guest = self.guest(work)
        since = guest.forget_stalls()
        stats = self.host.move(guest, "--mode", mode, "--channels", channels)
        felt = guest.felt_ms(since)
        guest.vmm.stop(force=True)
        return {"total_ms": stats["total_ms"],
                "downtime_ms": stats["downtime_ms"], "felt_ms": felt,
                "bytes_per_s": stats["throughput_bytes_per_s"],
                "faults": stats["faults"]["count"],
                "fault_p50_us": stats["faults"]["p50_us"],
                "fault_p99_us": stats["faults"]["p99_us"]}

    def moves(self):
        cases = [(mode, channels, work) for work in ("idle", "busy")
                 for mode in MODES for channels in CHANNELS]
        # Where a vCPU rests it feels a stop only beyond its tick; see the
        # guest's README.
        work = {"idle": "work=fill hz=500",
                "busy": "work=dirty rate=5000 halt=0"}
        return [{"guest": name, "mode": mode, "channels": channels,
                 **self.repeat(self.move, mode, channels, work[name])}
                for mode, channels, name in cases]

    def snapshot(self):
        guest = self.guest("work=dirty rate=5000")
        directory, saved = self.host.snapshot(guest)
        guest.vmm.stop(force=True)
        figures = {"pause_ms": saved["pause_ms"],
                   "total_ms": saved["total_ms"],
                   "wp_faults": saved["wp_faults"]["count"],
                   "wp_fault_p50_us": saved["wp_faults"]["p50_us"],
                   "wp_fault_p99_us": saved["wp_faults"]["p99_us"]}
        for name, lazy in (("eager", False), ("lazy", True)):
            restored = self.host.restore(directory, lazy=lazy)
            vmm = restored.vmm
            arrived = vmm.wait_for(lambda status: status.get("arrived"),
                                   "all pages")["arrived"]
            figures[f"{name}_start_ms"] = arrived["start_ms"]
            figures[f"{name}_fault_p50_us"] = arrived["faults"]["p50_us"]
            figures[f"{name}_fault_p99_us"] = arrived["faults"]["p99_us"]
            restored.vmm.stop(force=True)
        shutil.rmtree(directory)
        return figures

    def boot(self):
        """Until run --detach is back, and until the guest's first word."""
        name = self.host.name("boot")
        serial = self.host.directory / f"{name}.serial"
        begin = time.monotonic()
        self.host.vmmd("run", "--name", name, "--kernel", GUEST_ELF, "--mem",
                       "64M", "--cmdline", "mem=1M", "--serial",
                       f"file:{serial}", "--detach")
        detached = time.monotonic() - begin
        wait_until(lambda: b"GUEST-START" in serial.read_bytes(), "a word")
        started = time.monotonic() - begin
        self.host.vmmd("stop", name, "--force")
        return {"detached_ms": detached * 1000, "started_ms": started * 1000}

    def overhead(self, mem):
        """What the process holds beyond its guest's memory."""
        guest = self.host.run("mem=1M hb=50 work=idle", mem=mem).wait_ready()
        rss = guest.vmm.rss_bytes()
        resident = guest.vmm.status()["resident_bytes"]
        guest.vmm.stop(force=True)
        return {"rss_bytes": rss, "guest_bytes": resident,
                "overhead_bytes": rss - resident}

    def all(self):
        return {
            "runs": self.runs,
            "guest_mib": self.mem_mib,
            "loopback_bytes_per_s": self.loopback(),
            "moves": self.moves(),
            "snapshot": self.repeat(self.snapshot),
            "boot": median_of([self.boot() for _ in range(self.runs)]),
            "overhead": {mem: median_of([self.overhead(mem)
                                         for _ in range(self.runs)])
                         for mem in ("64M", "64G")},
        }


def print_moves(figures):
    copy = figures["loopback_bytes_per_s"]
    print(f"{'guest':6}{'mode':10}{'channels':>9}{'total':>10}{'downtime':>10}"
          f"{'felt':>9}{'MB/s':>7}{'of TCP':>8}{'faults':>8}{'p50':>8}{'p99':>8}")
    for row in figures["moves"]:
        share = row["bytes_per_s"] / copy[str(row["channels"])]
        print(f"{row['guest']:6}{row['mode']:10}{row['channels']:9}"
              f"{row['total_ms']:7.0f} ms{row['downtime_ms']:7.1f} ms"
              f"{row['felt_ms']:6.1f} ms{row['bytes_per_s'] / 1e6:7.0f}"
              f"{share:8.0%}{row['faults']:8.0f}{row['fault_p50_us']:5.0f} us"
              f"{row['fault_p99_us']:5.0f} us")


def print_table(figures):
    copy = figures["loopback_bytes_per_s"]
    print(f"{figures['guest_mib']} MiB of data in the guest, medians of "
          f"{figures['runs']}")
    for streams, rate in copy.items():
        print(f"plain loopback TCP copy, {streams} stream(s): "
              f"{rate / 1e6:.0f} MB/s")
    print_moves(figures)
    for title, part in (("snapshot", figures["snapshot"]),
                        ("boot", figures["boot"])):
        print(title)
        for key, value in part.items():
            print(f"  {key:22}{value:10.1f}")
    print("VMM memory")
    for mem, part in figures["overhead"].items():
        print(f"  {mem} configured: {part['rss_bytes'] / MIB:.1f} MiB resident,"
              f" {part['overhead_bytes'] / MIB:.1f} MiB beyond the guest's")


def parse():
    parser = argparse.ArgumentParser(description="Measure vmmd on this host.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mem", type=int, default=256, metavar="MIB",
                        help="data in the guest")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 1 run of 8 MiB")
    return parser.parse_args()


def main():
    args = parse()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED bench: no usable /dev/kvm")
        return 77
    if args.smoke:
        args.runs, args.mem = 1, 8
    directory = Path(tempfile.mkdtemp(prefix="vmmd-bench-"))
    try:
        host = Host(directory)
        try:
            figures = Bench(host, args.runs, args.mem).all()
        finally:
            host.close()
    finally:
        shutil.rmtree(directory)
    if args.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
    else:
        print_table(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
