"""Linux's own drivers with the virtio devices: disks, network, console, entropy,
sockets, balloon. In the lab: needs hardware virtualisation, if only an emulated
one."""

import hashlib
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import tty
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "linux"))
from linux import LinuxGuest, guest_files, root_disk  # noqa: E402  (the path)
from vmmd import MIB, PATIENCE_S, Host, wait_until  # noqa: E402

KINDS = os.environ.get("VMMD_LINUX_KINDS", "debian-6.12").split()
CPUS = 2
TAP = "vmmdtap0"
MAC = "52:54:00:12:34:56"
HOST_ADDRESS, GUEST_ADDRESS = "10.111.0.1", "10.111.0.2"
MTU = 1500
CID = 77
PAYLOAD = os.urandom(4 * MIB)
TRACING = Path("/sys/kernel/tracing")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def host_run(*command):
    return subprocess.run(command, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(
            hashlib, "file_digest") else sha256(file.read())


class World:
    """A guest with every device, the files and the tap behind them."""

    def __init__(self, directory):
        self.directory = directory
        self.host = Host(directory)
        self.disk = None
        self.read_only = directory / "read-only.img"
        self.vsock = directory / "vsock"
        host_run("ip", "tuntap", "add", TAP, "mode", "tap")

    def boot(self, kind):
        host_run("ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", TAP)
        host_run("ip", "link", "set", TAP, "up")
        self.disk = root_disk(kind, self.directory)
        self.read_only.write_bytes(PAYLOAD)
        self.guest = LinuxGuest.boot(
            self.host, kind, cpus=CPUS, cmdline="root=/dev/vda rw",
            # The lab's own kernel has all that it takes to get to the disk.
            initrd=kind.startswith("debian"),
            options=["--disk", f"path={self.disk},direct",
                     "--disk", f"path={self.read_only},ro",
                     "--net", f"tap={TAP},mac={MAC}",
                     "--vsock", f"cid={CID},path={self.vsock}",
                     "--console", "pty", "--rng", "--balloon"])
        self.guest.run(f"ip address add {GUEST_ADDRESS}/24 dev eth0 && "
                       f"ip link set eth0 up")

    def close(self):
        try:
            self.host.close()
        finally:
            host_run("ip", "link", "delete", TAP)
            shutil.rmtree(self.directory)


@pytest.fixture(scope="module", params=KINDS)
def world(request):
    """One guest of each kind for all tests: they leave it as they found it."""
    guest_files(request.param)
    # O_DIRECT and holes want a file system on a disk: the lab's.
    world = World(Path(tempfile.mkdtemp(dir="/scratch")))
    try:
        world.boot(request.param)
        yield world
    finally:
        world.close()


@pytest.fixture
def guest(world):
    yield world.guest
    world.guest.check_log()


# -- disks


def test_root_is_the_disk(guest):
    assert guest.run("grep ' / ' /proc/mounts").startswith("/dev/")
    assert "ext4" in guest.run("grep ' / ' /proc/mounts | tail -n 1")
    assert guest.run("cat /sys/block/vda/queue/write_cache") == "write back\n"


def test_a_queue_for_each_cpu(guest):
    for disk in ("vda", "vdb"):
        assert guest.run(f"ls /sys/block/{disk}/mq").split() == [
            str(n) for n in range(CPUS)]
    # And they are all used.
    for cpu in range(CPUS):
        guest.run(f"taskset {1 << cpu:x} dd if=/dev/vda of=/dev/null bs=4k "
                  f"count=1 iflag=direct")
    rings = re.findall(r"^ *\d+:((?: +\d+){%d}) .*virtio0-req" % CPUS,
                       guest.run("cat /proc/interrupts"), re.M)
    assert len(rings) == CPUS
    assert all(sum(map(int, ring.split())) > 0 for ring in rings), rings


@pytest.mark.parametrize("block", ["512", "4k", "100k", "1M"])
def test_direct_writes_are_read_back(guest, block):
    bytes_of = {"512": 512, "4k": 4096, "100k": 102400, "1M": MIB}[block]
    count = max(1, min(256, 4 * MIB // bytes_of))
    guest.run(f"dd if=/dev/urandom of=/tmp/data bs={block} count={count} &&"
              f"dd if=/tmp/data of=/data bs={block} oflag=direct && "
              f"echo 3 >/proc/sys/vm/drop_caches")
    there = guest.run("sha256sum </tmp/data")
    assert guest.run("sha256sum </data") == there
    assert guest.run(f"dd if=/data bs={block} iflag=direct 2>/dev/null | "
                     f"sha256sum") == there
    guest.run("rm /tmp/data /data")


def test_many_at_a_time(guest):
    """Files written by several, with both queues deep, hold what they should."""
    guest.run("for n in 1 2 3 4 5 6; do yes $n | head -c 3000000 >/m$n & done; "
              "wait; sync; echo 3 >/proc/sys/vm/drop_caches")
    sums = guest.run("for n in 1 2 3 4 5 6; do sha256sum </m$n & done; wait")
    want = {sha256((f"{n}\n" * 1500000).encode()) for n in range(1, 7)}
    assert {line.split()[0] for line in sums.splitlines()} == want
    guest.run("rm /m?")


def test_read_only_disk(world, guest):
    assert guest.run("cat /sys/block/vdb/ro") == "1\n"
    assert sha256(PAYLOAD) in guest.run("sha256sum </dev/vdb")
    guest.fails("dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct")
    assert file_sha256(world.read_only) == sha256(PAYLOAD)


def test_flush_reaches_the_host(guest):
    """What sync promises the guest, vmmd has the host's kernel promise."""
    event = TRACING / "events/io_uring/io_uring_submit_req"
    guest.run("echo 1 >/sync-me")
    (TRACING / "trace").write_text("")
    (event / "enable").write_text("1")
    try:
        guest.run("sync")
        trace = (TRACING / "trace").read_text()
    finally:
        (event / "enable").write_text("0")
    assert re.search(r"virtio-blk0.*FSYNC", trace), trace[-2000:]
    guest.run("rm /sync-me")


def test_discard_makes_holes(world, guest):
    def used_bytes():
        return os.stat(world.disk).st_blocks * 512

    guest.run("dd if=/dev/urandom of=/fill bs=1M count=16 && sync")
    full = used_bytes()
    guest.run("rm /fill && sync")
    assert "bytes trimmed" in guest.run("fstrim -v /")
    assert used_bytes() <= full - 15 * MIB


# -- network


class Sniffer(threading.Thread):
    """How long the frames on the tap are that have no checksum yet."""

    def __init__(self):
        super().__init__()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                    socket.htons(3))  # ETH_P_ALL
        self.socket.bind((TAP, 0))
        self.socket.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        self.socket.settimeout(0.1)
        self.longest = {"from guest": 0, "to guest": 0}
        self.done = False

    def run(self):
        while not self.done:
            try:
                _, ancillary, _, address = self.socket.recvmsg(64, 64)
            except TimeoutError:
                continue
            aux = ancillary[0][2]  # struct tpacket_auxdata
            status = int.from_bytes(aux[0:4], "little")
            length = int.from_bytes(aux[4:8], "little")
            way = "to guest" if address[2] == 4 else "from guest"
            if status & 8:  # TP_STATUS_CSUMNOTREADY
                self.longest[way] = max(self.longest[way], length)
        self.socket.close()

    def stop(self):
        self.done = True
        self.join()


@pytest.fixture
def sniffer():
    sniffer = Sniffer()
    sniffer.start()
    yield sniffer
    sniffer.stop()


@pytest.fixture
def listener():
    with socket.create_server((HOST_ADDRESS, 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


def receive(connection, nr_bytes=None):
    """So many bytes, or all until the end."""
    connection.settimeout(PATIENCE_S)
    data = b""
    while len(data) != nr_bytes and (chunk := connection.recv(MIB)):
        data += chunk
    return data


def test_ping(guest):
    assert guest.run("cat /sys/class/net/eth0/address") == f"{MAC}\n"
    assert " 0% packet loss" in guest.run(f"ping -c 3 {HOST_ADDRESS}")
    assert " 0% packet loss" in host_run(
        "busybox", "ping", "-c", "3", GUEST_ADDRESS)
    assert " 0% packet loss" in guest.run(f"ping -c 3 -s 40000 {HOST_ADDRESS}")


def test_tcp_to_the_guest(guest, listener, sniffer):
    """In segments that only a card with offloads takes."""
    port = listener.getsockname()[1]
    number = guest.tell(f"nc {HOST_ADDRESS} {port} </dev/null | sha256sum")
    connection, _ = listener.accept()
    with connection:
        connection.sendall(PAYLOAD)
    assert sha256(PAYLOAD) in guest.result(number)
    assert sniffer.longest["to guest"] > 2 * MTU


def test_tcp_from_the_guest(guest, listener, sniffer):
    port = listener.getsockname()[1]
    number = guest.tell(f"cat /dev/vdb | nc {HOST_ADDRESS} {port}")
    connection, _ = listener.accept()
    with connection:
        assert sha256(receive(connection)) == sha256(PAYLOAD)
    guest.result(number)
    assert sniffer.longest["from guest"] > 2 * MTU


def test_tcp_both_ways_at_once(guest, listener):
    """The guest sends back what it is sent."""
    port = listener.getsockname()[1]
    number = guest.tell(f"mkfifo /tmp/echo; "
                        f"nc {HOST_ADDRESS} {port} </tmp/echo | cat >/tmp/echo; "
                        f"rm /tmp/echo")
    connection, _ = listener.accept()
    with connection:
        sender = threading.Thread(target=connection.sendall, args=(PAYLOAD,))
        sender.start()
        # nc goes when we end our half, whatever it still has to send.
        assert sha256(receive(connection, len(PAYLOAD))) == sha256(PAYLOAD)
        sender.join()
    guest.result(number)


# -- console, entropy


def read_line(fd):
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, line
        line += os.read(fd, 4096)
    return line


def test_console_both_ways(world, guest):
    pty = os.open(world.guest.vmm.status()["console_pty"],
                  os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(pty)
        # Opened once: at its last close a terminal forgets how it was set.
        number = guest.tell("{ stty raw -echo; echo ready; read -r line; "
                            "echo you said $line; } </dev/hvc0 >/dev/hvc0")
        assert read_line(pty) == b"ready\n"
        os.write(pty, b"good morning\n")
        assert read_line(pty) == b"you said good morning\n"
        guest.result(number)
    finally:
        os.close(pty)


def test_entropy(guest):
    assert guest.run("cat /sys/class/misc/hw_random/rng_current"
                     ).startswith("virtio_rng")
    draws = [guest.run("dd if=/dev/hwrng bs=4k count=4 iflag=fullblock "
                       "2>/dev/null | sha256sum") for _ in range(2)]
    assert draws[0] != draws[1]
    sizes = guest.run("dd if=/dev/hwrng bs=4k count=4 iflag=fullblock "
                      "2>/dev/null | gzip | wc -c")
    assert int(sizes) > 4 * 4096


# -- sockets


def vsock_dial(world, port):
    """A connection to the guest's port, which somebody will listen at."""
    def dial():
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE_S)
        connection.connect(str(world.vsock))
        connection.sendall(f"CONNECT {port}\n".encode())
        answer = connection.recv(64)
        if re.fullmatch(rb"OK \d+\n", answer):
            return connection
        assert answer == b""
        connection.close()
        return None
    return wait_until(dial, "a listener in the guest")


def test_vsock_to_the_guest(world, guest):
    number = guest.tell("vsock listen 5000 sha256sum")
    with vsock_dial(world, 5000) as connection:
        connection.sendall(PAYLOAD)
        connection.shutdown(socket.SHUT_WR)
        assert sha256(PAYLOAD) in receive(connection).decode()
    guest.result(number)


def test_vsock_from_the_guest(world, guest):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{world.vsock}_6000")
        server.listen()
        server.settimeout(PATIENCE_S)
        number = guest.tell("vsock connect 2 6000 cat /dev/vdb")
        connection, _ = server.accept()
        with connection:
            assert sha256(receive(connection)) == sha256(PAYLOAD)
    guest.result(number)
    os.unlink(f"{world.vsock}_6000")


def test_vsock_echo(world, guest):
    """Both ways at once, more than either side has room for."""
    number = guest.tell("vsock listen 5001 cat")
    with vsock_dial(world, 5001) as connection:
        sender = threading.Thread(
            target=lambda: (connection.sendall(PAYLOAD),
                            connection.shutdown(socket.SHUT_WR)))
        sender.start()
        assert sha256(receive(connection)) == sha256(PAYLOAD)
        sender.join()
    guest.result(number)


def test_vsock_nobody_there(world, guest):
    assert "onnection" in guest.fails("vsock connect 2 6001 true")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(world.vsock))
        connection.sendall(b"CONNECT 5002\n")
        assert connection.recv(64) == b""


# -- memory


def balloon_bytes(world):
    for device in world.guest.vmm.status()["devices"]:
        if device["type"] == "balloon":
            return device["actual_bytes"]
    raise AssertionError("no balloon in status")


def set_balloon(world, mib):
    world.host.vmmd("balloon", world.guest.vmm.name, f"{mib}M")
    wait_until(lambda: balloon_bytes(world) == mib * MIB,
               lambda: f"balloon of {mib} MiB: {balloon_bytes(world)}")


def fill_memory(guest, mib):
    """With as many copies of the read-only disk as it takes; returns a sum."""
    copies = mib * MIB // len(PAYLOAD)
    guest.run(f"for n in $(seq {copies}); do cat /dev/vdb; done >/tmp/fill")
    return hashlib.md5(PAYLOAD * copies).hexdigest()


def free_kib(guest):
    return int(guest.run("sed -n 's/^MemFree: *\\([0-9]*\\) kB/\\1/p' "
                         "/proc/meminfo"))


def test_freed_memory_is_given_back(world, guest):
    """Without being asked: free page reporting."""
    before = guest.vmm.rss_bytes()
    fill_memory(guest, 128)
    full = guest.vmm.rss_bytes()
    assert full >= before + 32 * MIB
    guest.run("rm /tmp/fill")
    # All that is free in pieces of 2 MiB.
    wait_until(lambda: guest.vmm.rss_bytes() <= full - 64 * MIB,
               lambda: f"pages reported: RSS {before}, {full}, "
                       f"{guest.vmm.rss_bytes()}")


def test_balloon(world, guest):
    had = free_kib(guest)
    set_balloon(world, 200)
    assert free_kib(guest) <= had - 150 * 1024
    set_balloon(world, 50)
    set_balloon(world, 0)
    # Pages count as in use while they are being reported, hence the wait.
    wait_until(lambda: free_kib(guest) >= had - 20 * 1024,
               lambda: f"{had} kB free again: {free_kib(guest)}")
    # What it got back is memory again.
    md5 = fill_memory(guest, 200)
    assert md5 in guest.run("md5sum </tmp/fill")
    guest.run("rm /tmp/fill")


# -- and at the end, for it ends the guest


def test_what_is_left_on_the_disk(world):
    """What the guest wrote and synced is on the host, in a sound file system."""
    guest = world.guest
    guest.run("dd if=/dev/vdb of=/kept bs=1M && sync")
    guest.check_log()
    guest.run("mount -o remount,ro /")
    guest.power_off()
    host_run("e2fsck", "-fn", str(world.disk))
    kept = world.directory / "kept"
    host_run("debugfs", "-R", f"dump /kept {kept}", str(world.disk))
    assert file_sha256(kept) == sha256(PAYLOAD)
