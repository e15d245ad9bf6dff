"""A guest powers off, or resets, in the middle of being moved or restored: it does
so once, on one side, whatever the phase, and nobody is left waiting."""

import time

import pytest

from vmmd import DONE, FAILED, GUEST_ELF, MIB, wait_until

POWER_OFF, RESET = "q", "r"
SLOW = ("--max-bandwidth", 2 * MIB)
GUEST = "mem=32M work=dirty ws=1M rate=100 hb=20"


def starts(guest):
    return len(guest.stream.kinds("GUEST-START"))


def ends(guest):
    return len(guest.stream.kinds("GUEST-DONE"))


def wait_ends(guest):
    wait_until(lambda: ends(guest) > 0, lambda: f"its end: {guest.tail()}")


def wait_ends_in_either(guest, destination):
    """It may have been moved, or be moved just then."""
    guest.stream.files.append(destination.serial)
    wait_ends(guest)
    guest.stream.files.pop()


def has_ended(host, guest, processes, what):
    """Once. After a reset it lives, in one process, and can be moved."""
    if what == POWER_OFF:
        for vmm in processes:
            assert vmm.wait_exit() == DONE, vmm.errors()
        assert (starts(guest), ends(guest)) == (1, 1)
        return
    wait_until(lambda: starts(guest) == 2,
               lambda: f"its second start: {guest.tail()}")
    wait_until(lambda: len(guest.stream.kinds("GUEST-READY")) == 2,
               lambda: f"it is ready again: {guest.tail()}")
    owners = [vmm for vmm in processes if vmm.alive()]
    owners[0].wait_state("running")
    assert host.owners_running() == [owners[0].name]
    assert (starts(guest), ends(guest)) == (2, 1)
    guest.vmm = owners[0]
    destination = host.receive()
    result = host.start_migrate(guest, destination.uri).wait()
    assert result.status == DONE, result


@pytest.mark.parametrize("what", [POWER_OFF, RESET])
def test_in_setup(host, what):
    guest = host.run(GUEST, env={"VMMD_FAULT": "agreed:stall"}).wait_ready()
    source, destination = guest.vmm, host.receive()
    moving = host.start_migrate(guest, destination.uri)
    source.wait_phase("setup")
    guest.ask(what)
    wait_ends_in_either(guest, destination)
    finish(host, guest, source, destination, moving, what)


@pytest.mark.parametrize("what", [POWER_OFF, RESET])
def test_in_precopy(host, what):
    guest = host.run(GUEST).wait_ready()
    source, destination = guest.vmm, host.receive()
    moving = host.start_migrate(guest, destination.uri, *SLOW)
    source.wait_phase("precopy")
    guest.ask(what)
    wait_ends_in_either(guest, destination)
    finish(host, guest, source, destination, moving, what)


def finish(host, guest, source, destination, moving, what):
    """The move came about or it did not; either is fine."""
    result = moving.wait()
    assert result.status in (DONE, FAILED), result
    guest.stream.files.append(destination.serial)
    processes = [source, destination]
    if result.status == FAILED:
        if "mode" in result.json:  # it had begun: nobody came
            assert destination.wait_exit() == FAILED
        else:  # refused, since the guest ended first: nobody was told
            host.vmmd("stop", destination.name, "--force")
            destination.wait_exit()
        processes = [source]
    else:
        assert source.wait_exit() == DONE, source.errors()
    has_ended(host, guest, processes, what)


@pytest.mark.parametrize("what", [POWER_OFF, RESET])
@pytest.mark.parametrize("late_ms", range(0, 100, 20))
def test_about_the_switch(host, what, late_ms):
    guest = host.run(GUEST).wait_ready()
    source, destination = guest.vmm, host.receive()
    moving = host.start_migrate(guest, destination.uri)
    time.sleep(late_ms / 1000)
    # The process that has it may be gone by now, and then the other has it.
    if host.vmmd("send", source.name, what, check=False).status != DONE:
        host.vmmd("send", destination.name, what)
    wait_ends_in_either(guest, destination)
    finish(host, guest, source, destination, moving, what)


@pytest.mark.parametrize("what", [POWER_OFF, RESET])
def test_in_postcopy(host, what):
    guest = host.run(GUEST).wait_ready()
    source, destination = guest.vmm, host.receive()
    moving = host.start_migrate(guest, destination.uri, "--mode", "postcopy",
                                *SLOW)
    destination.wait_phase("postcopy")
    guest.moved_to(destination)
    guest.ask(what)
    wait_ends(guest)
    assert moving.wait().status == DONE
    assert source.wait_exit() == DONE
    has_ended(host, guest, [destination], what)


@pytest.mark.parametrize("what", [POWER_OFF, RESET])
@pytest.mark.parametrize("lazy", [False, True])
def test_after_a_restore(host, what, lazy):
    guest = host.run(GUEST).wait_ready()
    directory, _ = host.snapshot(guest)
    guest.vmm.stop()
    restored = host.restore(directory, lazy=lazy)
    restored.ask(what)
    wait_ends(restored)
    if what == POWER_OFF:
        assert restored.vmm.wait_exit() == DONE
        return
    wait_until(lambda: len(restored.stream.kinds("GUEST-READY")) == 1,
               lambda: f"it is ready again: {restored.tail()}")
    assert starts(restored) == 1


def test_a_reset_without_its_kernel(host, scratch):
    """It says what is missing, here where the guest is now."""
    kernel = scratch / "kernel"
    kernel.write_bytes(open(GUEST_ELF, "rb").read())
    guest = host.run(GUEST, options=("--kernel", kernel)).wait_ready()
    host.move(guest)
    kernel.unlink()
    guest.ask(RESET)
    assert guest.vmm.wait_exit() == FAILED
    assert f"kernel {kernel}: No such file" in guest.vmm.errors()
