"""One of two labs between which a Linux guest goes there and back, from a host with
one kernel to a host with another: test_two_kernels.py starts both.

    twokernels.py first|second
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))
from linux import LinuxGuest  # noqa: E402  (needs the path above)
from vmmd import DONE, Host, wait_until  # noqa: E402

FIRST, SECOND = "10.113.0.1", "10.113.0.2"
PORT = 7100
PATIENCE_S = 600  # two labs share the host's cores


def address(own):
    subprocess.run(["ip", "address", "add", f"{own}/24", "dev", "eth0"],
                   check=True)
    subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)


def rounds(guest):
    """How many rounds of its work were right; at first it has said nothing yet."""
    def look():
        text = guest.run("cat /tmp/memory || true")
        assert "WRONG" not in text, text
        return re.match(r"rounds=(\d+)", text)
    return int(wait_until(look, "a report", PATIENCE_S)[1])


def wait_progress(guest):
    """The work of "load mem" goes on, and all of it was right so far."""
    before = rounds(guest)
    wait_until(lambda: rounds(guest) > before, "progress", PATIENCE_S)


def move(host, guest, to):
    """As soon as somebody listens there."""
    source = guest.vmm

    def attempt():
        result = host.start_migrate(guest, f"tcp://{to}:{PORT}",
                                    "--downtime-limit", 1000).wait(PATIENCE_S)
        assert result.status == DONE or "onnect" in result.stderr, result
        return result.status == DONE
    wait_until(attempt, "the other lab", PATIENCE_S)
    assert source.wait_exit() == DONE, source.errors()


def arrival(host, own):
    vmm = host.receive(address=own, port=PORT)
    vmm.wait_state("running")
    wait_until(lambda: "all of the guest's memory" in vmm.errors() or None,
               "its memory", PATIENCE_S)
    return vmm


def first(host):
    address(FIRST)
    guest = LinuxGuest.boot(host, "debian-6.12", cpus=2, mem="192M")
    guest.run("load mem memory 32 >/dev/null 2>&1 &")
    wait_progress(guest)
    move(host, guest, SECOND)
    guest.moved_to(arrival(host, FIRST))
    wait_progress(guest)
    guest.check_log()
    guest.power_off()


def second(host):
    address(SECOND)
    guest = LinuxGuest(arrival(host, SECOND))
    guest.next_id = 1000  # it has done what the first told it
    wait_progress(guest)
    move(host, guest, FIRST)


with tempfile.TemporaryDirectory() as directory:
    world = Host(directory)
    try:
        {"first": first, "second": second}[sys.argv[1]](world)
    finally:
        world.close()
