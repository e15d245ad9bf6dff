"""Linux guests in vmmd: what init in this folder and the tests say to each other.

Runs in the lab, started by run.sh in this folder.
"""

import os
import re
from pathlib import Path

import pytest

from vmmd import Vmm, wait_until

BOOT_PATIENCE_S = 300  # everything is emulated twice over here


def guest_files(kind):
    """(kernel, initramfs) of a kind of guest.sh, as run.sh here hands it over."""
    guests = dict(line.split("=", 1) for line in
                  os.environ.get("VMMD_LINUX_GUESTS", "").splitlines())
    if kind not in guests:
        pytest.skip(f"no Linux guest {kind} here: tests/lab/linux/run.sh "
                    f"makes them, or says why it cannot")
    return Path(guests[kind]) / "kernel", Path(guests[kind]) / "initramfs"


class LinuxGuest:
    """A guest of guest.sh, booted, whose init does what it is told."""

    def __init__(self, vmm):
        self.vmm = vmm
        self.next_id = 1
        self.nr_boots = 0

    @classmethod
    def boot(cls, host, kind, cpus=1, mem="512M", options=(), env=None):
        """vmmd run, until init is up."""
        kernel, initramfs = guest_files(kind)
        name = host.name("l")
        vmm = Vmm(host, name, [
            "run", "--name", name, "--kernel", kernel, "--initrd", initramfs,
            "--cmdline", "console=ttyS0", "--mem", mem, "--cpus", cpus,
            *options], env)
        host.vmms.append(vmm)
        guest = cls(vmm)
        guest.wait_up()
        return guest

    def console(self):
        if not self.vmm.serial.exists():
            return ""
        return self.vmm.serial.read_text(errors="replace")

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
        return self.console()[-2000:]

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

    def run(self, command, check=True):
        """What a command prints."""
        number = self.tell(command)
        match = self.wait_for(
            rf"^GUEST-BEGIN {number}\n(.*?)^GUEST-END {number} (\d+)$", command)
        assert not check or match[2] == "0", f"{command}: {match[1]}"
        return match[1]
