"""Bad input gives one clear line and a non-zero exit, and loses nothing.

Each case is one thing that a person, a file, a peer or a host may do wrong. What
they have in common is in complains(): an exit by itself (no signal), with a
complaint on stderr that names what is wrong. The host fixture sees that nothing
is left behind; where a guest is concerned it verifies afterwards.
"""

import ctypes
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from proxy import Proxy
from vmmd import (ATTENTION, DONE, FAILED, FIT, GUEST_ELF, PATIENCE_S, SANITIZER,
                  USAGE, Command, wait_until)

BUSY = "mem=8M work=dirty hb=50"
LINE_MAX = 600  # what still is a line


def complains(result, *words, status=(FAILED, USAGE)):
    assert result.status in status, result
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert lines, f"no complaint: {result}"
    assert all(line.startswith("vmmd") for line in lines), result
    assert all(len(line) < LINE_MAX for line in lines), result
    for word in words:
        assert word.lower() in result.stderr.lower(), (word, result)


def refused_run(host, *options, kernel=GUEST_ELF, env=None):
    return host.vmmd("run", "--name", "x", "--kernel", kernel, "--serial",
                     "null", *options, check=False, env=env)


# -- kernels


def elf():
    return bytearray(Path(GUEST_ELF).read_bytes())


def is64(data):
    return data[4] == 2


def patched(offset64, offset32, format64, format32, value):
    """The test guest with one field of its ELF header changed."""
    data = elf()
    offset, form = ((offset64, format64) if is64(data)
                    else (offset32, format32))
    struct.pack_into(form, data, offset, value)
    return bytes(data)


def first_segment_field(name, value):
    """The test guest with a field changed in all of its LOAD segments."""
    data = elf()
    wide = is64(data)
    offset = struct.unpack_from("<Q" if wide else "<I", data,
                                32 if wide else 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    fields = ({"offset": 8, "paddr": 24, "filesz": 32, "memsz": 40} if wide
              else {"offset": 4, "paddr": 12, "filesz": 16, "memsz": 20})
    for i in range(count):
        at = offset + i * size
        if struct.unpack_from("<I", data, at)[0] == 1:
            struct.pack_into("<Q" if wide else "<I", data, at + fields[name],
                             value if wide else value & 0xffffffff)
    return bytes(data)


def bzimage(setup_sects, version=0x020f, payload=b"", **fields):
    """A boot sector with a Linux header, and nothing behind it."""
    data = bytearray(1024)
    data[0x1f1] = setup_sects
    struct.pack_into("<H", data, 0x1fe, 0xaa55)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, version)
    data[0x211] = 1  # LOADED_HIGH
    struct.pack_into("<H", data, 0x236, 3)  # has a 64-bit entry
    for offset, value in fields.items():
        struct.pack_into("<I", data, int(offset[1:], 16), value)
    return bytes(data) + payload


KERNELS = {
    "empty": lambda: b"",
    "one byte": lambda: b"\x7f",
    "text": lambda: b"#!/bin/sh\nexit 0\n" * 100,
    "noise": lambda: random.Random(1).randbytes(100000),
    "zeros": lambda: bytes(1 << 20),
    "ELF cut in its header": lambda: bytes(elf()[:40]),
    "ELF cut in its segments": lambda: bytes(elf()[:4500]),
    "ELF of another machine": lambda: patched(18, 18, "<H", "<H", 40),
    "ELF with segments past its end":
        lambda: patched(32, 28, "<Q", "<I", 0xfffffff0),
    "ELF with a wrapping segment table":
        lambda: patched(32, 28, "<Q", "<I", 0xffffffff),
    "ELF with absurd segment size": lambda: patched(54, 42, "<H", "<H", 1),
    "ELF with 65535 segments": lambda: patched(56, 44, "<H", "<H", 65535),
    "ELF without segments": lambda: patched(56, 44, "<H", "<H", 0),
    "ELF loaded outside of RAM": lambda: first_segment_field(
        "paddr", 0xf0000000),
    "ELF loaded where addresses wrap": lambda: first_segment_field(
        "paddr", 0xfffffffffffff000),
    "ELF with absurd memory size": lambda: first_segment_field(
        "memsz", 0x7fffffffffffffff),
    "ELF with absurd file size": lambda: first_segment_field(
        "filesz", 0x7fffffffffffffff),
    "ELF reading past its end": lambda: first_segment_field(
        "offset", 0x7ffffff0),
    "bzImage cut in its header": lambda: bzimage(4)[:0x210],
    "bzImage without a kernel": lambda: bzimage(1),
    "bzImage with more setup than file": lambda: bzimage(255),
    "bzImage of an old protocol": lambda: bzimage(
        1, version=0x0200, payload=bytes(1 << 16)),
    "bzImage that wants all memory": lambda: bzimage(
        1, payload=bytes(1 << 16), x260=0xffffffff),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel(host, kernel):
    path = host.directory / "kernel"
    path.write_bytes(KERNELS[kernel]())
    complains(refused_run(host, "--mem", "64M", kernel=path), "kernel",
              status=(FAILED,))


@pytest.mark.parametrize("path", ["/nonexistent/kernel", "/", "/dev/zero",
                                  "/dev/null", ""])
def test_kernel_path(host, path):
    complains(refused_run(host, "--mem", "64M", kernel=path))


@pytest.mark.parametrize("what", ["kernel", "initrd"])
def test_a_name_that_could_not_go_with_the_guest(host, what):
    """It would boot, and then neither move nor come back from a snapshot."""
    path = host.directory / "two\nlines"
    path.write_bytes(Path(GUEST_ELF).read_bytes())
    options = [] if what == "kernel" else ["--initrd", path]
    result = refused_run(host, "--mem", "64M", *options,
                         kernel=path if what == "kernel" else GUEST_ELF)
    complains(result, "control characters")


def test_kernel_that_is_a_fifo(host):
    """Not even waited for."""
    path = host.directory / "fifo"
    os.mkfifo(path)
    complains(refused_run(host, "--mem", "64M", kernel=path))


def test_initrd(host):
    big = host.directory / "initrd"
    with open(big, "wb") as file:
        file.truncate(1 << 30)
    complains(refused_run(host, "--mem", "64M", "--initrd", big), "initrd")
    complains(refused_run(host, "--mem", "64M", "--initrd", "/nonexistent"),
              "/nonexistent")


# -- the command line


@pytest.mark.parametrize("options", [
    ("--mem", "0"), ("--mem", "1K"), ("--mem", "-1"), ("--mem", "64X"),
    ("--mem", "64M1"), ("--mem", "99999999999999999999"), ("--mem", "600G"),
    ("--mem", "16777216T"), ("--mem", ""), ("--mem", "4097"),
    ("--cpus", "0"), ("--cpus", "65"), ("--cpus", "two"), ("--cpus", "1.5"),
    ("--cpus", "18446744073709551617"),
    ("--cmdline", "x" * 5000),
    ("--mem-backend", "floppy"),
    ("--serial", "file:/nonexistent/serial"), ("--serial", "modem"),
    ("--serial", "file:"),
    ("--dirty-ring", "3"), ("--dirty-ring", "4294967296"),
    ("--name", "../x"), ("--name", ""), ("--name", "x" * 300),
    ("--name", "a b"), ("--name", ".hidden"), ("--name", "a/b"),
    ("--frobnicate",), ("stray",),
    ("--config", "/nonexistent.json"),
], ids=lambda options: " ".join(options)[:40])
def test_run_options(host, options):
    complains(refused_run(host, "--mem", "64M", *options))


def test_what_is_missing(host):
    complains(host.vmmd("run", check=False), status=(USAGE,))
    complains(host.vmmd("run", "--name", "x", check=False), "kernel",
              status=(USAGE,))
    complains(host.vmmd(check=False), status=(USAGE,))
    complains(host.vmmd("fly", check=False), "fly", status=(USAGE,))


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '{"mem": 64}', '{"mem": ["64M"]}', '{"men": "64M"}',
    '{"mem": "64M", "mem": "32M"}', '{"cpus": {"number": 1}}',
    "[" * 100000, '{"mem": "\ud800"}'.encode("utf-8", "surrogatepass"),
    b"\xff\xfe{}", '{"mem": "64M"} trailing',
], ids=range(13))
def test_config(host, text):
    path = host.directory / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = host.vmmd("run", "--name", "x", "--kernel", GUEST_ELF, "--serial",
                       "null", "--config", path, check=False)
    complains(result)


@pytest.mark.parametrize("uri", [
    "", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://:99999",
    "tcp://127.0.0.1:65536", "tcp://127.0.0.1:-1", "http://127.0.0.1:80",
    "tcp://no such host:1", "127.0.0.1:1", "tcp://[::1:1",
    "tcp://" + "x" * 1000 + ":1",
], ids=lambda uri: uri[:30] or "nothing")
def test_uri(host, uri):
    complains(host.vmmd("receive", "--name", "x", "--listen", uri,
                        check=False))
    guest = host.run(BUSY)
    complains(host.vmmd("migrate", guest.vmm.name, uri, check=False))
    guest.verify()


@pytest.mark.parametrize("options", [
    ("--mode", "teleport"), ("--channels", "0"), ("--channels", "17"),
    ("--downtime-limit", "-1"), ("--downtime-limit", "soon"),
    ("--max-bandwidth", "x"), ("--tracker", "dog"), ("--tracker", "ring"),
], ids=" ".join)
def test_migrate_options(host, options):
    """Ring, too: the guest was started without one."""
    guest = host.run(BUSY)
    destination = host.receive()
    complains(host.vmmd("migrate", guest.vmm.name, destination.uri, *options,
                        check=False))
    guest.verify()


@pytest.mark.parametrize("command", [
    ("status",), ("pause",), ("resume",), ("stop",), ("wait",), ("cancel",),
    ("send", "text"), ("migrate", "tcp://127.0.0.1:1"),
    ("snapshot", "/tmp/nothing-there")], ids=lambda command: command[0])
@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", ""],
                         ids=["nobody", "path", "empty"])
def test_no_such_guest(host, command, name):
    complains(host.vmmd(command[0], name, *command[1:], check=False))


def test_out_of_order(host):
    """What makes no sense in the guest's state is refused and changes nothing."""
    guest = host.run(BUSY)
    complains(host.vmmd("cancel", guest.vmm.name, check=False))
    complains(host.vmmd("migrate", guest.vmm.name, "tcp://127.0.0.1:1",
                        "--resume", check=False))
    destination = host.receive()
    for command in ("pause", "resume", "cancel"):
        complains(host.vmmd(command, destination.name, check=False))
    complains(host.vmmd("snapshot", destination.name,
                        host.directory / "nothing", check=False))
    guest.verify()


def test_name_taken(host):
    guest = host.run(BUSY)
    complains(host.vmmd("run", "--name", guest.vmm.name, "--kernel", GUEST_ELF,
                        "--serial", "null", check=False), guest.vmm.name)
    guest.verify()


def test_run_directory(host):
    file = host.directory / "file"
    file.write_text("")
    for path in (file, file / "below", Path("/proc/vmmd")):
        complains(refused_run(host, "--mem", "64M",
                              env={"VMMD_RUN_DIR": str(path)}), str(path))


def test_run_directory_that_others_may_write(host):
    """A name in it could be anybody's."""
    loose = host.directory / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    complains(refused_run(host, "--mem", "64M",
                          env={"VMMD_RUN_DIR": str(loose)}), str(loose))
    assert list(loose.iterdir()) == []


@pytest.mark.parametrize("request_line", [
    b"", b"\n", b"hello\n", b"{}\n", b"[]\n", b'{"cmd": 7}\n',
    b'{"cmd": "fly"}\n', b'{"cmd": "migrate"}\n',
    b'{"cmd": "migrate", "uri": 1}\n', b'{"cmd": "snapshot", "dir": "x"}\n',
    b'{"cmd": "serial-input", "data": 1}\n', b"x" * (1 << 20),
    b'{"cmd": "status"', b"\0" * 100 + b"\n", b"[" * 60000 + b"\n",
], ids=range(15))
def test_control_socket(host, request_line):
    """Whatever is written to the socket: an answer or an end, and no harm."""
    guest = host.run(BUSY)
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(PATIENCE_S)
        control.connect(str(host.run_dir / f"{guest.vmm.name}.sock"))
        try:
            control.sendall(request_line)
            control.shutdown(socket.SHUT_WR)
            answer = b""
            while data := control.recv(65536):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    if answer:
        done = json.loads(answer.splitlines()[-1])
        assert done["ok"] is False and done["error"], done
    guest.verify()


# -- peers


class Peer:
    """Something that listens and is not vmmd."""

    def __init__(self, talk):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"
        self.talk = talk
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link:
                try:
                    self.talk(link)
                except OSError:
                    pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


def talk_nonsense(link):
    link.recv(64)
    link.sendall(random.Random(2).randbytes(100000))


def talk_http(link):
    link.recv(64)
    link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def talk_huge_frame(link):
    link.recv(64)
    link.sendall(b"\xff" * 4096)


def say_nothing(link):
    while link.recv(65536):
        pass


def hang_up(link):
    link.recv(1)


@pytest.mark.parametrize("talk", [talk_nonsense, talk_http, talk_huge_frame,
                                  say_nothing, hang_up],
                         ids=lambda talk: talk.__name__)
def test_migrate_to_what_is_not_vmmd(host, talk):
    guest = host.run(BUSY).wait_ready()
    peer = Peer(talk)
    try:
        complains(host.vmmd("migrate", guest.vmm.name, peer.uri, check=False),
                  status=(FAILED,))
    finally:
        peer.close()
    guest.verify()


def read_exactly(link, nr):
    data = b""
    while len(data) < nr:
        more = link.recv(nr - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


class AgreeingReceiver:
    """Takes any SETUP with a SETUP_REPLY of the test's, and sees who connects then:
    (role, channel) of each hello, see docs/protocol.md."""

    HELLO_BYTES, FRAME = 40, struct.Struct("<HHII")
    SETUP_REPLY, MARKED = 2, 14
    CONTROL, DATA, FAULT = 1, 2, 3

    def __init__(self, reply, then=()):
        self.reply, self.then, self.hellos = reply, then, []
        self.peer = Peer(self._talk)
        self.uri = self.peer.uri

    def _talk(self, link):
        link.settimeout(PATIENCE_S)
        hello = read_exactly(link, self.HELLO_BYTES)
        magic, _, _, nr = self.FRAME.unpack(read_exactly(link, self.FRAME.size))
        read_exactly(link, nr)
        for type_, body in (self.SETUP_REPLY, self.reply), *self.then:
            link.sendall(self.FRAME.pack(magic, type_, 1, len(body)) + body)
        self.hellos = [struct.unpack_from("<HH", hello, 12)]
        self.peer.listener.settimeout(1)
        try:
            while True:
                channel, _ = self.peer.listener.accept()
                with channel:
                    self.hellos.append(struct.unpack_from(
                        "<HH", read_exactly(channel, self.HELLO_BYTES), 12))
                    self.meet(channel)
        except TimeoutError:
            pass

    def meet(self, channel):
        """Closed after this."""


class ReadingReceiver(AgreeingReceiver):
    """Reads all that its connections bring, until the source closes them."""

    def _talk(self, link):
        super()._talk(link)
        self._drain(link)

    def meet(self, channel):
        threading.Thread(target=self._drain, args=(channel.dup(),),
                         daemon=True).start()

    def _drain(self, channel):
        with channel:
            while channel.recv(65536):
                pass


@pytest.mark.parametrize("reply,faults", [(b"", 1), (b"\x20\x01", 1),
                                          (b"\x20\x02", 2)],
                         ids=["as of old", "one", "two"])
def test_as_many_fault_channels_as_the_receiver_takes(host, reply, faults):
    """SetupReply.fault_channels, field 4: who does not say means one."""
    guest = host.run(BUSY, cpus=2).wait_ready()
    receiver = AgreeingReceiver(reply)
    try:
        complains(host.vmmd("migrate", guest.vmm.name, receiver.uri, "--channels",
                            2, check=False), status=(FAILED,))
    finally:
        receiver.peer.close()
    data = [(AgreeingReceiver.DATA, channel) for channel in range(2)]
    fault = [(AgreeingReceiver.FAULT, channel) for channel in range(faults)]
    assert receiver.hellos == [(AgreeingReceiver.CONTROL, 0), *data, *fault]
    guest.verify()


@pytest.mark.parametrize("reply", [b"\x20\x03", b"\x20\xff\xff\xff\xff\x0f"],
                         ids=["three", "4294967295"])
def test_more_fault_channels_than_were_offered(host, reply):
    guest = host.run(BUSY, cpus=2).wait_ready()
    receiver = AgreeingReceiver(reply)
    try:
        complains(host.vmmd("migrate", guest.vmm.name, receiver.uri, check=False),
                  "more fault channels than there are", status=(FAILED,))
    finally:
        receiver.peer.close()
    assert len(receiver.hellos) <= 1
    guest.verify()


@pytest.mark.parametrize("mark", [b"", b"\x08\x02"], ids=["none", "two"])
def test_answers_a_mark_that_was_not_sent(host, mark):
    """SetupReply.answers_marks, field 5, and Marked.mark, field 1."""
    guest = host.run(BUSY).wait_ready()
    receiver = ReadingReceiver(b"\x28\x01", [(ReadingReceiver.MARKED, mark)])
    try:
        complains(host.vmmd("migrate", guest.vmm.name, receiver.uri, *FIT,
                            check=False),
                  "answers what it was not asked", status=(FAILED,))
    finally:
        receiver.peer.close()
    guest.verify()


def test_migrate_to_nobody(host):
    guest = host.run(BUSY).wait_ready()
    with socket.socket() as taken:  # nobody listens, and nobody else will
        taken.bind(("127.0.0.1", 0))
        uri = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        complains(host.vmmd("migrate", guest.vmm.name, uri, check=False),
                  "refused", status=(FAILED,))
    guest.verify()


def test_migrate_to_itself_and_to_a_full_house(host):
    """A receiver serves one session: the second is told, the first goes on."""
    first, second = host.run(BUSY).wait_ready(), host.run(BUSY).wait_ready()
    destination = host.receive()
    move = host.start_migrate(first, destination.uri, "--max-bandwidth", 4096)
    first.vmm.wait_phase("precopy")  # it has the receiver, and stays there
    complains(host.vmmd("migrate", second.vmm.name, destination.uri,
                        check=False), status=(FAILED,))
    host.vmmd("adjust", first.vmm.name, "--max-bandwidth", 0)
    result = move.wait()
    assert result.status == DONE, result
    first.moved_to(destination)
    first.verify()
    second.verify()


CALLERS = {
    "nothing": b"",
    "a byte": b"\0",
    "zeros": bytes(100),
    "noise": random.Random(3).randbytes(10000),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "ones": b"\xff" * 10000,
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_receive_called_by_what_is_not_vmmd(host, caller):
    """A port scan must not cost the guest that comes next its place."""
    destination = host.receive()
    port = int(destination.uri.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(CALLERS[caller])
        time.sleep(0.1)
    guest = host.run(BUSY).wait_ready()
    host.migrate(guest, destination)
    guest.verify()


class Eavesdropper(Proxy):
    """Hears the hello of each connection."""

    def __init__(self, port):
        self.hellos = []
        super().__init__(port)

    def account(self, link, data):
        if link.forwarded == 0:
            self.hellos.append(data[:AgreeingReceiver.HELLO_BYTES])
        return super().account(link, data)


def test_channels_that_nobody_waits_for(host):
    """Of the very session, but there already, or with a number that was not agreed."""
    guest = host.run(BUSY).wait_ready()
    destination = host.receive()
    port = int(destination.uri.rsplit(":", 1)[1])
    proxy = Eavesdropper(port)
    host.proxies.append(proxy)
    move = host.start_migrate(guest, proxy.uri, "--max-bandwidth", 4096, *FIT)
    destination.wait_phase("precopy")
    control, data, fault = (AgreeingReceiver.CONTROL, AgreeingReceiver.DATA,
                            AgreeingReceiver.FAULT)
    for role, channel in ((data, 0), (data, 1), (data, 2), (data, 15), (data, 16),
                          (data, 65535), (fault, 0), (fault, 1), (fault, 16),
                          (control, 0), (control, 1), (0, 0), (6, 0)):
        hello = bytearray(proxy.hellos[0])
        struct.pack_into("<HH", hello, 12, role, channel)
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.settimeout(PATIENCE_S)
            link.sendall(hello)
            assert link.recv(1) == b"", (role, channel)
    host.vmmd("adjust", guest.vmm.name, "--max-bandwidth", 0)
    assert move.wait().status == DONE
    guest.vmm.wait_exit()
    guest.moved_to(destination)
    guest.verify()


XXHASH = ctypes.CDLL("libxxhash.so.0")
XXHASH.XXH3_64bits.restype = XXHASH.XXH3_64bits_withSeed.restype = ctypes.c_uint64


def batch(type_, seq):
    """One without runs: proto/batch.c."""
    magic = 0x42505656
    head = struct.pack("<IHHIIQQQ", magic, type_, 0, 0, 0, seq, 0, 0)
    fixed = XXHASH.XXH3_64bits(head, ctypes.c_size_t(len(head)))
    check = XXHASH.XXH3_64bits_withSeed(b"", ctypes.c_size_t(0),
                                        ctypes.c_uint64(fixed))
    return head + struct.pack("<Q", check)


BARRIER, MARK = 3, 6


class Editor(Proxy):
    """Sends something else in place of what it first meets, and then no more.

    A connection that had said nothing yet still introduces itself: none is read
    before the last of them has.
    """

    def __init__(self, port, old, new):
        self.old, self.new = old, new
        self.edited = False
        super().__init__(port)

    def account(self, link, data):
        with self.lock:
            if self.edited and link.forwarded > 0:
                return b""
            self.edited |= self.old in data
        return super().account(link, data.replace(self.old, self.new, 1))


@pytest.mark.parametrize("old,new", [
    (batch(MARK, 1), batch(MARK, 0)),
    (batch(MARK, 1), batch(MARK, 1) + batch(MARK, 1)),
    (batch(MARK, 1), batch(MARK, 2) + batch(MARK, 1)),
    (batch(BARRIER, 1), batch(BARRIER, 1) + batch(MARK, 1000)),
], ids=["zero", "the same again", "back", "after the barrier"])
def test_marks_out_of_order(host, old, new):
    """A number that does not grow, or grows when no more of them may come."""
    guest = host.run(BUSY).wait_ready()
    destination = host.receive()
    proxy = Editor(int(destination.uri.rsplit(":", 1)[1]), old, new)
    host.proxies.append(proxy)
    move = host.start_migrate(guest, proxy.uri, *FIT)
    assert destination.wait_exit() == FAILED
    assert "page channel: damaged data" in destination.errors()
    result = move.wait()
    assert result.status == FAILED, result
    guest.verify()
    assert host.owners_running() == [guest.vmm.name]


def test_receive_called_by_many_who_say_nothing(host):
    """Idle connections do not block the one that matters."""
    destination = host.receive()
    port = int(destination.uri.rsplit(":", 1)[1])
    links = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        guest = host.run(BUSY).wait_ready()
        host.migrate(guest, destination)
        guest.verify()
    finally:
        for link in links:
            link.close()


def test_receive_on_a_port_that_is_taken(host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        complains(host.vmmd("receive", "--name", "x", "--listen", uri,
                            check=False), "in use")
    complains(host.vmmd("receive", "--name", "x", "--listen",
                        "tcp://192.0.2.1:1", check=False))


# -- snapshots


@pytest.fixture
def snapshot(host):
    guest = host.run("mem=8M work=dirty hb=50", mem="40M").wait_ready()
    directory, _ = host.snapshot(guest)
    guest.vmm.stop(force=True)
    return directory


def edit_manifest(directory, edit):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def set_everywhere(value, is_victim):
    """Every number (say) in the manifest becomes value, one at a time."""
    def walk(node):
        items = (node.items() if isinstance(node, dict)
                 else enumerate(node) if isinstance(node, list) else ())
        for key, child in items:
            if is_victim(child):
                yield node, key
            yield from walk(child)
    return walk


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def first_data(path):
    with open(path, "rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_DATA)


def truncate(path, size):
    os.truncate(path, size)


def replace_with_directory(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "empty manifest": lambda d: (d / "manifest.json").write_text(""),
    "manifest cut": lambda d: truncate(d / "manifest.json", 40),
    "manifest is no JSON": lambda d: (d / "manifest.json").write_text("{,}"),
    "manifest is a list": lambda d: (d / "manifest.json").write_text("[]"),
    "manifest without anything":
        lambda d: (d / "manifest.json").write_text("{}"),
    "manifest of brackets":
        lambda d: (d / "manifest.json").write_text("[" * 100000),
    "manifest is a directory":
        lambda d: replace_with_directory(d / "manifest.json"),
    "no state": lambda d: (d / "state.pb").unlink(),
    "empty state": lambda d: truncate(d / "state.pb", 0),
    "state cut": lambda d: truncate(d / "state.pb", 100),
    "state flipped": lambda d: flip(d / "state.pb", 200),
    "state of noise": lambda d: (d / "state.pb").write_bytes(
        random.Random(4).randbytes(5000)),
    "no memory": lambda d: (d / "memory").unlink(),
    "empty memory": lambda d: truncate(d / "memory", 0),
    "memory cut": lambda d: truncate(d / "memory", 20 << 20),
    "memory too long": lambda d: truncate(d / "memory", 400 << 20),
    "no sums": lambda d: (d / "memory.sums").unlink(),
    "sums flipped": lambda d: flip(d / "memory.sums",
                                   first_data(d / "memory.sums") + 9),
    "sums cut": lambda d: truncate(d / "memory.sums", 4096),
    "sums too long": lambda d: truncate(d / "memory.sums", 1 << 30),
    "memory is a directory": lambda d: replace_with_directory(d / "memory"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_damaged_snapshot(host, snapshot, damage, lazy):
    DAMAGES[damage](snapshot)
    result = host.vmmd("restore", snapshot, "--name", "x", "--serial", "null",
                       *(["--lazy"] if lazy else []), check=False)
    complains(result, status=(FAILED,))


@pytest.mark.parametrize("value", [-1, 0, 1, 2**31, 2**63 - 1, 1e300, "x",
                                   None, [], {}], ids=repr)
def test_damaged_number_in_the_manifest(host, snapshot, value):
    """Each number in turn; any that matters is refused, none does harm."""
    path = snapshot / "manifest.json"
    good = path.read_text()
    walk = set_everywhere(value, lambda child: isinstance(child, (int, float))
                          and not isinstance(child, bool))
    refused = 0
    for i in range(len(list(walk(json.loads(good))))):
        manifest = json.loads(good)
        node, key = list(walk(manifest))[i]
        if node[key] == value or i >= 12:
            continue
        node[key] = value
        path.write_text(json.dumps(manifest))
        result = host.vmmd("restore", snapshot, "--name", "x", "--serial",
                           "null", "--detach", check=False)
        if result.status == DONE:
            host.vmmd("stop", "x")
            continue
        complains(result, status=(FAILED,))
        refused += 1
    assert refused > 0


def flip_memory(directory):
    memory = directory / "memory"
    flip(memory, first_data(memory) + 5)


def empty_memory(directory):
    truncate(directory / "memory", 0)
    truncate(directory / "memory", 40 << 20)


@pytest.mark.parametrize("damage", [flip_memory, empty_memory],
                         ids=["bit", "holes"])
def test_damaged_memory(host, snapshot, damage):
    """Eager: refused before the start. Lazy: the guest never sees the page."""
    damage(snapshot)
    complains(host.vmmd("restore", snapshot, "--name", "x", "--serial", "null",
                        check=False), status=(FAILED,))
    result = Command(host, ["restore", snapshot, "--name", "y", "--serial",
                            "null", "--lazy", "--detach"]).wait()
    if result.status == DONE:
        wait_until(lambda: host.vmmd("status", "y", "--json").json["state"] ==
                   "paused-damaged", "the pause before the damage")
        host.vmmd("stop", "y", "--force")
    else:
        complains(result, status=(FAILED,))


@pytest.mark.parametrize("path", ["/nonexistent", "/etc/passwd", "/", "/proc",
                                  ""])
def test_restore_of_what_is_no_snapshot(host, path):
    complains(host.vmmd("restore", path, "--name", "x", "--serial", "null",
                        check=False))


@pytest.mark.parametrize("path", ["/nonexistent/below/there", "/proc/snapshot",
                                  "/dev/null/x", ""])
def test_snapshot_to_a_bad_place(host, path):
    guest = host.run(BUSY)
    complains(host.vmmd("snapshot", guest.vmm.name, path, check=False))
    guest.verify()


@pytest.fixture
def small_disk(host, mounted):
    path = host.directory / "small"
    path.mkdir()
    mounted("-t", "tmpfs", "-o", "size=6M", "none", path)
    return path


@pytest.mark.parametrize("options", [(), ("--stop",)], ids=["live", "stop"])
def test_snapshot_on_a_full_disk(host, small_disk, options):
    guest = host.run("mem=16M work=dirty hb=50", cpus=2).wait_ready()
    complains(host.vmmd("snapshot", guest.vmm.name, small_disk / "s", *options,
                        check=False), "no space", status=(FAILED,))
    assert list(small_disk.iterdir()) == []
    guest.verify()
    host.snapshot(guest)  # and it still can be, elsewhere
    guest.verify()


def test_serial_file_on_a_full_disk(host, small_disk):
    """The guest is worth more than what it says."""
    filler = small_disk / "filler"
    with open(filler, "wb") as file:
        try:
            file.write(bytes(8 << 20))
        except OSError:
            pass
    vmm = host.popen(["run", "--name", "x", "--kernel", GUEST_ELF, "--mem",
                      "64M", "--cmdline", BUSY, "--serial",
                      f"file:{small_disk / 'serial'}"],
                     stderr=subprocess.DEVNULL)
    def running():
        status = host.vmmd("status", "x", "--json", check=False)
        return status.status == DONE and status.json["state"] == "running"

    wait_until(lambda: vmm.poll() is not None or running(), "it runs or ends")
    if vmm.poll() is None:
        time.sleep(1)  # to say something
        assert running()
        host.vmmd("stop", "x", "--force")
    assert vmm.wait(PATIENCE_S) in (DONE, FAILED)


# -- hosts


def hidden(path):
    """A wrapper that runs a command in a mount namespace without path."""
    return ["unshare", "-m", "sh", "-c",
            f'mount --bind /dev/null {path} && exec "$@"', "sh"]


def run_wrapped(host, wrapper, *args, preexec_fn=None):
    from vmmd import VMMD, Result
    command = [*wrapper, VMMD, *map(str, args)]
    process = subprocess.run(command, env=host.environment(), text=True,
                             capture_output=True, check=False,
                             preexec_fn=preexec_fn, timeout=PATIENCE_S)
    if "unshare" in process.stderr or "mount:" in process.stderr:
        pytest.skip(f"no mount namespace here: {process.stderr.strip()}")
    return Result(args, process.returncode, process.stdout, process.stderr)


def test_no_kvm(host):
    complains(run_wrapped(host, hidden("/dev/kvm"), "run", "--name", "x",
                          "--kernel", GUEST_ELF, "--serial", "null"),
              "/dev/kvm", status=(FAILED,))
    doctor = run_wrapped(host, hidden("/dev/kvm"), "doctor")
    assert "/dev/kvm" in doctor.stdout + doctor.stderr


SECCOMP_ERRNO = 0x00050000
SYS_USERFAULTFD = 323


def forbid_userfaultfd():
    """In a child before exec: the system call answers EPERM from now on."""
    filters = struct.pack("HBBI" * 4,
                          0x20, 0, 0, 0,  # load the number of the call
                          0x15, 0, 1, SYS_USERFAULTFD,
                          0x06, 0, 0, SECCOMP_ERRNO | 1,
                          0x06, 0, 0, 0x7fff0000)
    buffer = ctypes.create_string_buffer(filters)
    program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, program, 0, 0) != 0:  # PR_SET_SECCOMP
        os._exit(125)


def test_no_userfaultfd(host):
    """A guest runs without it; what needs it is refused by name."""
    wrapper = ["unshare", "-m", "sh", "-c",
               '[ -e /dev/userfaultfd ] && mount --bind /dev/null '
               '/dev/userfaultfd; exec "$@"', "sh"]
    # After the mounts: mount itself needs no userfaultfd.
    result = run_wrapped(host, wrapper, "run", "--name", "x", "--kernel",
                         GUEST_ELF, "--mem", "64M", "--cmdline", BUSY,
                         "--serial", "null", "--detach",
                         preexec_fn=forbid_userfaultfd)
    assert result.status == DONE, result
    try:
        complains(host.vmmd("snapshot", "x", host.directory / "s",
                            check=False), "userfaultfd")
        assert host.vmmd("status", "x", "--json").json["state"] == "running"
        assert not (host.directory / "s").exists()
    finally:
        host.vmmd("stop", "x", "--force")
    doctor = run_wrapped(host, wrapper, "doctor",
                         preexec_fn=forbid_userfaultfd)
    assert "userfaultfd" in doctor.stdout


def test_huge_pages_that_are_not_there(host):
    free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if not free.exists() or int(free.read_text()):
        pytest.skip("this host has huge pages to give, or no such thing")
    complains(refused_run(host, "--mem", "64M", "--mem-backend", "hugetlb"),
              "huge", status=(FAILED,))


def test_different_machines(host):
    """All reasons why the peer cannot take it, before anything has moved."""
    if not shutil.which("prlimit"):
        pytest.skip("no prlimit")
    if SANITIZER:
        pytest.skip("a sanitizer dies when it has no address space")
    guest = host.run(BUSY, mem="512M").wait_ready()
    destination = host.receive()
    # Not enough address space over there for this guest's memory.
    subprocess.run(["prlimit", "--pid", str(destination.pid),
                    f"--as={256 << 20}"], check=True)
    result = host.vmmd("migrate", guest.vmm.name, destination.uri, check=False)
    complains(result, status=(FAILED,))
    assert result.status != ATTENTION
    guest.verify()
