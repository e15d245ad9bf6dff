"""What this host can do at best, and making it ready for a measurement.

The limits stand beside what is measured in the same run: bytes that a plain copy
over loopback TCP moves, and what memcpy() does. Environment: TCPCOPY, the binary;
else the release build's.
"""

import ctypes
import json
import mmap
import os
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TCPCOPY = os.environ.get("TCPCOPY",
                         str(ROOT / "build/release/tests/bench/tcpcopy"))
MADV_POPULATE_WRITE = 23  # <linux/mman.h>, since Linux 5.14
MEMCPY_BYTES = 256 << 20


def tcpcopy(size, streams):
    """Bytes per second of a plain copy over loopback TCP."""
    done = subprocess.run([TCPCOPY, str(size), str(streams)],
                          stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["bytes_per_s"]


def memcpy():
    """Bytes per second, between two pieces of touched memory."""
    with mmap.mmap(-1, MEMCPY_BYTES) as source, \
            mmap.mmap(-1, MEMCPY_BYTES) as target:
        addresses = [ctypes.addressof(ctypes.c_char.from_buffer(area))
                     for area in (target, source)]
        for address in addresses:
            ctypes.memset(address, 1, MEMCPY_BYTES)
        begin = time.monotonic()
        ctypes.memmove(*addresses, MEMCPY_BYTES)
        return MEMCPY_BYTES / (time.monotonic() - begin)


def warm(size):
    """Have that much memory, and give it back.

    Where this host is itself a guest, its own host may take away memory that is
    free for a second or two, and fetching it again costs more than what is
    measured here.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(MADV_POPULATE_WRITE)


def median_of(samples):
    """The median of each key of a list of flat dicts."""
    return {key: statistics.median(sample[key] for sample in samples)
            for key in samples[0]}
