"""Both ends, the link, and every phase: whatever fails, the outcome is the one
of the failure table in docs/protocol.md.

Before the run token the guest goes on at the source as if nothing had happened.
After it the source never runs the guest; a broken link pauses both sides, and
migrate --resume finishes the move. VMMD_FAULT (migrate/faultpoint.h) gives the
exact moment inside a process; a proxy between the two cuts at exact bytes.
"""

import fcntl
import os
import random
import signal
import struct
import threading
import time
from pathlib import Path

import pytest

from proxy import Proxy
from vmmd import (ATTENTION, DONE, FAILED, FIT, MIB, PATIENCE_S,
                  wait_until)

BUSY = "mem=16M work=dirty hb=50"
RESTING = "mem=16M work=fill hb=50"  # faults in next to nothing by itself
FAULTING = "mem=16M work=sparse rate=1000 hb=50"  # a page here, a page there
SLOW = ("--max-bandwidth", 16 * MIB)
STALL_S = 5
LINGER_S = 30  # migrate/dest_rejoin.c

# Points of the source and of the destination, before and after the token.
SOURCE_BEFORE = ("setup", "agreed", "round1", "hot", "look", "round2", "mark",
                 "stopped", "unlocked", "state-sent", "ready", "before-token")
SOURCE_AFTER = ("after-token", "postcopy")
DESTINATION_BEFORE = ("setup", "agreed", "ram", "mark", "stopped", "locked")
DESTINATION_AFTER = ("before-running", "running", "postcopy", "block", "drained")

BEFORE = ([("source", point) for point in SOURCE_BEFORE] +
          [("destination", point) for point in DESTINATION_BEFORE])
AFTER = ([("source", point) for point in SOURCE_AFTER] +
         [("destination", point) for point in DESTINATION_AFTER])


def fault(point, action):
    return {"VMMD_FAULT": f"{point}:{action}"}


def reaches(point):
    """Options under which a migration passes the point."""
    if point in ("round1", "hot"):  # a second of it, in which there are looks
        return ("--mode", "hybrid", *SLOW)
    if point == "look":  # of a round of 8 s, so from its beginning
        return ("--mode", "hybrid", "--max-bandwidth", 2 * MIB)
    if point == "round2":  # after a first one too short to foresee the end
        return ("--mode", "hybrid", "--downtime-limit", 0,
                "--max-bandwidth", 64 * MIB)
    if point == "after-token":  # all pages are over there when it dies
        return ("--mode", "precopy", "--downtime-limit", 5000)
    if point in ("postcopy", "block", "drained"):
        return ("--mode", "postcopy", *SLOW)
    return ("--mode", "hybrid", *FIT)


def start(host, side, point, action):
    """A guest and where it shall go; one of the two will meet the fault."""
    env = fault(point, action)
    guest = host.run(BUSY, cpus=2, env=env if side == "source" else None)
    return guest.wait_ready(), host.receive(
        env=env if side == "destination" else None)


def proxied(host, destination, **options):
    proxy = Proxy(int(destination.uri.rsplit(":", 1)[1]), **options)
    host.proxies.append(proxy)
    return proxy



def stays_silent(guest):
    """The guest in guest.vmm does not run: its state says so, and it is mute."""
    time.sleep(0.3)  # what it said before may still be on its way to the file
    said = guest.vmm.serial.read_bytes()
    time.sleep(1)
    assert guest.vmm.serial.read_bytes() == said
    assert not guest.vmm.alive() or guest.vmm.state() != "running"


def goes_on_here(host, guest):
    """It never left, and can still leave."""
    guest.verify()
    assert host.owners_running() == [guest.vmm.name]
    host.move(guest, *FIT)
    guest.verify()


def has_the_guest(host, vmm):
    """It alone; soon: who has not been told of the end waits for its source a while."""
    wait_until(lambda: host.owners_running() == [vmm.name],
               lambda: f"the guest in {vmm.name} alone: {host.owners_running()}",
               PATIENCE_S + LINGER_S)


def arrived(host, guest, destination):
    assert guest.vmm.wait_exit() == DONE, guest.vmm.errors()
    guest.moved_to(destination)
    guest.verify()
    has_the_guest(host, destination)


def resume(host, guest, uri):
    """migrate --resume, again while the peer has not noticed the break yet."""
    def attempt():
        result = host.vmmd("migrate", guest.vmm.name, uri, "--resume",
                           "--json", check=False)
        return result if result.status != ATTENTION else None
    return wait_until(attempt, "the end of --resume")


def settle(host, guest, destination, result, uri=None):
    """Whatever result it was: the guest is whole, and in one place."""
    if result.status == ATTENTION:
        stays_silent(guest)
        result = resume(host, guest, uri or destination.uri)
    if result.status == DONE:
        arrived(host, guest, destination)
    else:
        assert result.status == FAILED, result
        goes_on_here(host, guest)


def is_refused(host, guest):
    """A guest that may live over there is not started here by mistake."""
    assert host.vmmd("resume", guest.vmm.name, check=False).status != DONE
    stays_silent(guest)


# -- SIGKILL


@pytest.mark.parametrize("point", SOURCE_BEFORE)
def test_source_killed_before_the_token(host, point):
    """The guest dies with its process; nobody runs a half of it."""
    guest, destination = start(host, "source", point, "kill")
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    assert guest.vmm.wait_exit() == -signal.SIGKILL
    assert result.status == FAILED, result
    wait_until(lambda: not destination.alive() or
               destination.status().get("listen"), "an end or a new start")
    assert destination.serial.read_bytes() == b""
    assert host.owners_running() == []


@pytest.mark.parametrize("point", SOURCE_AFTER)
def test_source_killed_after_the_token(host, point):
    """What has all pages runs on; what has not waits, and says so."""
    guest, destination = start(host, "source", point, "kill")
    source = guest.vmm
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    assert source.wait_exit() == -signal.SIGKILL
    assert result.status == FAILED, result
    guest.moved_to(destination)
    if point == "postcopy":
        destination.wait_phase("paused")
        assert destination.alive()
    else:
        guest.wait_beats(2)
        guest.verify()


@pytest.mark.parametrize("point", DESTINATION_BEFORE)
def test_destination_killed_before_the_token(host, point):
    guest, destination = start(host, "destination", point, "kill")
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    assert destination.wait_exit() == -signal.SIGKILL
    assert result.status == FAILED, result
    goes_on_here(host, guest)


@pytest.mark.parametrize("point", DESTINATION_AFTER)
def test_destination_killed_after_the_token(host, point):
    """It may have run there: here it stays paused, for people to decide."""
    guest, destination = start(host, "destination", point, "kill")
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    assert destination.wait_exit() == -signal.SIGKILL
    assert result.status == ATTENTION, result
    assert result.json["result"] == "paused"
    is_refused(host, guest)
    again = host.vmmd("migrate", guest.vmm.name, destination.uri, "--resume",
                      check=False)
    assert again.status == ATTENTION, again
    is_refused(host, guest)


@pytest.mark.parametrize("killed", ["source", "destination"])
def test_killed_in_postcopy_while_every_vcpu_waits(host, killed):
    """Blocked on pages that will not come, and yet the process goes."""
    guest = host.run("mem=64M work=read irq=1 hb=50", mem="96M",
                     cpus=4).wait_ready()
    source, destination = guest.vmm, host.receive()
    proxy = proxied(host, destination)
    move = host.start_migrate(guest, proxy.uri, "--mode", "postcopy",
                              "--max-bandwidth", 4 * MIB)
    destination.wait_phase("postcopy")
    proxy.hold()
    time.sleep(0.5)  # every vCPU has met a missing page by now
    (source if killed == "source" else destination).kill()
    proxy.release()
    move.wait()


# -- the connection cut


@pytest.mark.parametrize("side, point", BEFORE)
def test_cut_before_the_token(host, side, point):
    guest, destination = start(host, side, point, "cut")
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    assert result.status == FAILED, result
    assert result.stderr.strip()
    goes_on_here(host, guest)


def test_cut_while_the_state_loads(host):
    """KVM waits for a page that will not come any more, and is let go."""
    for _ in range(4):
        guest, destination = start(host, "source", "state-sent", "cut")
        result = host.start_migrate(guest, destination.uri, "--mode",
                                    "postcopy").wait()
        assert result.status == FAILED, result
        assert destination.wait_exit() == FAILED
        goes_on_here(host, guest)
        guest.vmm.stop(force=True)


@pytest.mark.parametrize("side, point", AFTER)
def test_cut_after_the_token(host, side, point):
    guest, destination = start(host, side, point, "cut")
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    assert result.status in (ATTENTION, DONE), result
    settle(host, guest, destination, result)


def test_cut_at_any_byte(host):
    """Positions all over the stream, the small messages at its ends first."""
    rng = random.Random(1)
    guest = host.run("mem=4M work=dirty hb=50").wait_ready()
    cuts = [0, 1, 39, 40, 41, 52, 60, 100, 500] + [
        rng.randrange(1000, 6 * MIB) for _ in range(12)]
    for cut in cuts:
        destination = host.receive()
        proxy = proxied(host, destination, cut_after=cut)
        mode = rng.choice(("precopy", "postcopy", "hybrid"))
        print(f"cut after {cut} bytes, {mode}")
        result = host.start_migrate(guest, proxy.uri, "--mode", mode, *FIT,
                                    "--channels", rng.randint(1, 4)).wait()
        settle(host, guest, destination, result, proxy.uri)


@pytest.mark.parametrize("link", range(5))
def test_one_connection_of_a_postcopy_cut(host, link):
    """Control, two for data, two for faults: losing any pauses, none is fatal."""
    guest = host.run(FAULTING, cpus=2).wait_ready()
    destination = host.receive()
    proxy = proxied(host, destination)
    move = host.start_migrate(guest, proxy.uri, "--mode", "postcopy",
                              "--channels", 2, "--max-bandwidth", 2 * MIB)
    destination.wait_phase("postcopy")
    proxy.cut(link)
    settle(host, guest, destination, move.wait(), proxy.uri)


def test_cut_again_and_again_in_postcopy(host):
    guest = host.run(RESTING).wait_ready()
    destination = host.receive()
    proxy = proxied(host, destination)
    command = host.start_migrate(guest, proxy.uri, "--mode", "postcopy",
                                 "--max-bandwidth", 2 * MIB)
    destination.wait_phase("postcopy")
    for _ in range(5):
        time.sleep(0.3)
        proxy.cut()
        result = command.wait()
        if result.status != ATTENTION:
            break
        command = host.start_migrate(guest, proxy.uri, "--resume")
    settle(host, guest, destination, command.wait()
           if command.running() else result, proxy.uri)


def test_cut_after_a_round_was_cut_short(host):
    """What the round did not send any more comes after the rejoin."""
    guest = host.run("mem=32M work=fill hb=50").wait_ready()
    destination = host.receive()
    proxy = proxied(host, destination)
    move = host.start_migrate(guest, proxy.uri, "--max-bandwidth", 2 * MIB)
    guest.vmm.wait_phase("precopy")
    host.vmmd("adjust", guest.vmm.name, "--postcopy")
    guest.vmm.wait_phase("postcopy")
    proxy.cut()
    result = move.wait()
    assert result.status == ATTENTION, result
    settle(host, guest, destination, result, proxy.uri)


def test_a_silent_peer_is_noticed(host):
    """Nothing is closed, nothing comes any more: seconds, not TCP's minutes."""
    guest = host.run(BUSY).wait_ready()
    destination = host.receive()
    proxy = proxied(host, destination)
    move = host.start_migrate(guest, proxy.uri, "--mode", "precopy",
                              "--max-bandwidth", MIB)
    guest.vmm.wait_phase("precopy")
    proxy.hold()
    result = move.wait()
    assert result.status == FAILED, result
    proxy.release()
    goes_on_here(host, guest)


# -- stopped for a while


@pytest.mark.parametrize("side, point", BEFORE + AFTER)
def test_stalled_at(host, side, point):
    """Late is not lost: whatever the other side makes of it, it is consistent."""
    guest, destination = start(host, side, point, "stall")
    began = time.monotonic()
    result = host.start_migrate(guest, destination.uri, *reaches(point)).wait()
    print(f"{side} at {point}: exit {result.status} after "
          f"{time.monotonic() - began:.1f} s")
    settle(host, guest, destination, result)


@pytest.mark.parametrize("point", ["ram", "mark"])
def test_it_runs_until_all_that_was_sent_is_read(host, point):
    """A receiver that is behind, or has no machine yet, costs time, and not the guest."""
    guest, destination = start(host, "destination", point, "stall")
    result = host.start_migrate(guest, destination.uri, *FIT).wait()
    assert result.status == DONE, result
    assert result.json["total_ms"] >= STALL_S * 1000, result
    assert result.json["downtime_ms"] < STALL_S * 1000, result
    assert result.json["switchover"] == "precopy", result
    arrived(host, guest, destination)


@pytest.mark.parametrize("who", ["source", "destination", "both"])
@pytest.mark.parametrize("phase", ["precopy", "postcopy"])
def test_stopped_for_five_seconds(host, who, phase):
    """SIGSTOP, as a suspended laptop or a frozen cgroup would."""
    guest = host.run(RESTING if phase == "postcopy" else BUSY, cpus=2).wait_ready()
    source, destination = guest.vmm, host.receive()
    move = host.start_migrate(guest, destination.uri, "--mode", phase,
                              "--max-bandwidth", 2 * MIB)
    source.wait_phase(phase)
    frozen = {"source": [source], "destination": [destination],
              "both": [source, destination]}[who]
    for vmm in frozen:
        vmm.freeze()
    time.sleep(STALL_S)
    for vmm in frozen:
        vmm.thaw()
    if phase == "precopy":
        # It would never fit through: enough was seen.
        host.vmmd("cancel", source.name, check=False)
    settle(host, guest, destination, move.wait())


# -- disks: who runs the guest has their locks, and nobody else


def holds(pid, inode):
    """Does this process hold a lock on the file?"""
    try:
        entries = list(Path(f"/proc/{pid}/fdinfo").glob("*"))
    except OSError:  # it has just ended
        return False
    for entry in entries:
        try:
            lines = entry.read_text().splitlines()
        except OSError:
            continue
        if any(line.startswith("lock:") and
               line.split()[6].endswith(f":{inode}") for line in lines):
            return True
    return False


class LockWatch:
    """A third party that looks at the lock of one disk all the time."""

    F_OFD_GETLK = 36

    def __init__(self, path, *vmms):
        self.path, self.vmms = path, vmms
        self.inode = os.stat(path).st_ino
        self.problems, self.looks = [], 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()

    def locked(self):
        """As fcntl tells anybody who has the file open."""
        with open(self.path, "rb") as file:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            lock = fcntl.fcntl(file, self.F_OFD_GETLK, lock)
        return struct.unpack("hhqqi4x", lock)[0] != fcntl.F_UNLCK

    def holders(self):
        return [vmm for vmm in self.vmms
                if vmm.alive() and holds(vmm.pid, self.inode)]

    def _watch(self):
        while not self.ending.wait(0.002):
            # Not at one instant: who has it before and after had it between.
            before, after = self.holders(), self.holders()
            both = [vmm.name for vmm in before if vmm in after]
            if len(both) > 1:
                self.problems.append(f"locked by {both}")
            self.looks += 1

    def stop(self):
        self.ending.set()
        self.thread.join()
        assert self.looks > 0 and not self.problems, self.problems


def disk_guest(host, env=None):
    image = host.directory / "image"
    with open(image, "wb") as file:
        file.truncate(MIB)
    guest = host.run(BUSY, env=env, options=("--disk", f"path={image}"))
    return guest.wait_ready(), image


def runs_with_its_disk(host, guest, watch):
    """It lives, and its process has the lock."""
    guest.wait_beats(2)
    has_the_guest(host, guest.vmm)
    assert [vmm.name for vmm in watch.holders()] == [guest.vmm.name]
    assert watch.locked()


def has_gone(host, destination):
    """One that had said READY keeps the disk, for it waits for the token."""
    if destination.alive() and destination.state() == "paused-migration":
        host.vmmd("stop", destination.name, "--force", check=False)
    return not destination.alive()


@pytest.mark.parametrize("action", ["kill", "cut"])
@pytest.mark.parametrize("side, point", [
    ("source", "unlocked"), ("source", "state-sent"), ("source", "ready"),
    ("source", "before-token"), ("destination", "stopped"),
    ("destination", "locked")])
def test_disk_lock_when_the_switch_fails(host, side, point, action):
    """The guest has its disk again, or it died and nobody has."""
    env = fault(point, action)
    guest, image = disk_guest(host, env if side == "source" else None)
    destination = host.receive(env=env if side == "destination" else None)
    watch = LockWatch(image, guest.vmm, destination)
    try:
        result = host.start_migrate(guest, destination.uri, *FIT).wait()
        assert result.status == FAILED, result
        if (side, action) != ("source", "kill"):
            runs_with_its_disk(host, guest, watch)
            guest.verify()
            return
        assert guest.vmm.wait_exit() == -signal.SIGKILL
        assert destination.serial.read_bytes() == b""
        wait_until(lambda: has_gone(host, destination), "the receiver's end")
        wait_until(lambda: not watch.locked(), "nobody's disk")
    finally:
        watch.stop()


@pytest.mark.parametrize("mode", ["precopy", "postcopy"])
def test_disk_lock_moves_with_the_guest(host, mode):
    guest, image = disk_guest(host)
    destination = host.receive()
    watch = LockWatch(image, guest.vmm, destination)
    try:
        host.migrate(guest, destination, "--mode", mode, *FIT)
        runs_with_its_disk(host, guest, watch)
    finally:
        watch.stop()
    guest.verify()


def test_disk_lock_of_a_migration_that_is_paused(host):
    """The token was lost: the receiver has the disk until it gives it back."""
    guest, image = disk_guest(host, fault("after-token", "cut"))
    destination = host.receive()
    watch = LockWatch(image, guest.vmm, destination)
    try:
        result = host.start_migrate(guest, destination.uri, *FIT).wait()
        if result.status == ATTENTION:
            assert watch.holders() == [destination]
            is_refused(host, guest)
            result = resume(host, guest, destination.uri)
        if result.status == DONE:
            guest.moved_to(destination)
        runs_with_its_disk(host, guest, watch)
    finally:
        watch.stop()


def test_a_disk_that_somebody_else_took_meanwhile(host):
    """The guest stays paused, says why, and can be resumed when it is free."""
    guest, image = disk_guest(host, fault("unlocked", "stall"))
    destination = host.receive()
    move = host.start_migrate(guest, destination.uri, *FIT)
    watch = LockWatch(image, guest.vmm, destination)
    try:
        wait_until(lambda: not watch.locked(), "the lock to be free")
        with open(image, "r+b") as thief:
            lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(thief, 37, lock)  # F_OFD_SETLK
            result = move.wait()
            assert result.status == ATTENTION, result
            assert "in use" in result.stderr and "resume" in result.stderr
            assert guest.vmm.state() == "paused"
            refused = host.vmmd("resume", guest.vmm.name, check=False)
            assert refused.status == FAILED and "in use" in refused.stderr
        host.vmmd("resume", guest.vmm.name)
        runs_with_its_disk(host, guest, watch)
        guest.verify()
    finally:
        watch.stop()
