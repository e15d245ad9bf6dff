#!/usr/bin/python3
"""Measure what dirty logging costs, on a stock and on the patched kernel.

write_protect.py [--json] [--smoke] [--locks] [--clock instructions|host]
                 [--runs N] [--mem MIB,...] [--vcpus N,...] [--kvm-param M.NAME=V]

Boots the lab with each kernel (kernel-patch/README.md), has write_protect measure
every tracker there, and prints tables with ratios: the sync of a guest that has
written all of its memory, a tenth of it and nothing, and what the guest needs to
write it all again after that. Figures are medians of N in one guest.

With --locks the kernels are those with lock statistics, and what is printed is how
long mmu_lock was held, by all its holders together: during the syncs, and while the
guest wrote, by faults and by resets of a full ring. Everything in these kernels is
slower, what holds the lock as well.

The lab is a software emulation. By default its clock counts instructions, one a
nanosecond (tests/lab/README.md): what is printed as "us" then is thousands of them,
and the same in every run. With --clock host it is the emulator's time. A ratio of
two figures from the same kind of code says something about hardware; the figures
themselves say nothing.

Environment: WRITE_PROTECT, the binary; else the release build's.
"""

import json
import statistics
import subprocess
import sys
from collections import defaultdict

import both_kernels
from both_kernels import KERNELS, KERNELS_WITH_LOCK_STATISTICS

# What is the same code on both kernels is measured on one, but for the log.
TRACKERS = {"stock": ("log", "manual", "ring"), "patched": ("log", "wp-all")}
LAB_OVERHEAD_MIB = 1536
PAGES_PER_MIB = 256
FIELDS = ("write_us", "fetch_us", "protect_us", "pages")
LOCK_FIELDS = ("write_mmu_lock_us", "write_wp_all_lock_us",
               "sync_mmu_lock_us", "sync_wp_all_lock_us")


def inside(binary, args):
    """In the lab: one guest after the other."""
    for mib in args.mem:
        for cpus in args.vcpus:
            for tracker in args.inside.split(","):
                subprocess.run([binary, tracker, str(mib), str(cpus),
                                str(args.runs)], check=True)


def measure(kernel, binary, args):
    """{(tracker, mib, vcpus, what): {"write_us": median, ...}}"""
    lines = both_kernels.run(
        kernel, ["--inside", ",".join(TRACKERS[kernel]), "--mem",
                 join(args.mem), "--vcpus", join(args.vcpus), "--runs",
                 str(args.runs)],
        options=["--mem", str(max(args.mem) + LAB_OVERHEAD_MIB),
                 "--clock", args.clock, *both_kernels.param_options(args.kvm_param)],
        environment={"WRITE_PROTECT": binary},
        kinds=KERNELS_WITH_LOCK_STATISTICS if args.locks else KERNELS)
    samples = defaultdict(list)
    for line in lines:
        s = json.loads(line)
        samples[s["tracker"], s["mib"], s["vcpus"], s["what"]].append(s)
    results = {key: {field: statistics.median(s[field] for s in group)
                     for field in FIELDS + (LOCK_FIELDS if args.locks else ())}
               for key, group in samples.items()}
    check(results)
    return results


def check(results):
    """What was measured must have been the work of a tracker that works."""
    for (tracker, mib, vcpus, what), s in results.items():
        pages = {"first": mib * PAGES_PER_MIB, "all": mib * PAGES_PER_MIB,
                 "none": 0}.get(what)
        # Shares are whole pages.
        if pages is not None and not pages - vcpus < s["pages"] <= pages:
            sys.exit(f"{tracker}, {mib} MiB, {vcpus} vCPUs, {what}: "
                     f"{s['pages']} pages in the log, not {pages}")


def join(numbers):
    return ",".join(map(str, numbers))


def sync_us(sample):
    return sample["fetch_us"] + sample["protect_us"]


def ms(us):
    return f"{us / 1000:.3f}"


def print_table(title, head, rows):
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def sync_rows(results, what):
    """Each tracker's sync, beside the stock log's."""
    for (kernel, (tracker, mib, vcpus, w)), s in results.items():
        if w != what:
            continue
        base = sync_us(results["stock", ("log", mib, vcpus, what)])
        yield (mib, vcpus, f"{tracker}, {kernel}", ms(s["fetch_us"]),
               ms(s["protect_us"]), ms(sync_us(s)),
               f"{base / max(sync_us(s), 0.001):.1f}",
               f"{base / max(s['protect_us'], 0.001):.1f}")


def write_rows(results, what):
    """The guest's own time after each tracker's protection."""
    for (kernel, (tracker, mib, vcpus, w)), s in results.items():
        if w != what:
            continue
        base = results["stock", ("log", mib, vcpus, what)]["write_us"]
        free = results[kernel, (tracker, mib, vcpus, "untracked")]["write_us"]
        yield (mib, vcpus, f"{tracker}, {kernel}", ms(free),
               ms(s["write_us"]), f"{s['write_us'] / base:.3f}")


def print_tables(results):
    head = ("MiB", "vCPUs", "tracker, kernel", "fetch ms", "protect ms",
            "sync ms", "stock log / sync", "stock log / protect")
    for what, title in (
            ("start", "Tracking begins (all memory written before)"),
            ("all", "A sync after all memory was written"),
            ("tenth", "A sync after a tenth of it was written"),
            ("none", "A sync after nothing was written")):
        print_table(title, head, sorted(sync_rows(results, what)))
    print_table("The guest writes all its memory after a protection",
                ("MiB", "vCPUs", "tracker, kernel", "untracked ms",
                 "tracked ms", "of the stock log's"),
                sorted(write_rows(results, "all")))


def lock_rows(results):
    """How long mmu_lock was held until memory was written again and protected."""
    def held_us(sample):
        return sample["write_mmu_lock_us"] + sample["sync_mmu_lock_us"]

    for (kernel, (tracker, mib, vcpus, what)), s in results.items():
        if what != "all":
            continue
        log = results["stock", ("log", mib, vcpus, what)]
        start = results[kernel, (tracker, mib, vcpus, "start")]
        yield (mib, vcpus, f"{tracker}, {kernel}",
               ms(start["sync_mmu_lock_us"]), ms(s["sync_mmu_lock_us"]),
               ms(s["write_mmu_lock_us"]), ms(s["write_wp_all_lock_us"]),
               f"{held_us(s) / held_us(log):.3f}")


def print_lock_table(results):
    print_table("mmu_lock is held (all memory written, again and again)",
                ("MiB", "vCPUs", "tracker, kernel", "when tracking begins, ms",
                 "sync, ms", "while all is written, ms",
                 "of these wp_all_lock, ms", "sync and faults, of the stock log's"),
                sorted(lock_rows(results)))


def integers(text):
    return [int(n) for n in text.split(",")]


def main():
    parser = both_kernels.parser(__doc__)
    both_kernels.add_kvm_param(parser)
    parser.add_argument("--clock", choices=("instructions", "host"),
                        default="instructions")
    parser.add_argument("--locks", action="store_true")
    parser.add_argument("--mem", type=integers,
                        default=[1024, 2048, 3072, 4096])
    parser.add_argument("--vcpus", type=integers, default=[1, 2, 4])
    parser.add_argument("--runs", type=int, default=2)
    args = parser.parse_args()
    if args.smoke:
        args.mem, args.vcpus, args.runs = [64], [2], 2
    binary = both_kernels.binary("WRITE_PROTECT", "tests/bench/write_protect")
    if args.inside:
        inside(binary, args)
        return
    results = {(kernel, key): sample for kernel in KERNELS
               for key, sample in measure(kernel, binary, args).items()}
    if args.json:
        print(json.dumps([{"kernel": kernel, "tracker": key[0], "mib": key[1],
                           "vcpus": key[2], "what": key[3], **sample}
                          for (kernel, key), sample in results.items()]))
    elif args.locks:
        print_lock_table(results)
    else:
        print_tables(results)


if __name__ == "__main__":
    main()
