"""Limits of a migration that are changed while it runs."""

import time

import pytest

from vmmd import DONE, FAILED, MIB, USAGE

BUSY = "mem=32M work=dirty hb=100"
RESTING = "mem=32M work=fill hb=100"  # faults in next to nothing by itself
FIT = ("--downtime-limit", 5000)  # lets precopy end with a busy guest
CRAWL = ("--max-bandwidth", 4096)  # a batch in a minute or more


def begin(host, *options, work=BUSY, **machine):
    guest = host.run(work, **machine).wait_ready()
    destination = host.receive()
    move = host.start_migrate(guest, destination.uri, *options)
    return guest, destination, move


def adjust(host, guest, *options):
    return host.vmmd("adjust", guest.vmm.name, *options)


def finish(guest, destination, move):
    result = move.wait()
    assert result.status == DONE, result
    assert guest.vmm.wait_exit() == DONE
    guest.moved_to(destination)
    guest.verify()
    return result.json


def test_more_bandwidth_is_felt_at_once(host):
    """Not only after what was owed at the old rate."""
    guest, destination, move = begin(host, "--mode", "precopy", *CRAWL,
                                     *FIT)
    guest.vmm.wait_phase("precopy")
    adjust(host, guest, "--max-bandwidth", 0)
    assert finish(guest, destination, move)["switchover"] == "precopy"


def test_a_higher_downtime_limit_lets_precopy_end(host):
    guest, destination, move = begin(host, "--mode", "precopy",
                                     "--max-bandwidth", 8 * MIB,
                                     "--downtime-limit", 0)
    guest.vmm.wait_for(lambda status: (status.get("operation") or {})
                       .get("round", 0) > 1, "it does not fit")
    adjust(host, guest, "--downtime-limit", 60000)
    assert finish(guest, destination, move)["switchover"] == "precopy"


def test_postcopy_now(host):
    """In the first round, whose rest then has to come by postcopy."""
    guest, destination, move = begin(host, *CRAWL, work=RESTING)
    guest.vmm.wait_phase("precopy")
    adjust(host, guest, "--postcopy")
    destination.wait_phase("postcopy")
    left = guest.vmm.status()["operation"]["left_bytes"]
    assert left > 16 * MIB, "there was no rest"
    adjust(host, guest, "--max-bandwidth", 0)
    stats = finish(guest, destination, move)
    assert stats["switchover"] == "postcopy"
    assert stats["rounds"] == 1


def test_postcopy_now_with_pages_put_off(host):
    """Written before they were sent: they come by postcopy as the rest does."""
    guest, destination, move = begin(host, "--max-bandwidth", 2 * MIB,
                                     work="mem=64M work=dirty rate=500 hb=50",
                                     mem="96M")
    guest.vmm.wait_phase("precopy")
    time.sleep(2)  # of the thirty that the round takes
    adjust(host, guest, "--postcopy", "--max-bandwidth", 0)
    stats = finish(guest, destination, move)
    print(f"{stats['pages_deferred']} pages put off")
    assert stats["switchover"] == "postcopy"


def test_what_faults_have_overdrawn_keeps_nobody(host):
    """The guest fetches all that is left itself, within seconds: what the bandwidth
    limit would have made of that, four minutes, is not waited for at the end."""
    guest, destination, move = begin(host, "--max-bandwidth", 40 * MIB,
                                     "--downtime-limit", 0,
                                     work="mem=16M work=dirty light=1 hb=100")
    guest.vmm.wait_for(lambda status: (status.get("operation") or {})
                       .get("round", 0) > 1, "all has been sent once")
    adjust(host, guest, "--max-bandwidth", 65536)
    # Unless it has given up by itself meanwhile.
    host.vmmd("adjust", guest.vmm.name, "--postcopy", check=False)
    stats = finish(guest, destination, move)
    assert stats["switchover"] == "postcopy"
    assert stats["faults"]["count"] > 1000, "too few to overdraw anything"


@pytest.mark.parametrize("option", [("--postcopy",), ("--downtime-limit", 1)])
def test_after_the_switch_only_the_bandwidth_matters(host, option):
    guest, destination, move = begin(host, "--mode", "hybrid", *CRAWL,
                                     work=RESTING)
    guest.vmm.wait_phase("precopy")
    adjust(host, guest, "--postcopy")
    guest.vmm.wait_phase("postcopy")
    refusal = host.vmmd("adjust", guest.vmm.name, *option, "--max-bandwidth",
                        0, check=False)
    assert refusal.status == FAILED
    assert "handed over" in refusal.stderr
    assert guest.vmm.status()["operation"]["phase"] == "postcopy"
    adjust(host, guest, "--max-bandwidth", 0)
    finish(guest, destination, move)


def test_postcopy_has_to_be_agreed_on(host):
    guest, destination, move = begin(host, "--mode", "precopy", *CRAWL,
                                     *FIT)
    guest.vmm.wait_phase("precopy")
    refusal = host.vmmd("adjust", guest.vmm.name, "--postcopy", check=False)
    assert refusal.status == FAILED
    assert "--mode hybrid" in refusal.stderr
    adjust(host, guest, "--max-bandwidth", 0)
    finish(guest, destination, move)


def test_nothing_to_adjust(host):
    guest = host.run(BUSY).wait_ready()
    refusal = host.vmmd("adjust", guest.vmm.name, "--max-bandwidth", "1M",
                        check=False)
    assert refusal.status == FAILED
    assert "no migration to adjust: the guest is running" in refusal.stderr
    assert host.vmmd("adjust", guest.vmm.name, check=False).status == USAGE
    guest.verify()
