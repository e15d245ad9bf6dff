"""A Linux guest goes from a host with Debian's own kernel to one with another and
back: two labs at a time. Runs outside of them."""

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SKIPPED = 77
SCRIPT = HERE / "linux/twokernels.py"


# One CPU each: README.md says what becomes of Debian's kernel with more.
def start(kernel, wire, role):
    return subprocess.Popen(
        [HERE / "linux/run.sh", "--kernel", kernel, "--wire", wire, "--mem",
         "2048", "--cpus", "1", "--timeout", "900", "--", "/usr/bin/python3", SCRIPT, role],
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def test_there_and_back(tmp_path):
    wire = tmp_path / "wire"
    labs = [start("stock", wire, "first")]
    while not wire.exists() and labs[0].poll() is None:
        pass_time(labs[0])
    labs.append(start("built", wire, "second"))
    outputs = [lab.communicate()[0] for lab in labs]
    if SKIPPED in (lab.returncode for lab in labs):
        pytest.skip(" ".join(outputs).strip().splitlines()[-1])
    assert [lab.returncode for lab in labs] == [0, 0], "\n".join(outputs)


def pass_time(process):
    try:
        process.wait(0.1)
    except subprocess.TimeoutExpired:
        pass
