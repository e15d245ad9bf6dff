#!/usr/bin/python3
"""How many instructions vmmd itself spends on a page that is moved, and on what.

instructions.py [--mem MIB] [--as text|markdown|json] [--smoke]

Moves a guest, which has filled its memory with data that cannot be compressed and
rests, from and to processes that run under valgrind's callgrind, and divides what
was counted by the pages that were sent. User mode alone: what the kernel spends on
copies, on page tables and on TCP is in docs/performance.md, by perf.

Environment: VMMD, GUEST_ELF; else the release build's.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from limits import ROOT
from table import print_table

sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ.setdefault("GUEST_ELF",
                      str(ROOT / "build/release/tests/guest/guest.elf"))

from vmmd import Host  # noqa: E402

MODES = ("precopy", "postcopy")
SIDES = ("source", "destination")
# The first that matches "file:function [object]".
STAGES = (
    ("checksums", r"xxhash|proto_page_sum"),
    ("finding zeros", r"/pagesum\.c:"),
    ("scanning bitmaps", r"/bitmap\.[ch]:"),
    ("batch headers", r"\bproto/"),
    ("receiving", r"\bmigrate/dest|:mig_net_read"),
    ("sending", r"\bmigrate/(source|net|rate|crew|flight|link|session)"),
    ("placing", r"\bmigrate/(fill|waits)|\buffd/"),
    ("copying, clearing", r"mem(cpy|move|set)"),
    ("system calls", r"/sysdeps/unix/"),
    ("all else", r""),  # the guest's serial port, start and end of the process
)
MOVING = ("checksums", "scanning bitmaps", "batch headers")  # wherever pages pass
LINE = re.compile(r" *([0-9,]+) \( *[0-9.]+%\)  (.*)")
TOTAL = re.compile(r"([0-9,]+) \(.*\)  PROGRAM TOTALS")
COLUMNS = (("stage", "instructions per page"),
           *((f"{mode}-{side}", f"{mode}, {side}")
             for mode in MODES for side in SIDES))


def to_int(number):
    return int(number.replace(",", ""))


class CountingHost(Host):
    """Owners of a guest run under callgrind; counts() is of one that has ended."""

    def command(self, args):
        command = super().command(args)
        if args[0] not in ("run", "receive"):
            return command
        return ["valgrind", "-q", "--tool=callgrind",
                f"--callgrind-out-file={self.directory}/callgrind.%p", *command]

    def counts(self, pid):
        """{stage: instructions}"""
        text = subprocess.run(
            ["callgrind_annotate", "--auto=no", "--threshold=100",
             self.directory / f"callgrind.{pid}"],
            check=True, text=True, stdout=subprocess.PIPE,
            cwd="/").stdout  # names below the working directory lose its name
        functions = text.partition("file:function\n")[2]
        counts = dict.fromkeys((stage for stage, _ in STAGES), 0)
        for number, name in LINE.findall(functions):
            stage = next(stage for stage, pattern in STAGES
                         if re.search(pattern, name))
            counts[stage] += to_int(number)
        total = to_int(TOTAL.search(text)[1])
        # Callgrind's own total may be off by one or two.
        assert abs(sum(counts.values()) - total) < 10, (counts, total)
        assert all(counts[stage] > 0 for stage in MOVING), counts
        return counts


def measure(host, mode, mem_mib):
    """{"source": {stage: instructions per page}, "destination": ...}"""
    guest = host.run(f"mem={mem_mib}M work=fill hb=200",
                     mem=f"{mem_mib + 32}M").wait_ready()
    pids = {"source": guest.vmm.pid}
    stats = host.move(guest, "--mode", mode)
    guest.verify()
    pids["destination"] = guest.vmm.pid
    guest.vmm.stop(force=True)
    return {side: {stage: count / stats["pages_sent"]
                   for stage, count in host.counts(pid).items()}
            for side, pid in pids.items()}


def table(figures):
    return [{"stage": stage,
             **{f"{mode}-{side}": figures[mode][side][stage]
                for mode in MODES for side in SIDES}}
            for stage, _ in STAGES]


def parse():
    parser = argparse.ArgumentParser(
        description="Instructions that vmmd spends on a page that is moved.")
    parser.add_argument("--mem", type=int, default=256, metavar="MIB",
                        help="data in the guest")
    parser.add_argument("--as", dest="form", default="text",
                        choices=("text", "markdown", "json"))
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 16 MiB")
    return parser.parse_args()


def main():
    args = parse()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED instructions: no usable /dev/kvm")
        return 77
    if not shutil.which("callgrind_annotate"):
        print("SKIPPED instructions: Debian's valgrind is not installed")
        return 77
    if args.smoke:
        args.mem = 16
    directory = Path(tempfile.mkdtemp(prefix="vmmd-instructions-"))
    host = CountingHost(directory)
    try:
        figures = {mode: measure(host, mode, args.mem) for mode in MODES}
    finally:
        host.close()
        shutil.rmtree(directory)
    if args.form == "json":
        print(json.dumps({"guest_mib": args.mem, **figures}, indent=1))
    else:
        print_table(COLUMNS, table(figures), args.form == "markdown")
    return 0


if __name__ == "__main__":
    sys.exit(main())
