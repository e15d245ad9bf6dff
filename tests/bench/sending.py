#!/usr/bin/python3
"""What sending memory costs, by each way that the kernel has.

sending.py [--runs N] [--mib MIB] [--as text|markdown|json] [--smoke]

tcpcopy with one and with two connections, each way in turns: medians of N runs, and
ratios to plain send(). CPU time is that of both ends. On loopback the kernel copies what
it was asked not to copy, as it does wherever it would deliver it to this host.

Environment: TCPCOPY; else the release build's.
"""

import argparse
import json
import subprocess

from limits import TCPCOPY, median_of
from table import print_table

WAYS = ("send", "zerocopy", "uring", "uring-zc", "uring-zc-fixed")
STREAMS = (1, 2)
GIB = 1 << 30
COLUMNS = (("streams", "connections"), ("way", "way"), ("gb_per_s", "GB/s"),
           ("ratio", "ratio"), ("cpu", "CPU, s per GiB"), ("cpu_ratio", "ratio"))


def measure(size, streams, way):
    done = subprocess.run([TCPCOPY, str(size), str(streams), way],
                          stdout=subprocess.PIPE, check=True)
    said = json.loads(done.stdout)
    return {"gb_per_s": said["bytes_per_s"] / 1e9,
            "cpu_s_per_gib": said["cpu_s"] * GIB / size}


def summary(runs):
    """runs: {(streams, way): [row]}"""
    rows = []
    for (streams, way), taken in runs.items():
        row = {"streams": streams, "way": way, **median_of(taken)}
        plain = median_of(runs[streams, WAYS[0]])
        row["ratio"] = f"{row['gb_per_s'] / plain['gb_per_s']:.2f}"
        row["cpu"] = f"{row['cpu_s_per_gib']:.2f}"
        row["cpu_ratio"] = (f"{row['cpu_s_per_gib'] / plain['cpu_s_per_gib']:.2f}"
                            if plain["cpu_s_per_gib"] else "-")
        rows.append(row)
    return rows


def parse():
    parser = argparse.ArgumentParser(
        description="What sending memory costs, by each way that the kernel has.")
    parser.add_argument("--runs", type=int, default=9, metavar="N")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--as", dest="form", default="text",
                        choices=("text", "markdown", "json"))
    parser.add_argument("--smoke", action="store_true",
                        help="only see that it works: 1 run of 16 MiB")
    return parser.parse_args()


def main():
    args = parse()
    if args.smoke:
        args.runs, args.mib = 1, 16
    runs = {(streams, way): [] for streams in STREAMS for way in WAYS}
    for _ in range(args.runs):
        for (streams, way), taken in runs.items():
            taken.append(measure(args.mib << 20, streams, way))
    if args.form == "json":
        print(json.dumps(summary(runs), indent=1))
    else:
        print_table(COLUMNS, summary(runs), args.form == "markdown")


if __name__ == "__main__":
    main()
