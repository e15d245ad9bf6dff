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
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TCPCOPY = os.environ.get("TCPCOPY",
                         str(ROOT / "build/release/tests/bench/tcpcopy"))
MADV_POPULATE_WRITE = 23  # <linux/mman.h>, since Linux 5.14
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEMCPY_BYTES = 256 << 20
RESERVE_BYTES = 2 << 30  # left to the rest of this host


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


class Warm:
    """Memory that this host has at hand, for a process that is about to need it.

    Where this host is itself a guest, its own host may take away memory that is
    free for a second or two, and fetching it again costs more than what is
    measured here. So this memory is given back only as the process grows, or
    all at once by release(). It is there twice, in huge and in small pages: the
    kernel does not make the ones of the other at once. And it is given back on
    each CPU in turn: what one of them frees the kernel keeps for that one at
    first, hundreds of MiB of it, and the others would fetch memory from afar.
    """

    CHUNK_BYTES = 32 << 20
    AHEAD_BYTES = 256 << 20
    POLL_S = 0.002

    def __init__(self, size):
        self.chunks = []
        self.done = threading.Event()
        self.thread = None
        self.cpus = list(os.sched_getaffinity(0))
        for _ in range(0, size + self.AHEAD_BYTES, self.CHUNK_BYTES):
            if available_bytes() < RESERVE_BYTES + size:
                break
            self.chunks.append([self._have(mmap.MADV_HUGEPAGE),
                                self._have(mmap.MADV_NOHUGEPAGE)])

    def _have(self, advice):
        chunk = mmap.mmap(-1, self.CHUNK_BYTES,
                          flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        chunk.madvise(advice)
        chunk.madvise(mmap.MADV_DONTFORK)  # nobody who starts a process pays
        chunk.madvise(MADV_POPULATE_WRITE)
        return chunk

    def _give(self):
        """From a thread of its own."""
        cpu = self.cpus.pop(0)
        self.cpus.append(cpu)
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        for chunk in self.chunks.pop():
            chunk.close()

    def _start(self, work, *args):
        self.thread = threading.Thread(target=work, args=args)
        self.thread.start()

    def follow(self, pid):
        """Give back what the process takes, and a little ahead of it."""
        self._start(self._follow, pid)

    def _follow(self, pid):
        start = resident_bytes(pid)
        given = 0
        while self.chunks and not self.done.wait(self.POLL_S):
            while (self.chunks and
                   given < resident_bytes(pid) - start + self.AHEAD_BYTES):
                self._give()
                given += self.CHUNK_BYTES

    def _give_all(self):
        while self.chunks:
            self._give()

    def release(self):
        self.done.set()
        if self.thread:
            self.thread.join()
        self._start(self._give_all)
        self.thread.join()


def available_bytes():
    """What processes could still have, without anything being swapped."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def resident_bytes(pid):
    """Of a process of ours, which has not been reaped; 0 once it has ended."""
    statm = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * PAGE_BYTES


def median_of(samples):
    """The median of each key of a list of flat dicts."""
    return {key: statistics.median(sample[key] for sample in samples)
            for key in samples[0]}
