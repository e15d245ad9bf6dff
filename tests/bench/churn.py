#!/usr/bin/python3
"""Does the patch series cost a guest that keeps KVM's shadow paging busy?

churn.py [--json] [--smoke] [--pairs N]

In the lab without nested paging (kvm_amd.npt=0), on a stock and on the patched
kernel, a Linux guest forks and executes over and over: each time it makes page
tables, has KVM shadow them, and throws them away. Nothing tracks dirty pages.
Prints what each loop takes, and for each pair of boots the ratio of the medians.

The lab's clock counts instructions (tests/lab/README.md), so that a few in a
thousand show. What is counted is the CPU time of the guest's vmmd, and with it what
KVM does for the guest; the lab has one CPU, since with more, one's time goes by while
the others execute.

Environment: VMMD, the binary; else the release build's.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import both_kernels
from both_kernels import KERNELS, ROOT

sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tests/lab/linux")]
# vmmd.py reads it when it is imported. By the lab's clock; who gives up on a lab
# that hangs is run.sh.
os.environ["VMMD_PATIENCE"] = "3000"

from linux import LinuxGuest  # noqa: E402  pylint: disable=C0413
from vmmd import Host  # noqa: E402  pylint: disable=C0413

LOOPS_EACH = 5
LOOP = "i=0; while [ $i -lt {n} ]; do /bin/busybox true; i=$((i+1)); done"


def cpu_time_s(pid):
    """Of a process with all its threads, guest and all: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def inside(forks):
    """In the lab: one line of JSON, the CPU time of each loop in seconds."""
    with tempfile.TemporaryDirectory() as directory:
        # At random addresses init would have a page table more in some boots
        # than in others, and each fork as well.
        guest = LinuxGuest.boot(Host(Path(directory)), "built", mem="256M",
                                cmdline="norandmaps")
        times = []
        for _ in range(LOOPS_EACH):
            begin = cpu_time_s(guest.vmm.pid)
            guest.run(LOOP.format(n=forks))
            times.append(round(cpu_time_s(guest.vmm.pid) - begin, 4))
        guest.power_off()
        print(json.dumps(times))


def measure(kernel, forks, vmmd):
    lines = both_kernels.run(
        kernel, ["--inside", str(forks)], lab=both_kernels.LAB_WITH_LINUX,
        options=["--clock", "instructions", "--cpus", "1", "--kvm-param",
                 "kvm_amd.npt=0"],
        environment={"VMMD": vmmd})
    return json.loads(lines[-1])


def measure_pair(forks, vmmd):
    """One boot of each kernel: {kernel: seconds, "ratio": patched to stock}"""
    pair = {kernel: measure(kernel, forks, vmmd) for kernel in KERNELS}
    pair["ratio"] = (statistics.median(pair["patched"]) /
                     statistics.median(pair["stock"]))
    return pair


def main():
    parser = both_kernels.parser(__doc__)
    parser.add_argument("--pairs", type=int, default=2)
    args = parser.parse_args()
    if args.inside:
        inside(int(args.inside))
        return
    forks, nr_pairs = (200, 1) if args.smoke else (200, args.pairs)
    vmmd = both_kernels.binary("VMMD", "cli/vmmd")
    pairs = [measure_pair(forks, vmmd) for _ in range(nr_pairs)]
    if args.json:
        print(json.dumps({"forks": forks, "pairs": pairs}))
        return
    print(f"{forks} times fork and exec, CPU seconds by the instruction clock:")
    for pair in pairs:
        for kernel in KERNELS:
            print(f"  {kernel:8} {pair[kernel]}")
        print(f"  patched / stock {pair['ratio']:.4f}")


if __name__ == "__main__":
    main()
