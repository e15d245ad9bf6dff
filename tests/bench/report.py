"""What versus.py has measured, for people and for programs.

A report: machine, runs, qemu_channels, and of each scenario the spread of every
figure on both sides, their ratio, and in "show" which of them to show, with what a
ratio is meant to be at most.
"""

import json
import sys

GIB = 1 << 30

# key: (what it is, unit, digits)
FIGURES = {
    "wall_ms": ("until it runs there, all moved", "ms", 0),
    "total_ms": ("  as the monitor says", "ms", 0),
    "setup_ms": ("  of it setting up", "ms", 0),
    "gb_per_s": ("memory moved", "GB/s", 2),
    "of_tcp": ("  part of the best plain TCP copy", "", 2),
    "felt_ms": ("longest stall the guest felt", "ms", 1),
    "rest_ms": ("  longest before it was moved", "ms", 1),
    "said_down_ms": ("  downtime as the monitor says", "ms", 1),
    "wait_p50_us": ("wait for a missing page, median", "us", 0),
    "wait_p99_us": ("  99%", "us", 0),
    "wait_max_us": ("  longest", "us", 0),
    "postcopy_ms": ("until all pages were there", "ms", 0),
    "faults": ("pages asked for", "", 0),
    "faults_per_s": ("  in a second of postcopy", "/s", 0),
    "fault_p50_us": ("  median, as the monitor says", "us", 0),
    "fault_p99_us": ("  99%, as the monitor says", "us", 0),
    "rounds": ("rounds", "", 0),
    "sent_gib": ("sent", "GiB", 2),
    "cpu_s_per_gib": ("CPU time of both ends per GiB", "s", 3),
    "cpu_source_s": ("  of it the source, to its end", "s", 3),
    "cpu_target_s": ("  of it the destination", "s", 3),
    "overhead_mib": ("resident beside the guest's RAM", "MiB", 1),
    "others": ("CPUs taken by other processes", "", 2),
    "stolen_ms": ("  CPU time that the host withheld", "ms", 0),
}

HOST = ("others", "stolen_ms")  # what disturbed the measurement: always shown


def shown(result):
    """(label, unit, digits, vmmd's spread, QEMU's, ratio, at most) of each figure."""
    for key, goal in (result["show"] | dict.fromkeys(HOST)).items():
        ours, theirs = (result[side].get(key) for side in ("vmmd", "qemu"))
        if ours or theirs:
            yield *FIGURES[key], ours, theirs, result["ratio"].get(key), goal


def limits_of(result):
    """What plain copies reached in between."""
    return ", ".join(f"{key if key == 'memcpy' else 'TCP x' + key} "
                     f"{rate['median'] / 1e9:.2f}" for key, rate in
                     result["limits_bytes_per_s"].items())


def text_side(figure, digits):
    if not figure:
        return f"{'-':>25}"
    span = f"[{figure['min']:.{digits}f}..{figure['max']:.{digits}f}]"
    return f"{figure['median']:9.{digits}f} {span:15}"


def text_scenario(name, result):
    if "skipped" in result:
        print(f"\nSKIPPED {name}: {result['skipped']}")
        return
    print(f"\n{name} (row {result['row']}): {result['title']}, "
          f"{result['guest_bytes'] / GIB:g} GiB, {result['cpus']} vCPU")
    limits = limits_of(result)
    if limits:
        print("  in between, GB/s: " + limits)
    print(f"  {'':34}{'vmmd':>9}{'':16}{'qemu':>9}{'':16}{'ratio':>6}  at most")
    for label, unit, digits, ours, theirs, ratio, goal in shown(result):
        print(f"  {label:34}{text_side(ours, digits)}{text_side(theirs, digits)}"
              f"{'' if ratio is None else f'{ratio:6.2f}':6}"
              f"  {'' if goal is None else goal:<5} {unit}".rstrip())


def text(report):
    for key, value in report["machine"].items():
        print(f"{key:12} {value}")
    tried = ", ".join(f"{'no multifd' if n == '0' else n}: {ms:.0f} ms"
                      for n, ms in report["qemu_channels"]["wall_ms"].items())
    print(f"channels     QEMU's best {report['qemu_channels']['best']} ({tried}); "
          "vmmd's default")
    print(f"runs         {report['runs']} each, alternating: median [least..most]")
    for name, result in report["scenarios"].items():
        text_scenario(name, result)


def markdown_side(figure, digits):
    if not figure:
        return ""
    return (f"{figure['median']:.{digits}f} ({figure['min']:.{digits}f}–"
            f"{figure['max']:.{digits}f})")


def markdown_scenario(name, result):
    if "skipped" in result:
        print(f"\n**{name}**: skipped, {result['skipped']}")
        return
    vcpus = f"{result['cpus']} vCPU{'s' if result['cpus'] > 1 else ''}"
    limits = limits_of(result)
    print(f"\n**{name}**: {result['title']}; {result['guest_bytes'] / GIB:g} GiB, "
          f"{vcpus}." + (f" In between, GB/s: {limits}." if limits else ""))
    print("\n| | vmmd | QEMU | ratio | at most |\n|---|---|---|---|---|")
    for label, unit, digits, ours, theirs, ratio, goal in shown(result):
        print(f"| {label.strip()}{', ' + unit if unit else ''} "
              f"| {markdown_side(ours, digits)} | {markdown_side(theirs, digits)} "
              f"| {'' if ratio is None else f'{ratio:.2f}'} "
              f"| {'' if goal is None else goal} |")


def markdown(report):
    """The tables of docs/performance.md."""
    print("| | |\n|---|---|")
    for key, value in report["machine"].items():
        print(f"| {key} | {value} |")
    print(f"| QEMU's multifd channels | {report['qemu_channels']['best']} |")
    print(f"| runs | {report['runs']} each, in turns |")
    for name, result in report["scenarios"].items():
        markdown_scenario(name, result)


def as_json(report):
    json.dump(report, sys.stdout, indent=2)
    print()


FORMS = {"text": text, "markdown": markdown, "json": as_json}
