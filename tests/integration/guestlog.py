"""What the test guest says on its serial port, checked line by line.

tests/guest/README.md has the format. A Stream is what one guest said, over all
the processes it lived in: the serial files are joined in the order in which it
lived there, so a line may begin in one file and end in the next. A byte lost or
doubled by a move breaks a checksum; a beat lost or doubled breaks the count; a
guest that ran twice would do both.
"""

import re
import zlib
from pathlib import Path

LINE_SUM = re.compile(r"^(?P<text>.*) sum=(?P<sum>[0-9a-f]{8})$")
KEY = re.compile(r"(\w+)=(\S+)")


class GuestError(AssertionError):
    """The guest saw something wrong, or said something garbled."""


class Line:
    """One line of the guest: kind is its first word, keys its key=value."""

    def __init__(self, text):
        self.text = text
        self.kind = text.split(" ", 1)[0]
        self.keys = dict(KEY.findall(text))

    def __getitem__(self, key):
        return int(self.keys[key], 0)

    def __repr__(self):
        return self.text


def check_sum(raw):
    """The Line in raw, a line without its end."""
    match = LINE_SUM.match(raw)
    if not match or zlib.crc32(match["text"].encode()) != int(match["sum"], 16):
        raise GuestError(f"garbled line: {raw!r}")
    return Line(match["text"])


class Stream:
    """branched: the guest came out of a snapshot, perhaps in mid-line."""

    def __init__(self, *files, branched=False):
        self.files = [Path(file) for file in files]
        self.branched = branched

    def raw(self):
        parts = [file.read_bytes() for file in self.files if file.exists()]
        return b"".join(parts)

    def lines(self):
        """All complete lines so far, checked."""
        raws = self.raw().decode("ascii", "replace").split("\n")[:-1]
        raws = [raw.rstrip("\r") for raw in raws]
        if self.branched and raws:
            # Its beginning is in the other branch's file, unless it is whole.
            try:
                check_sum(raws[0])
            except GuestError:
                raws = raws[1:]
        return [check_sum(raw) for raw in raws if raw]

    def beats(self):
        return [line for line in self.lines() if line.kind == "hb"]

    def kinds(self, kind):
        return [line for line in self.lines() if line.kind == kind]

    def check(self):
        """Everything that must hold at any time; returns the beats."""
        lines = self.lines()
        for line in lines:
            if line.kind in ("GUEST-FAIL", "GUEST-FAULT"):
                raise GuestError(f"the guest reports: {line}")
            if line.kind == "verify-all" and not line.text.startswith(
                    "verify-all ok"):
                raise GuestError(f"the guest reports: {line}")
        beats = [line for line in lines if line.kind == "hb"]
        self._check_beats(beats)
        return beats

    def _check_beats(self, beats):
        if beats and not self.branched and beats[0]["seq"] != 1:
            raise GuestError(f"the first beat is not the first: {beats[0]}")
        for beat in beats:
            if beat["errs"] != 0:
                raise GuestError(f"errors counted: {beat}")
        for last, beat in zip(beats, beats[1:]):
            if beat["seq"] != last["seq"] + 1:
                raise GuestError(f"beats not in a row: {last} then {beat}")
            if beat["t_ms"] < last["t_ms"] or beat["up_us"] < last["up_us"]:
                raise GuestError(f"time went back: {last} then {beat}")
            if beat["writes"] < last["writes"]:
                raise GuestError(f"work undone: {last} then {beat}")
