"""Benchmarks of the patch series: the same in the lab on a stock and a patched kernel.

What write_protect.py, greedy.py and churn.py share. Each is run twice over: outside
by a person, and by run() once more in each lab, with the argument --inside.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "tests/lab/run.sh"
LAB_WITH_LINUX = ROOT / "tests/lab/linux/run.sh"
# As run.sh calls them.
KERNELS = {"stock": "built", "patched": "patched"}
KERNELS_WITH_LOCK_STATISTICS = {"stock": "lockstat",
                                "patched": "patched-lockstat"}
SKIPPED = 77
WRONG_USAGE = 2
TIMEOUT_S = 6 * 3600


def parser(description):
    """With the options that all of them have."""
    new = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter)
    new.add_argument("--json", action="store_true")
    new.add_argument("--smoke", action="store_true",
                     help="small, to see that it works")
    new.add_argument("--inside", help=argparse.SUPPRESS)
    return new


def add_kvm_param(parser_):
    """For what can be measured in any of KVM's MMUs."""
    parser_.add_argument("--kvm-param", metavar="M.NAME=V",
                         help="for the lab, as kvm.tdp_mmu=0")


def param_options(param):
    """run.sh's, for what --kvm-param was given."""
    return ["--kvm-param", param] if param else []


def binary(variable, target):
    """A program of this project: what the variable names, else the release build's."""
    path = Path(os.environ.get(variable) or ROOT / "build/release" / target)
    if not os.access(path, os.X_OK):
        print(f"{path} is missing: build it, or name it by {variable}=PATH",
              file=sys.stderr)
        sys.exit(WRONG_USAGE)
    return path.resolve()


def run(kernel, arguments, options=(), environment=None, lab=LAB,
        kinds=KERNELS):
    """What this program prints in the lab with a kernel of kinds, by lines.

    The environment is added to what run.sh passes on.
    """
    variables = [f"{name}={value}"
                 for name, value in (environment or {}).items()]
    done = subprocess.run(
        [lab, "--kernel", kinds[kernel], "--timeout", str(TIMEOUT_S),
         *options, "--", "env", *variables, sys.executable,
         Path(sys.argv[0]).resolve(), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        check=False)
    if done.returncode == SKIPPED:
        sys.exit(SKIPPED)
    if done.returncode != 0:
        sys.exit(f"the lab with the {kernel} kernel ended with "
                 f"{done.returncode}:\n{done.stdout}")
    return done.stdout.splitlines()
