"""Linux guests in vmmd: what init in this folder and the tests say to each other.

Runs in the lab, started by run.sh in this folder.
"""

import os
import re
import shutil
from pathlib import Path

import pytest

from vmmd import Vmm, wait_until

BOOT_PATIENCE_S = 300  # everything is emulated twice over here

# Lines of level "err" and worse, and warnings with a back trace.
COMPLAINT = r"^<[0-3]>|WARNING: |BUG: |Oops|XSAVE consistency|blocked for"

# Those that say nothing about vmmd:
# - QEMU's emulation of SVM does not intercept XSETBV, so KVM never learns the
#   guest's XCR0 and answers CPUID leaf 0xd for the wrong one. The guest sees
#   that, warns, and goes on with FXSAVE.
# - The lab's own kernel would be a host, too.
NO_COMPLAINT = (r"XSAVE consistency problem|WARNING: .*fpu__init_system_xstate|"
                r"kvm_(intel|amd): (VMX|SVM) not supported")


def guest_files(kind):
    """What guest.sh made for a kind, as run.sh here hands it over."""
    guests = dict(line.split("=", 1) for line in
                  os.environ.get("VMMD_LINUX_GUESTS", "").splitlines())
    if kind not in guests:
        pytest.skip(f"no Linux guest {kind} here: tests/lab/linux/run.sh "
                    f"makes them, or says why it cannot")
    return Path(guests[kind])


def root_disk(kind, directory):
    """A copy of the guest's root disk, to be written to."""
    image = Path(directory) / "root.img"
    shutil.copy(guest_files(kind) / "root.img", image)
    return image


def varint(message, at):
    """(value, where the next thing is)"""
    value = shift = 0
    while message[at] >= 0x80:
        value |= (message[at] & 0x7f) << shift
        shift += 7
        at += 1
    return value | message[at] << shift, at + 1


def field(message, number):
    """The bytes of a field of type bytes or fixed64 of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        length = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 2:
            length, at = varint(message, at)
        elif key & 7 == 0:
            _, at = varint(message, at)
        if key >> 3 == number:
            return message[at:at + length]
        at += length
    raise AssertionError(f"no field {number}")


def clock_zero_s(snapshot):
    """The host's time when the kvmclock of a saved guest was 0."""
    # SavedMachine.state, VmState.clock_ns and .realtime_ns of proto/state.proto
    state = field((snapshot / "state.pb").read_bytes(), 2)
    clock_ns, realtime_ns = (int.from_bytes(field(state, number), "little")
                             for number in (8, 9))
    return (realtime_ns - clock_ns) / 1e9


class LinuxGuest:
    """A guest of guest.sh, booted, whose init does what it is told."""

    def __init__(self, vmm):
        self.vmm = vmm
        self.serials = [vmm.serial]  # of all processes that it lived in
        self.next_id = 1
        self.nr_boots = 0

    @classmethod
    def boot(cls, host, kind, cpus=1, mem="512M", options=(), env=None,
             cmdline="", initrd=True):
        """vmmd run, until init is up. quiet: each line on the console is dear."""
        files = guest_files(kind)
        name = host.name("l")
        if initrd:
            options = ["--initrd", files / "initramfs", *options]
        vmm = Vmm(host, name, [
            "run", "--name", name, "--kernel", files / "kernel",
            "--cmdline", f"console=ttyS0 quiet {cmdline}", "--mem", mem,
            "--cpus", cpus, *options], env)
        host.vmms.append(vmm)
        guest = cls(vmm)
        guest.wait_up()
        return guest

    def moved_to(self, vmm):
        self.vmm = vmm
        self.serials.append(vmm.serial)

    def console(self):
        return "".join(serial.read_text(errors="replace")
                       for serial in self.serials if serial.exists())

    def wait_for(self, pattern, what, patience_s=BOOT_PATIENCE_S):
        """The match of pattern in what the console has said so far."""
        def look():
            match = re.search(pattern, self.console(), re.M | re.S)
            if match is None:
                assert self.vmm.alive(), (
                    f"{what}: vmmd ended: {self.vmm.errors()}{self.tail()}")
            return match
        return wait_until(look, lambda: f"{what}: {self.tail()}", patience_s)

    def tail(self):
        return self.console()[-9000:]

    def wait_up(self):
        """Until init says so, once more than before."""
        self.nr_boots += 1
        self.wait_for(r"(?:^GUEST-UP .*?){%d}" % self.nr_boots, "boot")

    def tell(self, command):
        """Types a command; returns its id."""
        number = self.next_id
        self.next_id += 1
        self.vmm.host.vmmd("send", self.vmm.name, f"{number} {command}\n")
        return number

    def result(self, number, check=True):
        """What the command of this id prints, once it is done."""
        match = self.wait_for(
            rf"^GUEST-BEGIN {number}\n(.*?)^GUEST-END {number} (\d+)$",
            f"command {number}")
        assert not check or match[2] == "0", f"command {number}: {match[1]}"
        return match[1]

    def run(self, command, check=True):
        """What a command prints."""
        return self.result(self.tell(command), check)

    def fails(self, command):
        """What a command prints that has to fail."""
        return self.run(f"! {{ {command}; }}")

    def check_log(self):
        """The guest's kernel has nothing to complain of."""
        lines = self.run(f"dmesg -r | grep -E '{COMPLAINT}' || true")
        complaints = [line for line in lines.splitlines()
                      if not re.search(NO_COMPLAINT, line)]
        assert not complaints, "\n".join(complaints)

    def clock_zero_s(self):
        """The wall-clock time that the guest believes it was when kvmclock was 0.

        It takes the time from KVM once, early, and its clock runs on from there,
        first by counting timer interrupts. Where time runs thirty times slower many
        of these are lost, and its clock is late ever after. This is known here
        without: its time since boot has lost as much, and what the two clocks are
        apart has not changed since.
        """
        offsets = re.findall(r"\.offset: +(\d+) nsecs", self.run(
            "head -n 100 /proc/timer_list | grep .offset"))
        realtime, boottime = map(int, offsets[1:3])  # of hrtimer_bases
        boot = re.search(r"using sched offset of (\d+) cycles", self.run(
            "dmesg | grep 'sched offset'"))
        return (realtime - boottime - int(boot[1])) / 1e9

    def power_off(self):
        """See vmmd end with it."""
        self.tell("poweroff -f")
        assert self.vmm.wait_exit() == 0, self.vmm.errors()
        assert "the guest powered off" in self.vmm.errors()
