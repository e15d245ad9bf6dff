"""Many migrations in a row, each of another kind, of guests at full speed.

After each move: the guest verifies every byte, its beats are in a row, the
source has ended with 0, and only the destination says that it runs the guest.
VMMD_SOAK_MIGRATE: how many (200). VMMD_SEED: another choice of kinds (1).
"""

import os
import random
import threading
from dataclasses import dataclass

from vmmd import POLL_S, SANITIZER, owns

MOVES = int(os.environ.get("VMMD_SOAK_MIGRATE", "200"))
SEED = int(os.environ.get("VMMD_SEED", "1"))
MOVES_OF_ONE_GUEST = 10
RING_ENTRIES = 4096

WORKLOADS = ("work=dirty", "work=dirty ws=4M", "work=dirty zero=3",
             "work=dirty irq=1", "work=dirty light=1", "work=sparse",
             "work=sparse light=1 ws=2M", "work=read")


@dataclass
class Kind:
    """How one move is made."""

    mode: str
    tracker: str
    channels: int
    bandwidth: int  # 0: no limit

    def options(self):
        options = ["--mode", self.mode, "--tracker", self.tracker,
                   "--channels", self.channels]
        if self.mode == "precopy":
            # What a guest at full speed dirties in a round has to fit, and
            # sanitizers send slowly.
            options += ["--downtime-limit", 5000 if SANITIZER else 500]
        if self.bandwidth:
            options += ["--max-bandwidth", self.bandwidth]
        return options


def choose_kind(rng, ring):
    mode = rng.choice(("precopy", "postcopy", "hybrid"))
    trackers = ("ring", "auto") if ring else ("log", "manual", "auto")
    # A slow link keeps precopy from converging: hybrid has to give up on it.
    slow = mode == "hybrid" and rng.random() < 0.3
    return Kind(mode, rng.choice(trackers), rng.randint(1, 16),
                (100 << 20) if slow else 0)


class OneOwner:
    """Watches during a move that not both ends say that they run the guest.

    The destination is asked first: if it runs the guest and the source, asked
    later, does too, then they both did at that moment.
    """

    def __init__(self, source, destination):
        self.source, self.destination = source, destination
        self.both = False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def _watch(self):
        while not self.over.wait(POLL_S):
            if not owns(self.destination.status()):
                continue
            self.both = owns(self.source.status())
            return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        assert not self.both, "both ends say that they run the guest"


def ring_options(ring):
    return ("--dirty-ring", RING_ENTRIES) if ring else ()


def boot(host, rng, ring):
    test_mib = rng.choice((4, 8, 16, 32, 64))
    cmdline = f"mem={test_mib}M hb=100 seed={rng.randint(1, 1 << 30)} " + \
        rng.choice(WORKLOADS)
    mem = f"{rng.choice((test_mib + 24, 128))}M"
    backend = rng.choice(("anon", "anon", "memfd"))
    print(f"guest: --mem {mem} --mem-backend {backend} '{cmdline}'")
    return host.run(cmdline, mem=mem, cpus=rng.randint(1, 4),
                    options=("--mem-backend", backend,
                             *ring_options(ring))).wait_ready()


def move_once(host, rng, guest, ring):
    """Moves guest; returns whether its new home has a dirty ring."""
    kind = choose_kind(rng, ring)
    print(kind)
    next_ring = rng.random() < 0.3
    source = guest.vmm
    destination = host.receive(ring_options(next_ring))
    with OneOwner(source, destination):
        stats = host.migrate(guest, destination, *kind.options())
    assert stats["result"] == "completed", stats
    guest.verify()
    assert host.owners_running() == [destination.name]
    return next_ring


def test_soak_migrate(host):
    rng = random.Random(SEED)
    moves = 0
    while moves < MOVES:
        ring = rng.random() < 0.3
        guest = boot(host, rng, ring)
        for _ in range(min(MOVES_OF_ONE_GUEST, MOVES - moves)):
            ring = move_once(host, rng, guest, ring)
            moves += 1
            print(f"move {moves} of {MOVES}")
        guest.vmm.stop(force=True)
        guest.check()
