"""Unmodified Linux kernels: they boot on all their CPUs, find the machine by its
ACPI tables, know what time it is, have nothing to complain of, reboot and power
off. In the lab: needs hardware virtualisation, if only an emulated one."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "linux"))
from linux import LinuxGuest, clock_zero_s  # noqa: E402  (the path)

KINDS = ["debian-6.1", "debian-6.12", "built", "built-elf"]
# Each kernel and each number of CPUs; VMMD_LINUX_BOOTS=all has all pairs.
SOME = [("debian-6.1", 2), ("debian-6.12", 4), ("built", 1), ("built-elf", 2)]
ALL = [(kind, cpus) for kind in KINDS for cpus in (1, 2, 4)]
BOOTS = ALL if os.environ.get("VMMD_LINUX_BOOTS") == "all" else SOME

WORST_CLOCK_S = 0.05

def check_machine(guest, cpus):
    """It has found everything that the ACPI tables tell of."""
    assert guest.run("nproc") == f"{cpus}\n"
    tables = guest.run("ls /sys/firmware/acpi/tables").split()
    assert {"APIC", "DSDT", "FACP", "FACS"} <= set(tables)
    interrupts = guest.run("cat /proc/interrupts")
    assert re.search(r"^ *9: .* IO-APIC +9-fasteoi +acpi$", interrupts, re.M)
    assert re.search(r"^ *4: .* IO-APIC +4-edge +ttyS0$", interrupts, re.M)
    assert "d0000000-efffffff : PCI Bus 0000:00" in guest.run("cat /proc/iomem")
    assert guest.run("cat /sys/bus/acpi/devices/LNXPWRBN:00/hid") == "LNXPWRBN\n"


def check_time(host, guest):
    source = "/sys/devices/system/clocksource/clocksource0/"
    assert "kvm-clock" in guest.run(f"cat {source}available_clocksource")
    assert guest.run(f"cat {source}current_clocksource") in (
        "kvm-clock\n", "tsc\n")
    snapshot, _ = host.snapshot(guest)
    apart_s = abs(guest.clock_zero_s() - clock_zero_s(snapshot))
    assert apart_s <= WORST_CLOCK_S
    shutil.rmtree(snapshot)


@pytest.mark.parametrize("kind,cpus", BOOTS)
def test_boots_reboots_and_powers_off(host, kind, cpus):
    guest = LinuxGuest.boot(host, kind, cpus=cpus)
    check_machine(guest, cpus)
    check_time(host, guest)
    guest.check_log()
    guest.tell("reboot -f")
    guest.wait_up()
    assert guest.run("nproc") == f"{cpus}\n"
    check_time(host, guest)
    guest.check_log()
    # Its init powers off when the button is pressed.
    host.vmmd("stop", guest.vmm.name, "--powerdown")
    assert guest.vmm.wait_exit() == 0, guest.vmm.errors()
    assert "the guest powered off" in guest.vmm.errors()
