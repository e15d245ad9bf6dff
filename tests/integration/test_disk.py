"""A guest that works on its disk is moved: no byte of it is lost, here or there."""

import shutil
import subprocess

import pytest

from guestlog import GuestError
from vmmd import FAILED, FIT, MIB

MODES = ("precopy", "postcopy", "hybrid")
DISK_ONLY = "work=diskonly mem=16M rate=400 hb=100"


@pytest.fixture
def disk(tmp_path):
    """Options for an image that all processes of a test share."""
    image = tmp_path / "disk.img"
    with open(image, "wb") as file:
        file.truncate(16 * MIB)
    return ("--disk", f"path={image}")


@pytest.mark.parametrize("mode", MODES)
def test_moves_with_the_disk_at_work(host, disk, mode):
    guest = host.run("work=disk mem=16M rate=400 hb=100", cpus=2,
                     options=disk).wait_ready()
    for _ in range(5):
        host.move(guest, "--mode", mode, *FIT, receive_options=disk)
        guest.wait_beats(2)
        guest.verify()


def test_a_disk_has_one_user(host, disk):
    """The second is refused, and it is free again when the first is gone."""
    guest = host.run("work=disk mem=16M hb=100", options=disk).wait_ready()
    second = host.vmmd("run", "--name", "second", "--kernel", "/dev/null",
                       "--mem", "64M", *disk, check=False)
    assert second.status == FAILED, second
    host.move(guest, *FIT, receive_options=disk)
    guest.verify()
    guest.vmm.stop()
    host.run("work=disk mem=16M hb=100", options=disk).wait_ready().verify()


def test_memory_that_only_the_disk_writes(host, disk):
    """No dirty log of KVM's knows of it; 50 moves lose nothing."""
    guest = host.run(DISK_ONLY, options=disk).wait_ready()
    for _ in range(50):
        host.move(guest, "--mode", "precopy", *FIT, receive_options=disk)
    guest.verify()


def test_without_the_marks_it_would_be_lost(host, disk):
    """The test above can fail: without the marks, what is read in precopy is gone.

    It shows either in the move, whose sums then do not fit, or in the guest.
    """
    guest = host.run(DISK_ONLY, options=disk,
                     env={"VMMD_FAULT": "disk-marks:lose"}).wait_ready()
    destination = host.receive(disk)
    result = host.start_migrate(guest, destination.uri, "--mode", "precopy",
                                "--max-bandwidth", 16 * MIB, *FIT).wait()
    if result.status == FAILED:
        assert "arrived damaged" in result.stderr, result
        return
    guest.moved_to(destination)
    with pytest.raises(GuestError, match="verify"):
        guest.verify()


@pytest.fixture
def sharing(scratch, mounted):
    """A directory on a file system where files can share blocks."""
    image, directory = scratch / "xfs.img", scratch / "xfs"
    if not shutil.which("mkfs.xfs"):
        pytest.skip("mkfs.xfs (xfsprogs) is not installed")
    directory.mkdir()
    with open(image, "wb") as file:
        file.truncate(512 * MIB)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    mounted("-o", "loop", image, directory)
    return directory


@pytest.mark.parametrize("shares", (True, False))
def test_a_snapshot_takes_the_disk_along(sharing, scratch, host, shares):
    """As a clone where the file system can, else as a copy: the same disk."""
    image = sharing / "disk.img"
    with open(image, "wb") as file:
        file.truncate(16 * MIB)
    guest = host.run("work=disk mem=16M rate=400 hb=100",
                     options=("--disk", f"path={image}")).wait_ready()
    directory, report = host.snapshot(
        guest, (sharing if shares else scratch) / "snapshot", "--disks")
    assert report["disks"]["count"] == 1
    assert report["disks"]["cloned"] == shares
    guest.wait_beats(2)
    guest.verify()
    guest.vmm.stop()
    # The snapshot's own stays as it is, for the next time.
    shutil.copy(directory / "disk0.raw", sharing / "copy.raw")
    copy = host.restore(directory, lazy=True, options=(
        "--disk", f"path={sharing / 'copy.raw'}"))
    copy.wait_beats(2)
    copy.verify()
