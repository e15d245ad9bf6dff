"""Many live snapshots in a row of guests that write at full speed.

Each is restored twice, eagerly and lazily. The restored guest verifies every
byte against its own records, which are of the instant of the snapshot as well;
its next beat follows a beat of about that instant; the original goes on.
VMMD_SOAK_SNAPSHOT: how many (50). VMMD_SEED: another choice of guests (1).
"""

import os
import random
import shutil

SNAPSHOTS = int(os.environ.get("VMMD_SOAK_SNAPSHOT", "50"))
SEED = int(os.environ.get("VMMD_SEED", "1"))
SNAPSHOTS_OF_ONE_GUEST = 5

WORKLOADS = ("work=dirty", "work=dirty ws=4M", "work=sparse", "work=read",
             "work=dirty zero=3", "work=dirty irq=1", "work=dirty light=1")


def boot(host, rng):
    test_mib = rng.choice((8, 16, 32, 64))
    cmdline = f"mem={test_mib}M hb=100 seed={rng.randint(1, 1 << 30)} " + \
        rng.choice(WORKLOADS)
    backend = rng.choice(("anon", "anon", "memfd"))
    print(f"guest: --mem-backend {backend} '{cmdline}'")
    return host.run(cmdline, mem="128M", cpus=rng.randint(1, 4),
                    options=("--mem-backend", backend)).wait_ready()


def check_restored(host, directory, lazy, first_seq, last_seq):
    """Restore, verify, and see that it goes on from the right beat."""
    guest = host.restore(directory, lazy=lazy)
    guest.wait_beats(2)
    beats = guest.verify()
    # One beat may be on its way out at the instant: its second half is no line.
    assert first_seq < beats[0]["seq"] <= last_seq + 2, (
        f"{beats[0]} does not follow {first_seq}..{last_seq}")
    guest.vmm.stop(force=True)


def test_soak_snapshot(host):
    rng = random.Random(SEED)
    guest = None
    for i in range(SNAPSHOTS):
        if i % SNAPSHOTS_OF_ONE_GUEST == 0:
            if guest:
                guest.vmm.stop(force=True)
            guest = boot(host, rng)
        first_seq = guest.last_seq()
        directory, stats = host.snapshot(guest)
        last_seq = guest.last_seq()
        assert stats["result"] == "completed", stats
        check_restored(host, directory, False, first_seq, last_seq)
        check_restored(host, directory, True, first_seq, last_seq)
        guest.verify()
        shutil.rmtree(directory)
        print(f"snapshot {i + 1} of {SNAPSHOTS}: {stats['wp_faults']}")
