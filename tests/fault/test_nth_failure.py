"""The nth call fails, for n = 1, 2, 3... until a run passes untouched.

failing.so (failing.c), preloaded into vmmd, makes one call of vmmd's own code fail
as it would in real life: memory, KVM, a file, a socket. Whatever it
is, no process ends by a signal or hangs, who fails says why, and the guest lives on
in one place, with every byte that it wrote.

VMMD_NTH=all walks through every n; without, they lie further and further apart.
"""

import mmap
import os
import struct
import subprocess

import pytest

from vmmd import ATTENTION, DONE, FAILED, GUEST_ELF, VMMD, Guest, Timeout, wait_until

FAILING = os.environ.get("FAILING", "build/release/tests/fault/failing.so")
KINDS = {"memory": 1, "ioctl": 2, "files": 4, "socket": 8}
CONTROL = struct.Struct("=IIIIQ32s")  # struct control
GUEST = "mem=16M work=dirty rate=4000 hb=20"
NTH_MAX = 100000  # more calls of one kind nobody makes here


class Failure:
    """What one process is told, by way of a file that it maps."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(CONTROL.size))
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), CONTROL.size)
        self.env = {"LD_PRELOAD": str(FAILING), "VMMD_FAIL": str(path)}

    def arm(self, kind, nth):
        self.map[4:12] = struct.pack("=II", nth, 0)
        self.map[0:4] = struct.pack("=I", KINDS[kind])

    def disarm(self):
        self.map[0:4] = bytes(4)

    def fired(self):
        _, _, fired, loaded, _, _ = CONTROL.unpack(self.map[:])
        assert loaded, f"{FAILING} was not preloaded"
        return fired

    def where(self):
        """Which call it was, for whoever reads why a test failed."""
        _, left, fired, _, offset, function = CONTROL.unpack(self.map[:])
        if not fired:
            return f"nothing failed, {left} calls left"
        line = subprocess.run(
            ["addr2line", "-sfpe", VMMD, hex(offset - 1)], capture_output=True,
            text=True, check=False).stdout.strip()
        name = function.rstrip(b"\0").decode()
        return f"{name} failed in {line}"


def each_n(sparse_from):
    """1, 2, 3... and further and further apart, unless all are wanted."""
    n = 1
    while n < NTH_MAX:
        yield n
        step = 1 if os.environ.get("VMMD_NTH") == "all" else n // sparse_from
        n += max(step, 1)
    pytest.fail("no run passed untouched")


def no_signal(process, what):
    status = process.poll()
    assert status is None or status >= 0, f"ended by signal {-status}: {what}"


def complaints(vmm):
    """What it said, but for its announcements."""
    return [line for line in vmm.errors().splitlines()
            if ": running, process" not in line]


@pytest.mark.parametrize("kind", KINDS)
def test_start(host, kind):
    """A machine comes up whole, or not at all."""
    for n in each_n(8):
        failure = Failure(host.directory / f"fail{n}")
        failure.arm(kind, n)
        vmm = host._own("r", ["run", "--kernel", GUEST_ELF,
                              "--mem", "64M", "--cmdline", GUEST],
                        failure.env)
        wait_until(lambda: not vmm.alive() or
                   b"GUEST-READY" in vmm.serial.read_bytes()
                   if vmm.serial.exists() else not vmm.alive(),
                   failure.where)
        failure.disarm()
        if vmm.alive():
            vmm.stop(force=True)
        else:
            no_signal(vmm.process, failure.where())
            assert failure.fired() and complaints(vmm), failure.where()
            assert vmm.process.returncode == FAILED, failure.where()
        if not failure.fired():
            assert n > 1
            return


def tidy(host, vmm, where):
    """The receiver that got nothing: it goes on listening, or has ended."""
    host.vmmd("stop", vmm.name, "--force", check=False)  # it may just be ending
    vmm.wait_exit()
    no_signal(vmm.process, where)


def end_of(host, guest, destination, result):
    """DONE or FAILED, once it is sure; the answer itself may have been lost."""
    def is_over():
        status = guest.vmm.status()
        return not guest.vmm.alive() or status and not status.get("operation")
    wait_until(lambda: result.status == ATTENTION or is_over(),
               "the end of the migration")
    if result.status == FAILED and not guest.vmm.alive():
        return DONE
    if result.status == FAILED:
        assert result.json.get("error") or result.stderr.strip(), result
    if result.status == ATTENTION:
        result = resume(host, guest, destination)
    return result.status


def resume(host, guest, destination):
    """Once more may fail; for ever it must not."""
    last = []

    def again():
        result = host.vmmd("migrate", guest.vmm.name, destination.uri,
                           "--resume", "--json", check=False)
        last[:] = [result]
        return result if result.status != ATTENTION else None

    return wait_until(again, lambda: f"the end of --resume: {last} "
                      f"{guest.vmm.errors()}{destination.status()} "
                      f"{destination.errors()}")


@pytest.mark.parametrize("mode", ("precopy", "postcopy"))
@pytest.mark.parametrize("side", ("source", "destination"))
@pytest.mark.parametrize("kind", KINDS)
def test_migration(host, kind, side, mode):
    """The guest stays, or arrives; a postcopy that breaks is resumed."""
    here = Failure(host.directory / "fail")
    guest = host.run(GUEST, cpus=2, env=here.env).wait_ready()
    for n in each_n(4):
        there = Failure(host.directory / f"fail{n}")
        destination = host.receive(env=there.env)
        failure = here if side == "source" else there
        failure.arm(kind, n)
        migration = host.start_migrate(guest, destination.uri, "--mode", mode,
                                       "--downtime-limit", 500)
        try:
            result = migration.wait()
        except Timeout as error:
            raise Timeout(f"n={n}: {failure.where()}: {error} "
                          f"{guest.vmm.status()} {destination.status()} "
                          f"{destination.errors()}") from None
        status = end_of(host, guest, destination, result)
        failure.disarm()
        what = f"n={n}: {failure.where()}: {result}{guest.vmm.errors()}" \
               f"{destination.errors()}"
        for vmm in (guest.vmm, destination):
            no_signal(vmm.process, what)
        if status == DONE:
            assert guest.vmm.wait_exit() == DONE, what
            guest.moved_to(destination)
            here = there
        else:
            assert status == FAILED and failure.fired(), what
            tidy(host, destination, what)
        try:
            guest.verify()
        except AssertionError as error:
            raise AssertionError(what) from error
        # A destination that has all pages when the link breaks runs the guest while
        # it waits for its source to come back, and does not call itself running.
        assert host.owners_running() in ([guest.vmm.name], []), what
        guest.vmm.wait_state("running")
        if not failure.fired():
            return


@pytest.mark.parametrize("kind", KINDS)
def test_snapshot_and_restore(host, kind):
    """A snapshot is whole or not there, and its guest does not notice."""
    failure = Failure(host.directory / "fail")
    guest = host.run(GUEST, cpus=2, env=failure.env).wait_ready()
    for n in each_n(8):
        directory = host.directory / f"snapshot{n}"
        failure.arm(kind, n)
        result = host.vmmd("snapshot", guest.vmm.name, directory, check=False)
        failure.disarm()
        what = f"n={n}: {failure.where()}: {result}"
        no_signal(guest.vmm.process, what)
        wait_until(lambda: not guest.vmm.status().get("operation"), what)
        assert result.status == DONE or (failure.fired() and
                                         result.stderr.strip()), what
        # After a failure too: only the answer may have been lost.
        if directory.exists():
            copy = host.restore(directory)
            copy.verify()
            copy.vmm.stop(force=True)
        assert result.status == FAILED or directory.exists(), what
        guest.verify()
        if not failure.fired():
            break
    restored(host, kind, directory)


def restored(host, kind, directory):
    for lazy in (False, True):
        for n in each_n(8):
            failure = Failure(host.directory / f"restore{lazy}{n}")
            failure.arm(kind, n)
            vmm = host._own("s", ["restore", directory,
                                  *(["--lazy"] if lazy else [])], failure.env)
            # paused-damaged: a page that may be needed could not be had.
            wait_until(lambda: not vmm.alive() or vmm.status().get("arrived") or
                       vmm.state() == "paused-damaged", failure.where)
            failure.disarm()
            what = f"n={n}: {failure.where()}: {vmm.errors()}"
            if vmm.state() == "running":
                Guest(vmm, branched=True).verify()
            else:
                assert failure.fired() and complaints(vmm), what
            if vmm.alive():
                vmm.stop(force=True)
            no_signal(vmm.process, what)
            if not failure.fired():
                assert n > 1
                break
