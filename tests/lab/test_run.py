"""run.sh itself: what it promises, each claim one test. Boots a lab per test."""

import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = HERE / "run.sh"
SKIPPED = 77
TIMED_OUT = 124
DIED = 125


class Lab:
    """One call of run.sh, found again by a variable that all it starts inherit."""

    def __init__(self, *options, command, cwd=None):
        self.token = f"VMMD_LAB_TEST={uuid.uuid4()}"
        name, value = self.token.split("=")
        self.process = subprocess.Popen(
            [RUN, *options, "--", *command], cwd=cwd, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env={**os.environ, name: value})

    def end(self):
        """Its status, stdout and stderr; skips where there can be no lab."""
        out, err = self.process.communicate()
        if self.process.returncode == SKIPPED:
            pytest.skip(err.strip().splitlines()[-1])
        return self.process.returncode, out, err

    def left(self):
        """What of it still runs."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.token.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text())
            except OSError:  # gone, or not ours
                continue
        return [cmdline for cmdline in found if cmdline]


def lab(*options, command, cwd=None):
    return Lab(*options, command=command, cwd=cwd).end()


def shell(script):
    return ["bash", "-c", script]


def test_status_and_both_outputs_come_back(tmp_path):
    status, out, err = lab(command=shell("pwd; echo \"it's\" >&2; exit 3"),
                           cwd=tmp_path)
    assert (status, out, err) == (3, f"{tmp_path}\n", "it's\n")


def test_kvm_is_there_with_the_parameters_asked_for():
    status, out, _ = lab("--kvm-param", "kvm_amd.npt=0", "--cpus", "3",
                         command=shell("cat /sys/module/kvm_amd/parameters/npt;"
                                       "nproc; test -c /dev/kvm"))
    assert (status, out) == (0, "N\n3\n")


def test_a_parameter_that_does_not_exist_is_refused():
    status, _, err = lab("--kvm-param", "kvm.nonsense=1", command=["true"])
    assert status == DIED
    assert "no parameter kvm.nonsense" in err


def early_tsc_error_ppm(*options):
    """How wrong the lab's kernel is about its TSC until it has measured it itself."""
    status, out, _ = lab(*options, command=shell(
        "for i in {1..60}; do dmesg | grep 'Refined TSC' && break; sleep 1; done; "
        "cat /proc/cmdline"))
    assert status == 0
    refined_khz = float(re.search(r"calibration: ([0-9.]+) MHz", out)[1]) * 1000
    return (int(re.search(r"tsc_early_khz=(\d+)", out)[1]) / refined_khz - 1) * 1e6


def test_its_kernel_knows_its_tsc_from_the_start():
    assert abs(early_tsc_error_ppm()) < 100


def test_or_is_as_wrong_about_its_tsc_as_told():
    assert -1100 < early_tsc_error_ppm("--tsc-error", "-1000") < -900


def test_only_writable_directories_are_written(tmp_path):
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    kept.mkdir()
    lost.mkdir()
    status, out, err = lab(
        "--writable", kept,
        command=shell(f"echo a >{kept}/file && echo b >{lost}/file &&"
                      f"cat {kept}/file {lost}/file"))
    assert (status, out) == (0, "a\nb\n"), err
    assert (kept / "file").read_text() == "a\n"
    assert not list(lost.iterdir())


def test_the_scratch_disk_does_direct_io():
    status, _, err = lab(command=shell(
        "dd if=/dev/zero of=/scratch/file bs=1M count=8 oflag=direct &&"
        "dd if=/scratch/file of=/dev/null bs=1M iflag=direct"))
    assert status == 0, err


def test_a_process_left_behind_does_not_hold_it_up():
    status, out, _ = lab(command=shell("sleep 10000 & echo done"))
    assert (status, out) == (0, "done\n")


def test_timeout_is_kept():
    world = Lab("--timeout", "20", command=["sleep", "10000"])
    status, _, err = world.end()
    assert status == TIMED_OUT
    assert "timeout" in err
    assert "\nCPU#1\n" in err, "what its CPUs are at"
    assert err.count("IRR") >= 2, "and their APICs"
    assert not world.left()


def test_a_panic_is_shown():
    status, _, err = lab(command=shell("echo c >/proc/sysrq-trigger; sleep 9"))
    assert status == DIED
    assert "Kernel panic" in err


def test_a_complaint_of_the_kernel_is_a_failure():
    status, out, err = lab(command=shell("echo 'WARNING: CPU' >/dev/kmsg;"
                                         "echo done"))
    assert (status, out) == (DIED, "done\n")
    assert "WARNING: CPU" in err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT,
                                  signal.SIGKILL])
def test_nothing_is_left_when_it_is_killed(sent, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    world = Lab(command=shell("echo up; exec sleep 10000"))
    if world.process.stdout.readline() != "up\n":
        world.end()
        pytest.fail("the lab did not come up")
    assert world.left()
    for _ in range(3):  # whoever sends one may well send another
        world.process.send_signal(sent)
        time.sleep(0.01)
    world.end()
    while world.left():  # a kill outright is noticed by QEMU's kernel only
        time.sleep(0.1)
    if sent != signal.SIGKILL:
        assert not list(tmp_path.iterdir())
