#!/usr/bin/python3
"""Does the patch series cost a guest that keeps KVM's shadow paging busy?

churn.py [--json] [--smoke]

In the lab without nested paging (kvm_amd.npt=0), on a stock and on the patched
kernel, a Linux guest forks and executes over and over: each time it makes page
tables, has KVM shadow them, and throws them away. Nothing tracks dirty pages.
Prints what a loop takes, and the ratio of the two kernels' medians.

The lab's clock counts instructions (tests/lab/README.md), so that one in a
thousand shows. It is read outside the guest, whose own clock loses ticks while it
boots there.

Environment: VMMD, the binary; else the release build's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tests/lab/linux")]
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ.setdefault("GUEST_ELF",
                      str(ROOT / "build/release/tests/guest/guest.elf"))
os.environ.setdefault("VMMD_PATIENCE", "3000")

LAB = ROOT / "tests/lab/linux/run.sh"
KERNELS = {"stock": "built", "patched": "patched"}  # as run.sh calls them
RUNS = 3
LOOP = "i=0; while [ $i -lt {n} ]; do /bin/busybox true; i=$((i+1)); done"
SKIPPED = 77


def inside(loops):
    """In the lab: one line of JSON, the times of RUNS loops in seconds."""
    from linux import LinuxGuest  # pylint: disable=import-outside-toplevel
    from vmmd import Host  # pylint: disable=import-outside-toplevel
    with tempfile.TemporaryDirectory() as directory:
        host = Host(Path(directory))
        guest = LinuxGuest.boot(host, "built", mem="256M")
        times = []
        for _ in range(RUNS):
            begin = time.monotonic()
            guest.run(LOOP.format(n=loops))
            times.append(round(time.monotonic() - begin, 3))
        guest.power_off()
        print(json.dumps(times))


def measure(kernel, loops):
    lab = subprocess.run(
        [LAB, "--kernel", KERNELS[kernel], "--clock", "instructions",
         "--kvm-param", "kvm_amd.npt=0", "--timeout", "3600", "--",
         sys.executable, __file__, "--inside", str(loops)],
        stdout=subprocess.PIPE, text=True, check=False)
    if lab.returncode == SKIPPED:
        sys.exit(SKIPPED)
    if lab.returncode != 0:
        sys.exit(f"the lab with the {kernel} kernel ended with "
                 f"{lab.returncode}:\n{lab.stdout}")
    return json.loads(lab.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true",
                        help="short, to see that it works")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args.inside)
        return
    loops = 100 if args.smoke else 1000
    times = {kernel: measure(kernel, loops) for kernel in KERNELS}
    ratio = (statistics.median(times["patched"]) /
             statistics.median(times["stock"]))
    if args.json:
        print(json.dumps({"loops": loops, "seconds": times, "ratio": ratio}))
        return
    print(f"{loops} times fork and exec, seconds of the instruction clock:")
    for kernel, samples in times.items():
        print(f"  {kernel:8} {samples}")
    print(f"  patched / stock {ratio:.4f}")


if __name__ == "__main__":
    main()
