"""A Linux guest that is busy with its memory, its disk and its network is moved
from host to host and back, and notices nothing. In the lab: needs hardware
virtualisation, if only an emulated one."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "linux"))
from linux import LinuxGuest, guest_files, root_disk  # noqa: E402  (the path)
from twohosts import ADDRESS, GUEST_ADDRESS, OTHER, TAP, TwoHosts  # noqa: E402
from vmmd import DONE, MIB, PAGE_BYTES, wait_until  # noqa: E402

KIND = os.environ.get("VMMD_LINUX_KIND", "debian-6.12")
MODES = ("precopy", "postcopy", "hybrid")
# In each mode; the soak has 20.
MOVES = int(os.environ.get("VMMD_LINUX_MOVES", "3"))
MEM_MIB, STRESSED_MIB, FILE_MIB = 192, 32, 16
NR_CONNECTIONS = 3
DIRECT_MIB = 12
PORT, CLOCK_PORT = 7000, 7001
WORST_CLOCK_S = 0.05
# The lab's cores are shared by both hosts and emulated: precopy has to be given
# a pause that it can keep.
FIT = ("--downtime-limit", "1000")


@pytest.fixture
def hosts():
    # O_DIRECT wants a file system on a disk: the lab's.
    directory = Path(tempfile.mkdtemp(dir="/scratch"))
    hosts = TwoHosts(directory)
    try:
        yield hosts
    finally:
        try:
            hosts.close()
        finally:
            shutil.rmtree(directory)


class BusyGuest(LinuxGuest):
    """With a root disk, a network, and on request much to do."""

    @classmethod
    def start(cls, hosts, options=()):
        disk = root_disk(KIND, hosts.directory)
        with hosts.inside("one"):
            guest = cls.boot(hosts, KIND, cpus=2, mem=f"{MEM_MIB}M",
                             cmdline="root=/dev/vda rw",
                             initrd=KIND.startswith("debian"),
                             options=["--disk", f"path={disk},direct",
                                      "--net", f"tap={TAP}", *options])
        guest.hosts, guest.where, guest.loads = hosts, "one", []
        guest.run(f"ip address add {GUEST_ADDRESS}/24 dev eth0 && "
                  f"ip link set eth0 up")
        return guest

    def load(self, kind, name, *arguments):
        """Work of this kind in the background."""
        self.run(f"load {kind} {name} {' '.join(map(str, arguments))} "
                 f">/dev/null 2>&1 &")
        self.loads.append(name)

    def work(self):
        """With memory and disk."""
        self.load("mem", "memory", STRESSED_MIB)
        self.run("mkdir /files")
        self.load("disk", "files", "/files", FILE_MIB)
        self.wait_progress()

    def talk(self):
        self.run(f"load clock clock {CLOCK_PORT} >/dev/null 2>&1 &")
        self.run(f"load serve listener {PORT} >/dev/null 2>&1 &")
        for n in range(NR_CONNECTIONS):
            wait_until(lambda n=n: self.connect(n), "a connection")
        self.wait_progress()

    def connect(self, n):
        """A connection from the peer that stays."""
        program = guest_files(KIND) / "load"
        process = self.hosts.start_beside(
            "peer", program, "talk", f"talk{n}", GUEST_ADDRESS, PORT,
            env={"LOAD_DIR": str(self.hosts.directory)})
        time.sleep(0.5)
        if process.poll() is None:
            return True
        self.hosts.beside.remove(process)
        return False

    def reports(self):
        """What the work in the guest and its peer have to say, by name."""
        # Some have not said anything yet.
        text = self.run("cd /tmp && grep -s . " + " ".join(self.loads) +
                        " /dev/null || true")
        reports = dict.fromkeys(self.loads, "")
        reports.update(line.split(":", 1) for line in text.splitlines())
        for talk in self.hosts.directory.glob("talk*"):
            reports[talk.name] = talk.read_text()
        return reports

    def rounds(self):
        """How many rounds of each were right; none may ever be wrong."""
        rounds = {}
        for name, text in self.reports().items():
            assert "WRONG" not in text, f"{name}: {text}"
            match = re.match(r"rounds=(\d+)", text)
            rounds[name] = int(match[1]) if match else 0
        return rounds

    def wait_progress(self):
        """Each has done more than when this was called."""
        before = self.rounds()

        def look():
            now = self.rounds()
            return all(now[name] > before[name] for name in before)
        wait_until(look, lambda: f"progress since {before}: {self.reports()}",
                   300)

    def move(self, *options):
        source, to = self.vmm, OTHER[self.where]
        with self.hosts.inside(to):
            destination = self.hosts.receive(address=ADDRESS[to])
        with self.hosts.inside(self.where):
            result = self.hosts.start_migrate(self, destination.uri, *FIT,
                                              *options).wait(300)
        assert result.status == DONE, (
            f"{result}source: {source.errors()}"
            f"destination: {destination.errors()}")
        assert source.wait_exit() == DONE, source.errors()
        self.moved_to(destination)
        self.where = to
        return result.json

    def clock_offset_s(self):
        """By how much its wall clock is ahead of ours, and how sure that is. In the
        lab a guest's clock is late from its boot on: see clock_zero_s()."""
        text = self.hosts.run_beside(
            "peer", guest_files(KIND) / "load", "offset", "offset",
            GUEST_ADDRESS, CLOCK_PORT, env={"LOAD_DIR": str(self.hosts.directory)})
        return map(float, text.split())


@pytest.mark.parametrize("mode", MODES)
def test_moves_under_load(hosts, mode):
    guest = BusyGuest.start(hosts)
    guest.work()
    guest.talk()
    start_s, start_doubt_s = guest.clock_offset_s()
    for n in range(MOVES):
        report = guest.move("--mode", mode)
        guest.wait_progress()
        print(f"{mode} {n + 1}: {report['total_ms']:.0f} ms, downtime "
              f"{report['downtime_ms']:.1f} ms, {guest.rounds()}")
        offset_s, doubt_s = guest.clock_offset_s()
        print(f"clock: {offset_s - start_s:+.3f} s, within {doubt_s:.3f} s")
        assert abs(offset_s - start_s) <= WORST_CLOCK_S + start_doubt_s + doubt_s
    guest.check_log()
    guest.power_off()


def test_a_reset_after_a_move(hosts):
    guest = BusyGuest.start(hosts)
    guest.move("--mode", "postcopy")
    guest.tell("reboot -f")
    guest.wait_up()
    guest.run("true")
    guest.check_log()
    guest.move()
    guest.power_off()


def wait_buffers_missing(hosts, guest, image):
    """Disk and memory of "load direct" are prepared; then the guest goes to host
    two, and all of its pages are still on host one, whence they come slowly."""
    guest.load("direct", "direct", "/dev/vdb", DIRECT_MIB)
    wait_until(lambda: "ready" in guest.run("ls /tmp"), "the buffers", 300)
    with hosts.inside("two"):
        destination = hosts.receive(address=ADDRESS["two"])
    with hosts.inside("one"):
        moving = hosts.start_migrate(guest, destination.uri, "--mode",
                                     "postcopy", "--max-bandwidth", 2 * MIB)
    destination.wait_phase("postcopy")
    guest.moved_to(destination)
    return moving


@pytest.fixture
def image(hosts):
    image = hosts.directory / "data.img"
    with open(image, "wb") as file:
        file.truncate(DIRECT_MIB * MIB)
    return image


def test_direct_io_into_missing_memory(hosts, image):
    """Every page is missing at the switch, the virtqueues' among them, and stays
    so for long: only what is asked for comes quickly. The guest's disk works."""
    guest = BusyGuest.start(hosts, ["--disk", f"path={image},direct"])
    moving = wait_buffers_missing(hosts, guest, image)
    guest.run("touch /tmp/go")
    wait_until(lambda: "WRONG" in guest.run("cat /tmp/direct") or
               "done" in guest.run("ls /tmp"), "its end", 600)
    assert "WRONG" not in guest.run("cat /tmp/direct")
    assert moving.running(), "all pages were there before the disk was read"
    result = moving.wait(600)
    assert result.status == DONE, result
    guest.check_log()
    guest.power_off()


def test_stopped_while_a_write_waits_for_its_pages(hosts, image):
    """They never come, and nothing else reaches the disk in their stead."""
    guest = BusyGuest.start(hosts, ["--disk", f"path={image},direct"])
    source = guest.vmm
    moving = wait_buffers_missing(hosts, guest, image)
    guest.tell("touch /tmp/go")
    # The last third is what is written; the reads before it take a while.
    first = 2 * DIRECT_MIB * MIB // 3
    before = image.read_bytes()[first:]
    wait_until(lambda: image.read_bytes()[first:] != before, "a write", 300)
    guest.vmm.stop(force=True)
    hosts.vmmd("stop", source.name, "--force")
    assert moving.wait().status != DONE
    data = image.read_bytes()
    assert not any(data[at:at + PAGE_BYTES] == bytes(PAGE_BYTES)
                   for at in range(0, len(data), PAGE_BYTES))


# -- snapshots


def fsck(image):
    """Its journal replays, and there is nothing else to mend."""
    replay = subprocess.run(["e2fsck", "-p", image], text=True,
                            stdout=subprocess.PIPE)
    assert replay.returncode in (0, 1), replay.stdout
    check = subprocess.run(["e2fsck", "-f", "-n", image], text=True,
                           stdout=subprocess.PIPE)
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("lazy", [False, True])
def test_live_snapshot_of_a_busy_guest(hosts, lazy):
    """Memory and disk of one instant: the guest that is restored goes on where it
    was, verifying all that it has, while the first one goes on too."""
    guest = BusyGuest.start(hosts)
    guest.work()
    directory, _ = hosts.snapshot(guest, None, "--disks")
    guest.wait_progress()
    guest.power_off()

    copies = [hosts.directory / f"copy{n}.img" for n in range(2)]
    for copy in copies:
        shutil.copy(directory / "disk0.raw", copy)
    fsck(copies[0])
    with hosts.inside("two"):
        vmm = hosts.restore(directory, lazy=lazy,
                            options=["--disk", f"path={copies[1]},direct",
                                     "--net", f"tap={TAP}"]).vmm
    guest.moved_to(vmm)
    guest.wait_progress()
    guest.check_log()
    assert " 0% packet loss" in guest.run(f"ping -c 3 {ADDRESS['peer']}")
    guest.run("sync")
    guest.power_off()
    fsck(copies[1])
