"""When a guest's memory is as huge as it will be.

QEMU asks for huge pages at once; vmmd makes huge what a guest has filled, in the
background. What is measured before that has come to rest is measured by chance.
"""

import time
from pathlib import Path

MOST = 0.98  # of the guest's data: its ends share blocks with what is never touched
DONE_S = 1  # more than vmmd rests between two blocks
QUIET_S = 5  # more than it waits before it looks again, some seconds after its start
POLL_S = 0.25


def huge_mib(pid):
    """Of a guest's memory: the rest of its process has none worth mentioning."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return sum(int(line.split()[1]) for line in lines.splitlines()
               if line.startswith("AnonHugePages:")) // 1024


def wait_settled(pid, data_mib):
    """Until no more becomes huge: soon, when most of the data is."""
    now, since = huge_mib(pid), time.monotonic()
    while (time.monotonic() <
           since + (DONE_S if now >= data_mib * MOST else QUIET_S)):
        time.sleep(POLL_S)
        before, now = now, huge_mib(pid)
        if now != before:
            since = time.monotonic()
