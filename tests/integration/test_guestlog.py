"""The checker itself: what it must not let pass."""

import zlib

import pytest

from guestlog import GuestError, Stream


def line(text):
    return f"{text} sum={zlib.crc32(text.encode()):08x}\n".encode()


def beat(seq, errs=0, t_ms=None, writes=None):
    return line(f"hb seq={seq} t_ms={t_ms or seq * 100} up_us={seq * 100000} "
                f"writes={writes or seq} verified=0 max_stall_us=1 "
                f"max_stall_all_us=1 errs={errs}")


@pytest.fixture
def stream(scratch):
    def make(*parts, branched=False):
        files = [scratch / str(i) for i in range(len(parts))]
        for file, part in zip(files, parts):
            file.write_bytes(part)
        return Stream(*files, branched=branched)
    return make


def test_good(stream):
    assert len(stream(line("GUEST-START version=1") + beat(1) + beat(2),
                      beat(3)).check()) == 3


def test_a_line_may_be_cut_by_a_move_anywhere(stream):
    text = beat(1) + beat(2) + beat(3)
    for cut in range(len(text)):
        assert len(stream(text[:cut], text[cut:]).check()) == 3


@pytest.mark.parametrize("parts", [
    (beat(1) + beat(3),), (beat(1), beat(1)), (beat(2),), (beat(1), beat(3)),
    (beat(1, errs=1),), (beat(1), line("GUEST-FAIL verify gpa=0x1 cpu=0")),
    (line("GUEST-FAULT vec=14"),), (line("verify-all bad pages=1 errs=1"),),
    (beat(1)[:-20] + beat(2),), (beat(1), b"x" + beat(2)),
    (beat(1).replace(b"seq=1", b"seq=7"),),
    (beat(1, t_ms=500), beat(2, t_ms=400)), (beat(1, writes=9), beat(2)),
], ids=["gap", "repeat", "late start", "lost in the move", "errors", "fail",
        "fault", "verify", "lost bytes", "extra byte", "changed",
        "clock back", "work undone"])
def test_bad(stream, parts):
    with pytest.raises(GuestError):
        stream(*parts).check()


def test_out_of_a_snapshot(stream):
    """It begins in mid-line and in mid-count; from there all must hold."""
    good = stream(beat(7)[30:] + beat(8) + beat(9), branched=True)
    assert [beat["seq"] for beat in good.check()] == [8, 9]
    with pytest.raises(GuestError):
        stream(beat(7)[30:] + beat(8) + beat(8), branched=True).check()
