"""Drive QEMU as vmmd is driven: the test guest in two processes, moved by QMP.

A Qemu is one process; it stands in for a Vmm of vmmd.py under the same Guest, so
that what the guest says is checked and counted by the same code. Capabilities and
parameters are looked up in the running QEMU: what it does not know is not set.
"""

import json
import os
import shutil
import socket
import subprocess
import time

from vmmd import GUEST_ELF, PATIENCE_S, Guest, Timeout, die_with_parent, wait_until

BINARY = os.environ.get("QEMU", "qemu-system-x86_64")
BANDWIDTH_UNLIMITED = 1 << 40
# Microvm is the machine that is closest to what vmmd offers.
MACHINE = ("-machine", "microvm,accel=kvm,isa-serial=on,auto-kernel-cmdline=off",
           # 7.2 on AMD dies of KVM's refusal to have that MSR set; the test guest
           # does not ask for it anywhere.
           "-cpu", "host,-arch-capabilities", "-nodefaults", "-no-reboot",
           "-display", "none")


def is_there():
    return shutil.which(BINARY) is not None


def version():
    done = subprocess.run([BINARY, "--version"], stdout=subprocess.PIPE, text=True,
                          check=True)
    return done.stdout.splitlines()[0]


class QmpError(AssertionError):
    """QEMU refused a command, or its migration failed."""


def connect(path):
    """To a socket that another process may only just be making."""
    def attempt():
        new = socket.socket(socket.AF_UNIX)
        try:
            new.connect(str(path))
            return new
        except (FileNotFoundError, ConnectionRefusedError):
            new.close()
            return None
    return wait_until(attempt, f"a listener at {path}")


class Qmp:
    """The monitor of one process: commands, and the events between them."""

    def __init__(self, path, name, errors):
        self.name = name
        self.errors = errors  # what the process has said besides
        self.events = []
        self.socket = connect(path)
        self.unread = b""
        self._read(time.monotonic() + PATIENCE_S)  # its greeting
        self.command("qmp_capabilities")

    def close(self):
        self.socket.close()

    def _read(self, limit):
        while b"\n" not in self.unread:
            self.socket.settimeout(max(limit - time.monotonic(), 0.001))
            try:
                more = self.socket.recv(1 << 16)
            except TimeoutError:
                raise Timeout(f"{self.name}: no word from its monitor") from None
            if not more:
                raise QmpError(f"{self.name} closed its monitor: "
                               f"{self.errors()}")
            self.unread += more
        line, self.unread = self.unread.split(b"\n", 1)
        return json.loads(line)

    def command(self, execute, **arguments):
        """What it returns."""
        message = {"execute": execute, "arguments": arguments}
        self.socket.sendall(json.dumps(message).encode())
        limit = time.monotonic() + PATIENCE_S
        while True:
            answer = self._read(limit)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(f"{self.name}: {execute}: {answer['error']}")
            else:
                return answer["return"]

    def wait_event(self, condition, what, patience_s):
        """The first event, past or to come, for which condition(event) holds."""
        limit = time.monotonic() + patience_s
        seen = 0
        while True:
            for event in self.events[seen:]:
                if condition(event):
                    return event
            seen = len(self.events)
            try:
                self.events.append(self._read(limit))
            except Timeout:
                raise Timeout(f"{self.name}: never came: {what}; it says "
                              f"{self.command('query-migrate')}") from None


def seconds(event):
    at = event["timestamp"]
    return at["seconds"] + at["microseconds"] / 1e6


class Qemu:
    """One process; arriving: it waits for a guest instead of booting one."""

    def __init__(self, directory, name, cmdline, mem, cpus=1, arriving=False):
        self.name = name
        self.serial = directory / f"{name}.serial"
        self.err = directory / f"{name}.err"
        self.letters = directory / f"{name}.letters"
        monitor = directory / f"{name}.qmp"
        args = [BINARY, *MACHINE, "-m", mem, "-smp", str(cpus),
                "-kernel", GUEST_ELF, "-append", cmdline,
                "-chardev", f"socket,id=serial,path={self.letters},server=on,"
                            f"wait=off,logfile={self.serial}",
                "-serial", "chardev:serial",
                "-qmp", f"unix:{monitor},server=on,wait=off",
                *(["-incoming", "defer"] if arriving else [])]
        with open(self.err, "wb") as err:
            self.process = subprocess.Popen(
                args, stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                preexec_fn=die_with_parent)
        self.qmp = None
        try:
            self.qmp = Qmp(monitor, name, self.errors)
        except BaseException as error:
            self.kill()
            if not isinstance(error, QmpError):
                error.add_note(self.errors())
            raise

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def errors(self):
        return self.err.read_text(errors="replace")

    def send(self, text):
        """To the guest's serial port."""
        with connect(self.letters) as letters:
            letters.sendall(text.encode())

    def kill(self):
        """It has nothing to save."""
        if self.qmp:
            self.qmp.close()
        self.process.kill()
        self.process.wait()

    def configure(self, capabilities, parameters):
        """Of a migration; the names that this QEMU lacks are passed over."""
        known = {entry["capability"] for entry in
                 self.qmp.command("query-migrate-capabilities")}
        self.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": name, "state": True}
            for name in ("events", *capabilities) if name in known])
        known = self.qmp.command("query-migrate-parameters")
        self.qmp.command("migrate-set-parameters", **{
            name: value for name, value in parameters.items()
            if name in known})

    def listen(self):
        """On a free port; the URI for the other side."""
        self.qmp.command("migrate-incoming", uri="tcp:127.0.0.1:0")
        address = self.qmp.command("query-migrate")["socket-address"][0]
        return f"tcp:{address['host']}:{address['port']}"

    def wait_migration(self, status, patience_s):
        """The event that says so."""
        def reached(event):
            if event["event"] != "MIGRATION":
                return False
            if event["data"]["status"] == "failed":
                raise QmpError(f"{self.name}: the migration failed: "
                               f"{self.qmp.command('query-migrate')} "
                               f"{self.errors()}")
            return event["data"]["status"] == status
        return self.qmp.wait_event(reached, f"migration {status}", patience_s)

    def told(self, status):
        """The event that said so, or None."""
        return next((event for event in self.qmp.events
                     if event["event"] == "MIGRATION" and
                     event["data"]["status"] == status), None)

    def wait_running(self, patience_s):
        return self.qmp.wait_event(lambda event: event["event"] == "RESUME",
                                   "the guest running", patience_s)

    def wait_pass(self, number, patience_s):
        """Until so many rounds over memory have begun."""
        return self.qmp.wait_event(
            lambda event: event["event"] == "MIGRATION_PASS" and
            event["data"]["pass"] >= number, f"round {number}", patience_s)


class QemuGuest(Guest):
    """The test guest in a Qemu."""

    def ask(self, text):
        self.vmm.send(text)


class Plan:
    """How QEMU is to move a guest.

    channels: of multifd; 0: without. postcopy: None, "now", or "after-round":
    as soon as all memory was sent once.
    """

    def __init__(self, channels=0, postcopy=None, downtime_ms=20,
                 bandwidth=BANDWIDTH_UNLIMITED):
        self.postcopy = postcopy
        self.capabilities = ["return-path"]
        self.parameters = {"downtime-limit": downtime_ms,
                           "max-bandwidth": bandwidth}
        if channels:
            self.capabilities += ["multifd"]
            self.parameters["multifd-channels"] = channels
            self.parameters["zero-page-detection"] = "multifd"
        if postcopy:
            self.capabilities += ["postcopy-ram", "postcopy-preempt"]
        if postcopy and bandwidth != BANDWIDTH_UNLIMITED:
            self.parameters["max-postcopy-bandwidth"] = bandwidth


def move(source, target, uri, plan, patience_s):
    """Both configured by the plan; returns what QEMU says of it."""
    begin = time.monotonic()
    source.qmp.command("migrate", uri=uri)
    if plan.postcopy == "after-round":
        source.wait_pass(2, patience_s)
    if plan.postcopy:
        source.qmp.command("migrate-start-postcopy")
    done = source.wait_migration("completed", patience_s)
    target.wait_migration("completed", patience_s)
    target.wait_running(patience_s)
    wall = time.monotonic() - begin
    # "completed" may come before the figures are: those are there by now.
    wait_until(lambda: source.qmp.command("query-status")["status"] ==
               "postmigrate", f"{source.name}: postmigrate")
    said = source.qmp.command("query-migrate")
    figures = {"wall_ms": wall * 1000, "total_ms": said["total-time"],
               "setup_ms": said["setup-time"],
               "rounds": said["ram"]["dirty-sync-count"],
               "sent_bytes": said["ram"]["transferred"]}
    # Of a downtime below a millisecond 7.2 tells the clock instead.
    if said["downtime"] <= said["total-time"]:
        figures["said_down_ms"] = said["downtime"]
    if plan.postcopy:
        figures["faults"] = said["ram"]["postcopy-requests"]
        active = source.told("postcopy-active")
        if active:  # a small guest may have arrived before
            figures["postcopy_ms"] = (seconds(done) - seconds(active)) * 1000
    return figures
