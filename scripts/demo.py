#!/usr/bin/python3
"""The demo: a guest that counts is moved three times, saved, and brought back.

Every step is checked as the tests check it: the guest verifies each byte it ever
wrote and counts its heartbeats, so a lost page, a lost beat or a guest that runs
twice ends the demo with an error.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests/integration"))
os.environ["VMMD"] = str(ROOT / "build/release/cli/vmmd")
os.environ["GUEST_ELF"] = str(ROOT / "build/release/tests/guest/guest.elf")

from vmmd import MIB, Host  # noqa: E402

GUEST = "mem=192M work=dirty rate=4000 halt=0 hb=100"
MODES = ("precopy", "postcopy", "hybrid")


def styled(code, text):
    return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text


def step(text):
    print("\n" + styled("1", text), flush=True)


def say(text):
    print("  " + text, flush=True)


def show_beats(guest, beats=5):
    """A few beats as they come, with the process they come from."""
    shown = guest.last_seq()
    where = styled("36", f"{guest.vmm.name} (pid {guest.vmm.pid})")
    while beats:
        for beat in guest.check():
            if beat["seq"] > shown and beats:
                shown = beat["seq"]
                beats -= 1
                say(f"{where}  beat {styled('1', beat['seq'])}, "
                    f"{beat['writes']} pages written, {beat['errs']} errors")
        time.sleep(0.02)


def verify(guest):
    guest.verify()
    pages = guest.stream.kinds("verify-all")[-1]["pages"]
    say(styled("32", f"verified: all {pages} pages are what the guest wrote"))


def move(host, guest, mode):
    step(f"Moving it by {mode}, while it runs")
    since = guest.forget_stalls()
    stats = host.move(guest, "--mode", mode)
    show_beats(guest, 3)
    verify(guest)
    return {"what": f"move by {mode}", "total": stats["total_ms"],
            "down": stats["downtime_ms"], "felt": guest.felt_ms(since),
            "rate": stats["throughput_bytes_per_s"] / 1e6,
            "faults": stats["faults"]}


def restore(host, directory, lazy):
    kind = "lazily" if lazy else "eagerly"
    guest = host.restore(directory, lazy=lazy)
    say(f"restored {kind}:")
    show_beats(guest, 2)
    verify(guest)
    status = guest.vmm.wait_for(lambda status: status.get("arrived"),
                                "all pages")
    guest.vmm.stop(force=True)
    stats = status["arrived"]
    return {"what": f"restore {kind}", "total": stats["total_ms"],
            "start": stats["start_ms"], "faults": stats["faults"]}


def save_and_restore(host, guest):
    step("A snapshot of it, while it runs")
    since = guest.forget_stalls()
    directory, stats = host.snapshot(guest)
    row = {"what": "live snapshot", "total": stats["total_ms"],
           "down": stats["pause_ms"], "felt": guest.felt_ms(since),
           "faults": stats["wp_faults"]}
    say(f"{stats['bytes_written'] / MIB:.0f} MiB in {directory.name}; "
        "the guest went on:")
    show_beats(guest, 2)
    verify(guest)
    step("Back from the file, twice")
    return [row, restore(host, directory, False),
            restore(host, directory, True)]


def cell(row, key, unit, form):
    return f"{row[key]:{form}} {unit}" if row.get(key) is not None else "-"


def print_table(rows):
    step("The figures")
    titles = ("", "total", "downtime", "guest felt", "to start", "MB/s",
              "faults", "p50", "p99")
    table = [titles]
    for row in rows:
        faults = row["faults"]
        some = faults["count"] > 0
        table.append((
            row["what"], cell(row, "total", "ms", ".0f"),
            cell(row, "down", "ms", ".1f"), cell(row, "felt", "ms", ".1f"),
            cell(row, "start", "ms", ".1f"), cell(row, "rate", "", ".0f"),
            str(faults["count"]) if some else "-",
            f"{faults['p50_us']} us" if some else "-",
            f"{faults['p99_us']} us" if some else "-"))
    widths = [max(len(line[i]) for line in table) for i in range(len(titles))]
    for line in table:
        say("  ".join([line[0].ljust(widths[0])] +
                      [text.strip().rjust(width)
                       for text, width in zip(line[1:], widths[1:])]))


def demo(host):
    begin = time.monotonic()
    step("A guest: 256 MiB, writing 4000 pages a second and counting")
    guest = host.run(GUEST, mem="256M").wait_ready()
    show_beats(guest)
    rows = [move(host, guest, mode) for mode in MODES]
    rows += save_and_restore(host, guest)
    print_table(rows)
    beats = len(guest.verify())
    guest.vmm.stop(force=True)
    step(styled("32", f"The guest lived in four processes and counted to "
                      f"{beats} without missing a beat, in "
                      f"{time.monotonic() - begin:.0f} s."))


def main():
    directory = Path(tempfile.mkdtemp(prefix="vmmd-demo-"))
    try:
        host = Host(directory)
        try:
            demo(host)
        finally:
            host.close()
    except AssertionError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
