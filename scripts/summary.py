#!/usr/bin/python3
"""Add up what a test run left in a directory, and close with one line.

summary.py DIR reads DIR/checks (tab separated: outcome, name) and the
JUnit file of each ctest run, DIR/STEP.xml. A test program that reports its
own cases (ours under pytest, or cmocka) counts by case, any other as one.
Exit status 1 when anything failed or nothing passed.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

# tests/conftest.py prints these two.
PYTEST_CASES = re.compile(
    r"^CASES passed=(\d+) failed=(\d+) skipped=(\d+)$", re.M)
# pytest itself prints "SKIPPED [1] file:line: reason" as well: not that one.
SKIPPED_CASE = re.compile(r"^SKIPPED (?!\[)(.*)$", re.M)
CMOCKA_PASSED = re.compile(r"^\[  PASSED  \] (\d+) test\(s\)\.", re.M)
CMOCKA_FAILED = re.compile(r"^\[  FAILED  \] .*?: (\d+) test\(s\)", re.M)
CMOCKA_SKIPPED = re.compile(r"^\[  SKIPPED \] .*?: (\d+) test\(s\)", re.M)


class Totals:
    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []

    def add_checks(self, path):
        for line in path.read_text().splitlines():
            outcome, name = line.split("\t")
            if outcome == "passed":
                self.passed += 1
            elif outcome == "skipped":
                self.skipped.append(name)
            else:
                self.failed.append(name)

    def add_ctest(self, path):
        for case in ElementTree.parse(path).getroot().iter("testcase"):
            self.add_testcase(path.stem, case)

    def add_testcase(self, step, case):
        name = f"{step}/{case.get('name')}"
        output = case.findtext("system-out") or ""
        passed, failed, skipped = cases(output)
        reasons = SKIPPED_CASE.findall(output)
        if case.get("status") == "fail":
            # A crash or a timeout has no failed case of its own.
            self.failed += [name] * max(failed, 1)
        if case.get("status") == "notrun":
            skipped = max(skipped, 1)
            note = case.find("skipped")
            if not reasons and note is not None:
                reasons = [note.get("message", "no reason given")]
        elif case.get("status") == "run" and passed + skipped == 0:
            passed = 1
        self.passed += passed
        reasons += ["no reason given"] * (skipped - len(reasons))
        self.skipped += [f"{name}: {reason}" for reason in reasons]


def cases(output):
    """(passed, failed, skipped) as the program itself reports them."""
    match = PYTEST_CASES.search(output)
    if match:
        return tuple(int(number) for number in match.groups())
    return tuple(sum(int(number) for number in pattern.findall(output))
                 for pattern in (CMOCKA_PASSED, CMOCKA_FAILED,
                                 CMOCKA_SKIPPED))


def main():
    directory = Path(sys.argv[1])
    totals = Totals()
    if (directory / "checks").exists():
        totals.add_checks(directory / "checks")
    for path in sorted(directory.glob("*.xml")):
        totals.add_ctest(path)
    for title, names in (("failed", totals.failed),
                         ("skipped", totals.skipped)):
        for name in names:
            print(f"{title}: {name}")
    print(f"{totals.passed} passed, {len(totals.failed)} failed, "
          f"{len(totals.skipped)} skipped")
    return 1 if totals.failed or not totals.passed else 0


if __name__ == "__main__":
    sys.exit(main())
