#!/usr/bin/python3
"""Measure vmmd and QEMU side by side: the same guest, moved on the same host.

versus.py [SCENARIO...] [--runs N] [--mem MIB] [--channels N] [--as FORM] [--smoke]
versus.py --from FILE [--as FORM]

Each scenario alternates between the two, N times, and shows the median of each
figure, its spread, and the ratio; beside it what a ratio is to be at most. Nothing
passes or fails by a figure. docs/performance.md explains them and holds a table.

Environment: VMMD, FELT_ELF (the test guest with a stopwatch), TCPCOPY, QEMU; else
the release build's, and qemu-system-x86_64 from PATH.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from limits import RESERVE_BYTES, ROOT, available_bytes, memcpy, tcpcopy

sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ.setdefault("VMMD", str(ROOT / "build/release/cli/vmmd"))
os.environ["GUEST_ELF"] = os.environ.get(
    "FELT_ELF", str(ROOT / "build/release/tests/bench/felt.elf"))

import qemu  # noqa: E402
import report  # noqa: E402
from contenders import Qemu, Vmmd  # noqa: E402
from vmmd import GIB, MIB, PATIENCE_S, Host  # noqa: E402

STREAMS = (1, 2, 4)
CHANNELS = (0, 1, 2, 4)  # that QEMU's best is looked for among; 0: no multifd
CALIBRATION_RUNS = 2
SKIPPED = 77


@dataclass
class Scenario:
    """What is moved and how. show: figures, and what their ratio may be at most."""

    row: int
    title: str
    work: str
    vmmd: tuple
    show: dict
    plan: object = None  # of QEMU, from its best number of channels
    filled: bool = True  # the guest has written all its memory
    times: int = 1  # of --mem
    cpus: int = 1
    limit: bool = True  # whether a plain TCP copy says something
    name: str = ""


# A vCPU at rest feels a stop only beyond its tick; see the guest's README.
FILLED = "work=fill hz=500 hb=50"
RESTING = "work=fill verify=0 hz=10 hb=1000"
DIRTYING = "work=dirty ws={ws}M verify=0 halt=0 hb=50"
READING = "work=read verify=0 halt=0 hb=50"
CAP = 100 * MIB  # bytes/s, below what a guest can dirty

PRECOPY = {"wall_ms": 0.7, "total_ms": 0.7, "setup_ms": None, "gb_per_s": None,
           "of_tcp": None, "felt_ms": 0.35, "rest_ms": None, "said_down_ms": None,
           "rounds": None, "sent_gib": None}
POSTCOPY = {"wall_ms": 0.4, "total_ms": 0.4, "setup_ms": None, "postcopy_ms": 0.4,
            "felt_ms": 0.3, "rest_ms": None, "said_down_ms": None,
            "wait_p50_us": 0.5, "wait_p99_us": 0.5, "wait_max_us": 0.3,
            "faults": None, "faults_per_s": None, "fault_p50_us": None,
            "fault_p99_us": None}
COST = {"cpu_s_per_gib": 0.6, "cpu_source_s": None, "cpu_target_s": None,
        "overhead_mib": None, "wall_ms": None}


def precopy(downtime_ms=20):
    return lambda channels: qemu.Plan(channels, downtime_ms=downtime_ms)


def postcopy(_channels):
    return qemu.Plan(postcopy="now")


def hybrid_capped(_channels):
    return qemu.Plan(postcopy="after-round", bandwidth=CAP)


SCENARIOS = {
    "idle-precopy": Scenario(
        1, "filled, idle, precopy", FILLED, ("--mode", "precopy"), PRECOPY,
        precopy()),
    "idle-precopy-300": Scenario(
        1, "the same, both told a downtime of 300 ms", FILLED,
        ("--mode", "precopy", "--downtime-limit", "300"), PRECOPY, precopy(300)),
    "untouched": Scenario(
        2, "never touched, four times the size", "work=idle mem=16M hz=500 hb=50",
        ("--mode", "precopy"),
        {"wall_ms": 0.12, "total_ms": 0.12, "setup_ms": None, "felt_ms": 0.35,
         "rest_ms": None, "said_down_ms": None, "overhead_mib": None},
        precopy(), filled=False, times=4, limit=False),
    "dirty-precopy": Scenario(
        3, "dirtying a quarter at full speed, precopy", DIRTYING,
        ("--mode", "precopy"), PRECOPY, precopy()),
    "dirty-hybrid": Scenario(
        3, "dirtying a quarter at full speed, hybrid", DIRTYING, (), PRECOPY,
        precopy()),
    "dirty-capped": Scenario(
        3, "the same, hybrid, 100 MiB/s at most", DIRTYING,
        ("--max-bandwidth", str(CAP)),
        {"wall_ms": None, "total_ms": None, "sent_gib": None, "felt_ms": 0.5,
         "rest_ms": None, "said_down_ms": None, "postcopy_ms": None,
         "faults": None, "rounds": None},
        hybrid_capped, limit=False),
    "read-postcopy": Scenario(
        4, "random reader, postcopy from the start", READING,
        ("--mode", "postcopy"), POSTCOPY, postcopy),
    "read-postcopy-2": Scenario(
        5, "two random readers, postcopy from the start", READING,
        ("--mode", "postcopy"), POSTCOPY, postcopy, cpus=2),
    "cost-precopy": Scenario(
        6, "filled, halted, precopy", RESTING, ("--mode", "precopy"), COST,
        precopy()),
    "cost-postcopy": Scenario(
        6, "filled, halted, postcopy", RESTING, ("--mode", "postcopy"), COST,
        postcopy),
    **{f"size-{times}": Scenario(
        7, f"filled, idle, precopy, {times} times the size", FILLED,
        ("--mode", "precopy"), PRECOPY, precopy(), times=times)
       for times in (2, 4, 8)},
}
for _name, _scenario in SCENARIOS.items():
    _scenario.name = _name


def say(text):
    print(text, file=sys.stderr, flush=True)


def spread(samples):
    """{key: {"median":, "min":, "max":}}; not every sample has every key."""
    values = {}
    for sample in samples:
        for key, value in sample.items():
            values.setdefault(key, []).append(value)
    return {key: {"median": statistics.median(taken), "min": min(taken),
                  "max": max(taken)} for key, taken in values.items()}


def complete(sample, size):
    """With what follows from the rest."""
    sample["gb_per_s"] = size / sample["wall_ms"] / 1e6
    sample["sent_gib"] = sample["sent_bytes"] / GIB
    if sample.get("postcopy_ms"):
        sample["faults_per_s"] = (sample["faults"] * 1000 /
                                  sample["postcopy_ms"])
    return sample


class Versus:
    """The scenarios of one run, in a directory of its own."""

    def __init__(self, host, args):
        self.runs, self.mem_mib = args.runs, args.mem
        self.vmmd = Vmmd(host, args.patience)
        self.qemu = Qemu(host, args.channels, args.patience)

    def sample(self, contender, scenario):
        size_mib = self.mem_mib * scenario.times
        sample = complete(contender.measure(scenario, size_mib), size_mib * MIB)
        say(f"{scenario.name} {contender.name}: {sample['wall_ms']:.0f} ms, felt "
            f"{sample['felt_ms']:.1f} ms, others took {sample['others']:.0%}")
        return sample

    def calibrate(self):
        """QEMU's best number of channels for memory that is all data."""
        totals = {}
        for channels in CHANNELS:
            self.qemu.channels = channels
            totals[str(channels)] = statistics.median(
                self.sample(self.qemu, SCENARIOS["idle-precopy"])["wall_ms"]
                for _ in range(CALIBRATION_RUNS))
        self.qemu.channels = int(min(totals, key=totals.get))
        return {"wall_ms": totals, "best": self.qemu.channels}

    @staticmethod
    def limits(size):
        """Once, between the samples of a scenario."""
        return {str(n): tcpcopy(size, n) for n in STREAMS} | {"memcpy": memcpy()}

    def scenario(self, scenario):
        """All samples of one, and what they come to."""
        size = self.mem_mib * scenario.times * MIB
        if scenario.filled and 2 * size + RESERVE_BYTES > available_bytes():
            return {"skipped": f"{available_bytes() / GIB:.0f} GiB of memory are "
                               "too little"}
        samples = {"vmmd": [], "qemu": []}
        limits = []
        for _ in range(self.runs):
            for contender in (self.vmmd, self.qemu):
                samples[contender.name].append(self.sample(contender, scenario))
            if scenario.limit:
                limits.append(self.limits(size))
        if limits:
            best = max(statistics.median(taken[str(n)] for taken in limits)
                       for n in STREAMS)
            for sample in samples["vmmd"] + samples["qemu"]:
                sample["of_tcp"] = sample["gb_per_s"] * 1e9 / best
        sides = {name: spread(taken) for name, taken in samples.items()}
        return {"row": scenario.row, "title": scenario.title,
                "show": scenario.show, "guest_bytes": size, "cpus": scenario.cpus,
                "limits_bytes_per_s": spread(limits) if limits else {},
                **sides, "ratio": ratios(sides)}


def ratios(sides):
    """vmmd's median to QEMU's, where there is something to compare."""
    return {key: ours["median"] / sides["qemu"][key]["median"]
            for key, ours in sides["vmmd"].items()
            if key in sides["qemu"] and sides["qemu"][key]["median"]}


def machine():
    """Where this was measured."""
    with open("/proc/cpuinfo", encoding="ascii") as cpuinfo:
        model = next((line.split(":")[1].strip() for line in cpuinfo
                      if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cpus": os.cpu_count(), "memory_gib": memory / GIB,
            "kernel": platform.release(), "qemu": qemu.version()}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO",
                        help="of " + ", ".join(SCENARIOS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mem", type=int, default=1024, metavar="MIB",
                        help="test memory of the guest (1024)")
    parser.add_argument("--channels", type=int, metavar="N",
                        help="of QEMU's multifd, 0: none (default: the best)")
    parser.add_argument("--patience", type=float, default=PATIENCE_S,
                        help=f"seconds that a move may take ({PATIENCE_S:.0f})")
    parser.add_argument("--as", dest="form", choices=report.FORMS, default="text",
                        help="text (default), markdown, or json with all figures")
    parser.add_argument("--from", dest="earlier", metavar="FILE",
                        type=argparse.FileType(encoding="utf-8"),
                        help="show what an earlier run said as json; measure nothing")
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 1 run of 16 MiB")
    args = parser.parse_args()
    if args.earlier and args.scenarios:
        parser.error("--from shows all that FILE has: name no scenarios")
    unknown = [name for name in args.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {' '.join(unknown)}")
    if args.smoke:
        args.runs, args.mem, args.channels = 1, 16, 2
        args.scenarios = args.scenarios or [
            name for name, scenario in SCENARIOS.items() if scenario.row != 7]
    return args


def measure(args):
    directory = Path(tempfile.mkdtemp(prefix="vmmd-versus-"))
    host = Host(directory)
    versus = Versus(host, args)
    try:
        channels = ({"wall_ms": {}, "best": args.channels}
                    if args.channels is not None else versus.calibrate())
        return {"machine": machine(), "runs": args.runs,
                "qemu_channels": channels,
                "scenarios": {name: versus.scenario(SCENARIOS[name])
                              for name in args.scenarios or SCENARIOS}}
    finally:
        try:
            host.close()
        finally:
            shutil.rmtree(directory)


def show_earlier(args):
    try:
        report.FORMS[args.form](json.load(args.earlier))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        say(f"versus: {args.earlier.name} is not what --as json prints: {error!r}")
        return 1
    return 0


def main():
    args = parse()
    if args.earlier:
        return show_earlier(args)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED versus: no usable /dev/kvm")
        return SKIPPED
    if not qemu.is_there():
        print(f"SKIPPED versus: no {qemu.BINARY}")
        return SKIPPED
    # Terminated, it still ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        measured = measure(args)
    except (AssertionError, OSError) as error:
        say(f"versus: {type(error).__name__}: {error}")
        return 1
    report.FORMS[args.form](measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
