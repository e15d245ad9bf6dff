"""Fixtures and the closing lines of every pytest file; see docs/testing.md."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "integration"))
from vmmd import Host, wait_until  # noqa: E402  (needs the path above)

SKIPPED_EXIT = 77  # what ctest takes for "skipped"

counts = {"passed": 0, "failed": 0, "skipped": 0}
reasons = []


@pytest.fixture
def scratch():
    """A directory that is gone after the test, unless VMMD_KEEP is set."""
    directory = Path(tempfile.mkdtemp(prefix="vmmd-test-"))
    yield directory
    if os.environ.get("VMMD_KEEP"):
        print(f"kept: {directory}")
    else:
        shutil.rmtree(directory)


@pytest.fixture
def host(scratch):
    """A world to start vmmd processes in; the test fails if it leaks."""
    world = Host(scratch)
    yield world
    world.close()


@pytest.fixture
def mounted():
    """mounted(OPTION..., directory): mounts it there until the end of the test.

    A test in which guests use it names it before host: they have to end first.
    """
    directories = []

    def mount(*arguments):
        result = subprocess.run(["mount", *map(str, arguments)],
                                capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"cannot mount here: {result.stderr.strip()}")
        directories.append(arguments[-1])

    yield mount
    for directory in reversed(directories):
        # The kernel ends a process's io_uring a moment after the process.
        wait_until(lambda: subprocess.run(["umount", directory],
                                          check=False).returncode == 0,
                   f"umount {directory}")


def pytest_collection_modifyitems(items):
    missing = None
    if not os.path.exists("/dev/kvm"):
        missing = "this host has no /dev/kvm"
    elif not os.access("/dev/kvm", os.R_OK | os.W_OK):
        missing = "/dev/kvm is not readable and writable for this user"
    for item in items:
        if missing and "host" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=missing))


def pytest_runtest_logreport(report):
    if report.skipped:
        counts["skipped"] += 1
        reason = report.longrepr[2] if isinstance(
            report.longrepr, tuple) else str(report.longrepr)
        reasons.append(
            f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")
    elif report.failed:
        counts["failed"] += 1
    elif report.when == "call":
        counts["passed"] += 1


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == 0 and counts["skipped"] and not counts["passed"]:
        session.exitstatus = SKIPPED_EXIT


def pytest_unconfigure():
    """Read by scripts/summary.py; the last thing that is printed."""
    if not any(counts.values()):
        return
    for reason in reasons:
        print(f"SKIPPED {reason}")
    print("CASES " + " ".join(f"{key}={counts[key]}" for key in counts))
