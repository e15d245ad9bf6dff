"""Snapshots: what they hold, when they can be taken, what they leave behind."""

import json
import os

import pytest

from vmmd import DONE, FAILED, MIB, Command, wait_until

BUSY = "mem=32M work=dirty hb=100"


def restored_beats(host, directory, lazy):
    guest = host.restore(directory, lazy=lazy)
    guest.wait_beats(2)
    beats = guest.verify()
    return guest, beats


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("stop", [False, True], ids=["live", "stop"])
def test_restores_as_of_the_instant(host, stop, lazy):
    guest = host.run(BUSY, cpus=2).wait_ready()
    before = guest.last_seq()
    directory, stats = host.snapshot(guest, None, *(["--stop"] if stop else []))
    after = guest.last_seq()
    guest.wait_beats(2)
    restored, beats = restored_beats(host, directory, lazy)
    # One beat may be on its way out at the instant: its second half is no line.
    assert before < beats[0]["seq"] <= after + 2
    guest.verify()  # the original went on
    assert stats["pages"] * 4096 >= 32 * MIB
    assert stats["pause_ms"] <= stats["total_ms"]
    restored.vmm.stop(force=True)


def test_unpopulated_memory_stays_so(host):
    """2 GiB configured, little touched: the image and the guest stay small."""
    guest = host.run("mem=8M work=dirty hb=100", mem="2G").wait_ready()
    resident = guest.vmm.status()["resident_bytes"]
    directory, stats = host.snapshot(guest)
    assert guest.vmm.status()["resident_bytes"] < resident + 16 * MIB
    blocks = os.stat(directory / "memory").st_blocks * 512
    assert blocks < 64 * MIB
    assert stats["bytes_written"] < 64 * MIB
    for lazy in (False, True):
        restored, _ = restored_beats(host, directory, lazy)
        status = restored.vmm.status()
        assert status["resident_bytes"] < 64 * MIB
        restored.vmm.stop(force=True)


def test_of_a_lazily_restored_guest_before_its_pages_are_in(host):
    """Pages that nobody has asked for yet get into the second image too."""
    guest = host.run("mem=512M work=dirty ws=1M hb=50", mem="600M").wait_ready()
    first, _ = host.snapshot(guest)
    guest.vmm.stop(force=True)
    lazy = host.restore(first, lazy=True)
    second, _ = host.snapshot(lazy)
    lazy.verify()
    again, _ = restored_beats(host, second, True)
    again.vmm.stop(force=True)
    again, _ = restored_beats(host, second, False)


def test_of_a_guest_just_arrived_by_postcopy(host):
    """Most of it is still at the source when the snapshot is taken."""
    guest = host.run("mem=128M work=fill hb=50", mem="160M").wait_ready()
    source, destination = guest.vmm, host.receive()
    # Slow, so that the pages take seconds to come.
    move = host.start_migrate(guest, destination.uri, "--mode", "postcopy",
                              "--max-bandwidth", 16 * MIB)
    destination.wait_phase("postcopy")
    guest.moved_to(destination)
    directory, _ = host.snapshot(guest)
    result = move.wait()
    assert result.status == DONE, result
    assert source.wait_exit() == DONE
    guest.verify()
    restored, _ = restored_beats(host, directory, False)
    restored.vmm.stop(force=True)
    restored, _ = restored_beats(host, directory, True)


def test_migration_of_a_lazily_restored_guest(host):
    """Refused while its pages still come from the file; afterwards it moves."""
    guest = host.run("mem=256M work=dirty ws=1M hb=50", mem="300M").wait_ready()
    directory, _ = host.snapshot(guest)
    guest.vmm.stop(force=True)
    for mode in ("precopy", "postcopy"):
        early_home = host.receive()  # before: the pages do not wait
        lazy = host.restore(directory, lazy=True)
        early = host.start_migrate(lazy, early_home.uri).wait()
        if early.status == DONE:  # they were there already
            assert lazy.vmm.wait_exit() == DONE
            lazy.moved_to(early_home)
        else:
            assert "arriving" in early.stderr, early
        lazy.vmm.wait_for(lambda status: status.get("arrived"), "all pages")
        host.move(lazy, "--mode", mode, "--downtime-limit", 500)
        lazy.verify()
        lazy.vmm.stop(force=True)


def test_snapshot_of_a_paused_guest(host):
    guest = host.run(BUSY).wait_ready()
    host.vmmd("pause", guest.vmm.name)
    directory, _ = host.snapshot(guest)
    assert guest.vmm.state() == "paused"
    host.vmmd("resume", guest.vmm.name)
    guest.verify()
    vmm = host.restore(directory).vmm
    assert vmm.alive()


def test_directory_that_exists_is_left_alone(host):
    guest = host.run(BUSY)
    directory = host.directory / "taken"
    directory.mkdir()
    (directory / "mine").write_text("precious")
    result = host.vmmd("snapshot", guest.vmm.name, directory, check=False)
    assert result.status == FAILED and str(directory) in result.stderr
    assert [entry.name for entry in directory.iterdir()] == ["mine"]
    guest.verify()


def test_cancel_leaves_nothing(host):
    guest = host.run("mem=512M work=dirty hb=100", mem="600M").wait_ready()
    directory = host.directory / "cancelled"
    snapshot = Command(host, ["snapshot", guest.vmm.name, directory])
    wait_until(lambda: not snapshot.running() or
               guest.vmm.state() == "saving", "it saves, or has")
    host.vmmd("cancel", guest.vmm.name, check=False)
    status = snapshot.wait().status
    left = [path.name for path in host.directory.iterdir()
            if path.name.startswith((".", "cancelled"))]
    # It may have been done before the request came.
    assert left == (["cancelled"] if status == DONE else [])
    guest.verify()


def test_manifest_tells_what_is_there(host):
    guest = host.run(BUSY, cpus=2).wait_ready()
    directory, _ = host.snapshot(guest)
    assert sorted(path.name for path in directory.iterdir()) == [
        "manifest.json", "memory", "memory.sums", "state.pb"]
    json.loads((directory / "manifest.json").read_text())
