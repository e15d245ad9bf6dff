"""Both ends, the link, and every phase: whatever fails, the outcome is the one
of the failure table in docs/protocol.md.

Before the run token the guest goes on at the source as if nothing had happened.
After it the source never runs the guest; a broken link pauses both sides, and
migrate --resume finishes the move. VMMD_FAULT (migrate/faultpoint.h) gives the
exact moment inside a process; a proxy between the two cuts at exact bytes.
"""

import random
import signal
import time

import pytest

from proxy import Proxy
from vmmd import ATTENTION, DONE, FAILED, MIB, wait_until

BUSY = "mem=16M work=dirty hb=50"
FIT = ("--downtime-limit", "500")
SLOW = ("--max-bandwidth", 16 * MIB)
STALL_S = 5

# Points of the source and of the destination, before and after the token.
SOURCE_BEFORE = ("setup", "agreed", "round1", "round2", "stopped",
                 "state-sent", "ready", "before-token")
SOURCE_AFTER = ("after-token", "postcopy")
DESTINATION_BEFORE = ("setup", "agreed", "stopped")
DESTINATION_AFTER = ("before-running", "running", "postcopy", "drained")

BEFORE = ([("source", point) for point in SOURCE_BEFORE] +
          [("destination", point) for point in DESTINATION_BEFORE])
AFTER = ([("source", point) for point in SOURCE_AFTER] +
         [("destination", point) for point in DESTINATION_AFTER])


def fault(point, action):
    return {"VMMD_FAULT": f"{point}:{action}"}


def reaches(point):
    """Options under which a migration passes the point."""
    if point in ("round1", "round2"):
        return ("--mode", "hybrid", *SLOW)
    if point in ("postcopy", "drained"):
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


def arrived(host, guest, destination):
    assert guest.vmm.wait_exit() == DONE, guest.vmm.errors()
    guest.moved_to(destination)
    guest.verify()
    assert host.owners_running() == [destination.name]


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


@pytest.mark.parametrize("link", range(4))
def test_one_connection_of_a_postcopy_cut(host, link):
    """Control, two data channels, faults: losing any pauses, none is fatal."""
    guest = host.run("mem=16M work=dirty hb=50").wait_ready()
    destination = host.receive()
    proxy = proxied(host, destination)
    move = host.start_migrate(guest, proxy.uri, "--mode", "postcopy",
                              "--channels", 2, "--max-bandwidth", 4 * MIB)
    destination.wait_phase("postcopy")
    proxy.cut(link)
    settle(host, guest, destination, move.wait(), proxy.uri)


def test_cut_again_and_again_in_postcopy(host):
    guest = host.run("mem=16M work=dirty hb=50").wait_ready()
    destination = host.receive()
    proxy = proxied(host, destination)
    command = host.start_migrate(guest, proxy.uri, "--mode", "postcopy",
                                 "--max-bandwidth", 4 * MIB)
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


@pytest.mark.parametrize("who", ["source", "destination", "both"])
@pytest.mark.parametrize("phase", ["precopy", "postcopy"])
def test_stopped_for_five_seconds(host, who, phase):
    """SIGSTOP, as a suspended laptop or a frozen cgroup would."""
    guest = host.run(BUSY, cpus=2).wait_ready()
    source, destination = guest.vmm, host.receive()
    move = host.start_migrate(guest, destination.uri, "--mode", phase,
                              "--max-bandwidth", 4 * MIB)
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
