"""Moving a running guest between processes: each claim is one test."""

import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmmd import (DONE, FAILED, FIT, GIB, MIB, PAGE_BYTES, SANITIZER,
                  wait_until)

BUSY = "mem=32M work=dirty hb=100"
MODES = ("precopy", "postcopy", "hybrid")
TRACKERS = ("log", "manual", "ring", "wp-all")


def offered_trackers(host):
    """Best first, as doctor has them."""
    findings = host.vmmd("doctor", "--json").json["findings"]
    return [f["name"].split()[1] for f in findings
            if f["name"].startswith("tracker ") and f["found"]]


def wanted_by(tracker, host):
    """Options of a guest that is to be tracked so."""
    if tracker not in offered_trackers(host):
        pytest.skip(f"this kernel has no tracker {tracker}")
    return ("--dirty-ring", 4096) if tracker == "ring" else ()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_every_mode_with_every_tracker(host, mode, tracker):
    guest = host.run(BUSY, cpus=2, options=wanted_by(tracker, host)).wait_ready()
    stats = host.move(guest, "--mode", mode, "--tracker", tracker, *FIT)
    guest.verify()
    assert stats["tracker"] == tracker or mode == "postcopy"
    assert stats["mode"] == mode
    if mode != "hybrid":
        assert stats["switchover"] == mode
    assert stats["syncs"]["count"] > 0


def test_auto_takes_the_best_tracker(host):
    best = [t for t in offered_trackers(host) if t != "ring"][0]
    guest = host.run(BUSY).wait_ready()
    stats = host.move(guest, "--mode", "precopy", *FIT)
    assert stats["tracker"] == best
    guest.verify()


def test_a_tracker_that_is_not_there_says_how_to_get_it(host):
    if "wp-all" in offered_trackers(host):
        pytest.skip("this kernel has it")
    guest = host.run(BUSY).wait_ready()
    refusal = host.vmmd("migrate", guest.vmm.name, host.receive().uri,
                        "--tracker", "wp-all", check=False)
    assert refusal.status == FAILED
    assert "kernel-patch" in refusal.stderr
    guest.verify()


def test_there_and_back_and_on(host):
    guest = host.run(BUSY).wait_ready()
    for mode in MODES:
        host.move(guest, "--mode", mode, *FIT)
        guest.wait_beats(2)
    guest.verify()


def test_sixty_four_vcpus(host):
    """As many as there can be: all start by INIT/SIPI, stop, and move."""
    guest = host.run("mem=64M work=fill hb=200", mem="128M",
                     cpus=64).wait_ready()
    assert guest.vmm.status()["vcpus"] == 64
    host.move(guest, *FIT)
    guest.verify()


def test_while_the_guest_is_still_booting(host):
    """Memory that was never written is moved by not being moved."""
    guest = host.run("mem=200M work=dirty hb=50", mem="256M", cpus=2)
    host.move(guest, *FIT)
    guest.wait_ready()
    guest.verify()


def test_a_paused_guest_arrives_paused(host):
    guest = host.run(BUSY).wait_ready()
    host.vmmd("pause", guest.vmm.name)
    host.move(guest)
    assert guest.vmm.state() == "paused"
    host.vmmd("resume", guest.vmm.name)
    guest.verify()


@pytest.mark.parametrize("mode", MODES)
def test_configured_memory_is_not_touched(host, mode):
    """64 GiB configured and little used: small before, small after."""
    guest = host.run("mem=16M work=dirty hb=100", mem="64G").wait_ready()
    before = guest.vmm.status()
    assert before["memory_bytes"] == 64 * GIB
    assert before["resident_bytes"] < 64 * MIB
    if not SANITIZER:
        assert guest.vmm.rss_bytes() < before["resident_bytes"] + 32 * MIB
    host.move(guest, "--mode", mode, *FIT)
    guest.verify()
    after = guest.vmm.status()
    assert after["memory_bytes"] == 64 * GIB
    assert after["resident_bytes"] < before["resident_bytes"] + 16 * MIB


@pytest.mark.skipif(bool(SANITIZER), reason="needs gigabytes, and time")
def test_memory_above_the_32_bit_hole(host):
    """5 GiB configured; the guest's pages reach past 4 GiB on both sides."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < 12 * GIB:
        pytest.skip(f"wants 12 GiB of free memory, there are {free >> 30}")
    guest = host.run("mem=3100M work=sparse rate=2000 hb=200", mem="5G",
                     cpus=2)
    guest.wait_line("GUEST-READY", patience_s=300)
    extents = guest.stream.kinds("extent")
    assert any(extent["gpa"] >= 4 * GIB for extent in extents), extents
    for mode in MODES:
        host.move(guest, "--mode", mode, "--channels", 4, *FIT)
        guest.verify()


def test_memfd_memory(host):
    guest = host.run(BUSY, options=("--mem-backend", "memfd")).wait_ready()
    for mode in MODES:
        host.move(guest, "--mode", mode, *FIT)
        assert guest.vmm.status()["mem_backend"] == "memfd"
        guest.verify()


@pytest.fixture
def huge_pages():
    """128 pages of 2 MiB for the test; the old number is put back."""
    knob = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    if not os.access(knob, os.W_OK):
        pytest.skip(f"{knob} is not writable")
    old = knob.read_text()
    knob.write_text(f"{int(old) + 128}\n")
    try:
        if int(knob.read_text()) < int(old) + 128:
            pytest.skip("this host has no 256 MiB of huge pages to give")
        yield
    finally:
        knob.write_text(old)


def test_hugetlb_memory(host, huge_pages):
    guest = host.run(BUSY, options=("--mem-backend", "hugetlb")).wait_ready()
    host.move(guest, "--mode", "precopy", *FIT)
    assert guest.vmm.status()["mem_backend"] == "hugetlb"
    guest.verify()


def test_what_hugetlb_cannot_is_refused(host, huge_pages):
    """Pages of 2 MiB cannot come one by one: postcopy says so, nothing moves."""
    guest = host.run(BUSY, options=("--mem-backend", "hugetlb")).wait_ready()
    destination = host.receive()
    result = host.start_migrate(guest, destination.uri, "--mode",
                                "postcopy").wait()
    assert result.status == FAILED and "huge" in result.stderr, result
    guest.verify()


def test_cancel_in_precopy(host):
    guest = host.run(BUSY, cpus=2).wait_ready()
    destination = host.receive()
    # At 2 MiB/s it cannot be over before it is cancelled.
    move = host.start_migrate(guest, destination.uri, "--mode", "precopy",
                              "--max-bandwidth", 2 * MIB)
    guest.vmm.wait_phase("precopy")
    host.vmmd("cancel", guest.vmm.name)
    result = move.wait()
    assert result.status == FAILED and result.json["result"] == "cancelled"
    guest.verify()
    assert host.owners_running() == [guest.vmm.name]
    # Nothing of the attempt stands in the way of the next.
    host.move(guest, *FIT)
    guest.verify()


@pytest.mark.parametrize("channels", [1, 4])
def test_max_bandwidth_is_obeyed(host, channels):
    """Not a limit on time: bytes over the time they took, both measured.

    A quarter more is allowed for what is in the first burst.
    """
    limit = 16 * MIB
    guest = host.run("mem=48M work=fill hb=100", mem="80M").wait_ready()
    stats = host.move(guest, "--mode", "precopy", "--channels", channels,
                      "--max-bandwidth", limit)
    rate = stats["bytes_sent"] / (stats["precopy_ms"] / 1000)
    assert stats["bytes_sent"] > 48 * MIB
    assert rate < limit * 1.25, stats
    guest.verify()


def test_precopy_that_cannot_converge_goes_postcopy(host):
    """32 MiB rewritten all the time over a slow link: hybrid gives up on it."""
    guest = host.run(BUSY).wait_ready()
    stats = host.move(guest, "--mode", "hybrid", "--downtime-limit", 5,
                      "--max-bandwidth", 24 * MIB)
    assert stats["switchover"] == "postcopy", stats
    assert stats["faults"]["count"] > 0
    for part in "fault_request", "fault_wire", "fault_place":
        assert stats[part]["count"] == stats["faults"]["count"], stats
        assert stats[part]["max_us"] <= stats["faults"]["max_us"], stats
    assert len(stats["blocked_ms"]) == 1, stats
    # KVM may leave a vCPU's fault to a thread of the kernel's.
    assert stats["blocked_ms"][0] + stats["blocked_others_ms"] > 0, stats
    assert stats["pages_stale"] > 0 and stats["pages_duplicate"] == 0, stats
    guest.verify()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_what_is_written_before_it_was_sent_is_sent_later(host, tracker):
    """Over a slow link a round takes seconds. None of what it left is lost.

    Most pages that are written meanwhile are written once: nobody writes them again,
    and thereby has them sent after all.
    """
    guest = host.run("mem=64M work=sparse rate=500 hb=100", mem="96M",
                     options=wanted_by(tracker, host)).wait_ready()
    stats = host.move(guest, "--mode", "precopy", "--tracker", tracker,
                      "--max-bandwidth", 8 * MIB, *FIT)
    assert stats["pages_deferred"] > 0, stats
    guest.verify()


def may_be_urgent():
    """Is a real-time thread to be had here? Asked by a process of its own."""
    return subprocess.run([sys.executable, "-c", "import os; os.sched_setscheduler("
                           "0, os.SCHED_RR, os.sched_param(1))"],
                          stderr=subprocess.DEVNULL).returncode == 0


def urgent_receivers(vmm):
    """How many of the threads that receive pages go ahead of all others."""
    policies = [os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK
                for task in Path(f"/proc/{vmm.pid}/task").iterdir()
                if (task / "comm").read_text() == "channel\n"]
    return policies.count(os.SCHED_RR)


def test_receivers_are_urgent_only_while_the_guest_stands_still(host):
    """In bulk work they would keep everybody else from the CPUs; the one for
    answers to faults has none."""
    if not may_be_urgent():
        pytest.skip("no real-time threads to be had here")
    guest = host.run("mem=64M work=fill hb=100", mem="96M",
                     env={"VMMD_FAULT": "stopped:stall"}).wait_ready()
    destination = host.receive()
    moving = host.start_migrate(guest, destination.uri, "--channels", 2,
                                "--max-bandwidth", 2 * MIB, *FIT)
    wait_until(lambda: urgent_receivers(destination) == 1, "one for answers")
    for _ in range(20):
        time.sleep(0.02)
        assert urgent_receivers(destination) == 1
    host.vmmd("adjust", guest.vmm.name, "--max-bandwidth", 0)
    wait_until(lambda: urgent_receivers(destination) == 3, "a pause")
    assert moving.wait().status == DONE
    guest.vmm.wait_exit()
    guest.moved_to(destination)
    guest.verify()


def threads(vmm, prefix):
    """How many threads of that process have a name that begins so."""
    names = []
    for task in Path(f"/proc/{vmm.pid}/task").iterdir():
        try:
            names.append((task / "comm").read_text())
        except OSError:  # it has just ended
            continue
    return sum(name.startswith(prefix) for name in names)


@pytest.mark.parametrize("cpus,channels,lanes", [(1, 2, 1), (2, 2, 2), (4, 3, 3)])
def test_faults_have_lanes_of_their_own(host, cpus, channels, lanes):
    """One connection each for as many vCPUs as there are channels for, with a
    thread at either end; and a userfaultfd for each vCPU."""
    guest = host.run("mem=32M work=fill hb=100", mem="64M",
                     cpus=cpus).wait_ready()
    destination = host.receive()
    moving = host.start_migrate(guest, destination.uri, "--mode", "postcopy",
                                "--channels", channels,
                                "--max-bandwidth", 4 * MIB)
    destination.wait_phase("postcopy")
    source = guest.vmm
    wait_until(lambda: threads(source, "fault-answer") == lanes, "answers")
    assert threads(destination, "channel") == channels + lanes
    assert threads(destination, "fault/") == cpus
    guest.moved_to(destination)
    host.vmmd("adjust", source.name, "--max-bandwidth", 0)
    assert moving.wait().status == DONE
    stats = moving.wait().json
    assert stats["faults"]["count"] > 0 and stats["pages_stale"] == 0, stats
    assert len(stats["blocked_ms"]) == cpus, stats
    assert sum(stats["blocked_ms"]) + stats["blocked_others_ms"] > 0, stats
    source.wait_exit()
    guest.verify()


def test_zero_and_unpopulated_pages_cost_nothing(host):
    guest = host.run("mem=32M work=fill zero=2 hb=100", mem="1G").wait_ready()
    stats = host.move(guest, "--mode", "precopy", "--tracker", "manual")
    assert stats["pages_skipped"] * PAGE_BYTES > 900 * MIB
    assert stats["pages_zero"] * PAGE_BYTES > 8 * MIB
    assert stats["bytes_sent"] < 40 * MIB
    guest.verify()


def huge_bytes(vmm):
    rollup = Path(f"/proc/{vmm.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in rollup
               if line.startswith("AnonHugePages:"))


def wants_huge_pages_on_request():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("this host has no transparent huge pages, or for all")


def test_what_a_guest_fills_becomes_huge(host):
    """Without a move, and costs no more memory; what is sparse stays in small pages."""
    wants_huge_pages_on_request()
    if tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 7):
        pytest.skip("this kernel cannot say cheaply what is huge already")
    guest = host.run("mem=32M work=fill hb=100", mem="1G").wait_ready()
    before = guest.vmm.status()["resident_bytes"]
    wait_until(lambda: huge_bytes(guest.vmm) >= 28 * MIB, "huge pages")
    guest.verify()
    assert guest.vmm.status()["resident_bytes"] < before * 1.05
    host.move(guest, "--mode", "precopy")
    guest.verify()


def test_what_was_whole_arrives_in_huge_pages(host):
    """And costs no more memory for it."""
    wants_huge_pages_on_request()
    guest = host.run("mem=32M work=fill hb=100").wait_ready()
    before = guest.vmm.status()["resident_bytes"]
    host.move(guest, "--mode", "precopy")
    guest.verify()
    assert huge_bytes(guest.vmm) > 0
    assert guest.vmm.status()["resident_bytes"] < before * 1.05


def test_what_arrived_in_pieces_becomes_huge(host):
    """While the guest works on, and costs no more memory either."""
    wants_huge_pages_on_request()
    guest = host.run("mem=32M work=dirty hb=100").wait_ready()
    before = guest.vmm.status()["resident_bytes"]
    host.move(guest, "--mode", "postcopy")
    wait_until(lambda: huge_bytes(guest.vmm) >= 28 * MIB, "huge pages")
    guest.verify()
    assert guest.vmm.status()["resident_bytes"] < before * 1.05


@pytest.mark.parametrize("mode", MODES)
def test_it_moves_on_while_pages_become_huge(host, mode):
    guest = host.run("mem=128M work=dirty rate=2000 hb=100",
                     mem="192M").wait_ready()
    for _ in range(3):
        host.move(guest, "--mode", "postcopy")
        host.move(guest, "--mode", mode, *FIT)
    directory, _ = host.snapshot(guest)
    guest.verify()
    restored = host.restore(directory, lazy=True)
    host.snapshot(restored)
    restored.verify()


@pytest.mark.parametrize("mode", MODES)
def test_downtime_agrees_with_what_the_guest_felt(host, mode):
    """The guest cannot have felt a shorter stop than the one that was measured.

    vmmd's figure counts from the first vCPU told to stop to the word that all
    run, so the guest stands still a little less: by at most stop_ms, start_ms
    and commit_ms, the way of the token and of that word. What the guest felt
    beyond it is the host's scheduling and, in postcopy, faults; it is printed,
    not judged.
    """
    guest = host.run("mem=32M work=dirty rate=2000 halt=0 hb=100").wait_ready()
    since = guest.forget_stalls()
    stats = host.move(guest, "--mode", mode, *FIT)
    felt = guest.felt_ms(since)
    parts = stats["downtime"]
    print(f"{mode}: vmmd {stats['downtime_ms']} ms {parts}, guest {felt} ms")
    assert abs(sum(parts.values()) - stats["downtime_ms"]) < 1
    slack = parts["stop_ms"] + parts["commit_ms"] + parts["start_ms"] + 1
    assert felt >= stats["downtime_ms"] - slack


def timed_beat(guest):
    """A beat, and the host's times between which the guest made it."""
    begin_s = time.monotonic()
    guest.wait_beats(2)
    return begin_s, guest.check()[-1], time.monotonic()


@pytest.mark.parametrize("mode", MODES)
def test_the_clock_goes_on(host, mode):
    """kvmclock never jumps back and counts the time of the move."""
    guest = host.run("mem=16M work=dirty rate=1000 hb=100").wait_ready()
    first_begin_s, first, first_end_s = timed_beat(guest)
    host.move(guest, "--mode", mode, *FIT)
    last_begin_s, last, last_end_s = timed_beat(guest)
    guest_ms = last["t_ms"] - first["t_ms"]
    least_ms = (last_begin_s - first_end_s) * 1000
    most_ms = (last_end_s - first_begin_s) * 1000
    print(f"{mode}: guest {guest_ms} ms, host {least_ms:.0f} to {most_ms:.0f} ms")
    slack_ms = 50 + most_ms * 0.02
    assert least_ms - slack_ms <= guest_ms <= most_ms + slack_ms


def test_power_off_in_the_middle_of_a_move(host):
    """Whatever the moment, it happens once, and nothing is left waiting."""
    guest = host.run("mem=32M work=dirty hb=50 time=1").wait_ready()
    source, destination = guest.vmm, host.receive()
    result = host.start_migrate(guest, destination.uri, "--max-bandwidth",
                                16 * MIB).wait()
    assert result.status in (DONE, FAILED), result
    assert source.wait_exit() == DONE
    guest.moved_to(destination)
    if result.status == DONE:
        assert destination.wait_exit() == DONE
    guest.check()
    assert len(guest.stream.kinds("GUEST-DONE")) == 1
