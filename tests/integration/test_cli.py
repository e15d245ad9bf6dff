"""The vmmd command as people and scripts use it."""

import fcntl
import json
import os
import pty
import signal
import stat
import subprocess
import termios
from pathlib import Path

import pytest

from vmmd import (DONE, FAILED, GUEST_ELF, MIB, PATIENCE_S, USAGE, VMMD, Command,
                  wait_until)

BUSY = "mem=8M work=dirty hb=50"
COMMANDS = ("run", "receive", "restore", "migrate", "snapshot", "list",
            "status", "pause", "resume", "stop", "wait", "cancel", "send",
            "balloon", "doctor")


@pytest.fixture
def detached(host):
    """The name of a detached guest and what run --detach said of it."""
    result = host.vmmd("run", "--name", "a", "--kernel", GUEST_ELF, "--mem",
                       "64M", "--cmdline", BUSY, "--serial",
                       f"file:{host.directory}/a.serial", "--detach", "--json")
    yield result.json
    host.vmmd("stop", "a", "--force", check=False)


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


def test_help(host):
    overview = host.vmmd("--help").stdout
    for command in COMMANDS:
        assert command in overview
        text = host.vmmd(command, "--help").stdout
        assert text.startswith(f"Usage: vmmd {command}")
        assert "--help" in text


def test_version(host):
    assert host.vmmd("--version").stdout.startswith("vmmd ")


def test_detach_returns_when_the_guest_runs(host, detached):
    status = host.vmmd("status", "a", "--json").json
    assert detached["result"] == status["state"] == "running"
    assert detached["pid"] == status["pid"]
    assert status["vcpus"] == 1
    assert status["memory_bytes"] == 64 * MIB
    host.vmmd("stop", "a")
    wait_until(lambda: gone(detached["pid"]), "the end of the process")


def test_receive_detached_returns_when_it_listens(host, detached):
    result = host.vmmd("receive", "--name", "b", "--listen",
                       "tcp://127.0.0.1:0", "--detach", "--json").json
    assert result["listen"].startswith("tcp://127.0.0.1:")
    stats = host.vmmd("migrate", "a", result["listen"], "--json").json
    assert stats["result"] == "completed"
    wait_until(lambda: gone(detached["pid"]), "the end of the source")
    assert host.vmmd("status", "b", "--json").json["state"] == "running"
    host.vmmd("stop", "b")


def test_migrate_reports_all_that_it_promises(host):
    guest = host.run(BUSY).wait_ready()
    stats = host.move(guest)
    assert set(stats) >= {
        "result", "mode", "switchover", "total_ms", "setup_ms", "precopy_ms",
        "downtime_ms", "downtime", "postcopy_ms", "rounds", "bytes_sent",
        "pages_sent", "pages_zero", "pages_skipped", "pages_deferred", "channels", "tracker",
        "throughput_bytes_per_s", "faults", "pauses", "syncs", "pages_stale",
        "pages_duplicate", "fault_request", "fault_wire", "fault_place",
        "blocked_ms", "blocked_others_ms"}
    assert set(stats["downtime"]) == {"stop_ms", "sync_ms", "pages_ms",
                                      "state_ms", "commit_ms", "start_ms"}
    assert set(stats["faults"]) == {"count", "p50_us", "p99_us", "max_us"}
    assert stats["mode"] == "hybrid"


def test_snapshot_and_restore_report_all_that_they_promise(host):
    guest = host.run(BUSY).wait_ready()
    directory, stats = host.snapshot(guest)
    assert set(stats) >= {"result", "pause_ms", "total_ms", "bytes_written",
                          "pages", "wp_faults"}
    assert set(stats["wp_faults"]) == {"count", "p50_us", "p99_us", "max_us"}
    assert stats["disks"]["count"] == 0
    restored = host.vmmd("restore", directory, "--name", "c", "--detach",
                         "--json").json
    assert set(restored) >= {"result", "start_ms", "faults"}
    host.vmmd("stop", "c")


def test_pause_and_resume(host):
    guest = host.run(BUSY).wait_ready()
    host.vmmd("pause", guest.vmm.name)
    assert guest.vmm.state() == "paused"
    seq = guest.last_seq()
    host.vmmd("pause", guest.vmm.name)  # again is fine
    assert guest.last_seq() <= seq + 1
    host.vmmd("resume", guest.vmm.name)
    guest.wait_beats(3)
    guest.verify()


def test_list(host, detached):
    guest = host.run(BUSY)
    names = {entry["name"]
             for entry in host.vmmd("list", "--json").json["guests"]}
    assert names == {"a", guest.vmm.name}
    text = host.vmmd("list").stdout
    assert "a" in text and guest.vmm.name in text and "running" in text


def test_list_without_guests(host):
    assert host.vmmd("list", "--json").json["guests"] == []
    host.vmmd("list")


def has_asked(pid):
    """It sleeps and has a connection: its question is on its way."""
    try:
        files = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        stat_line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # closed while we looked
        return False
    return (stat_line.rsplit(")", 1)[1].split()[0] == "S" and
            any(file.startswith("socket:") for file in files))


def test_wait_ends_with_the_guest(host):
    guest = host.run(BUSY).wait_ready()
    waiting = Command(host, ["wait", guest.vmm.name])
    wait_until(lambda: has_asked(waiting.process.pid), "wait has asked")
    guest.ask("q")
    assert waiting.wait().status == DONE
    assert guest.vmm.wait_exit() == DONE


def test_send_types_at_the_serial_port(host):
    guest = host.run(BUSY)
    guest.ask("s")
    assert guest.wait_line("cpu")["id"] == 0


def test_power_off_ends_the_process_with_success(host):
    guest = host.run(BUSY)
    guest.ask("q")
    assert guest.vmm.wait_exit() == DONE
    assert len(guest.stream.kinds("GUEST-DONE")) == 1


@pytest.mark.parametrize("kind", ["reset", "triple"])
def test_reset_boots_again(host, kind):
    guest = host.run(f"mem=8M work=dirty hb=50 time=1 exit={kind}")
    wait_until(lambda: len(guest.stream.kinds("GUEST-START")) >= 2,
               "the second start")
    assert guest.vmm.alive()


def test_terminate_ends_cleanly(host):
    guest = host.run(BUSY)
    guest.vmm.process.send_signal(signal.SIGTERM)
    assert guest.vmm.wait_exit() == DONE


def test_socket_is_for_its_owner_only(host):
    guest = host.run(BUSY)
    mode = os.stat(host.run_dir / f"{guest.vmm.name}.sock").st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_name_of_a_killed_process_can_be_taken_again(host):
    """What SIGKILL left in the run directory stands in nobody's way."""
    guest = host.run(BUSY)
    name = guest.vmm.name
    guest.vmm.kill()
    result = host.vmmd("status", name, check=False)
    assert result.status == FAILED
    host.vmmd("run", "--name", name, "--kernel", GUEST_ELF, "--mem", "64M",
              "--cmdline", BUSY, "--serial", "null", "--detach")
    host.vmmd("stop", name)


def test_config_file_and_command_line(host):
    """What is on the command line wins."""
    config = host.directory / "config.json"
    config.write_text(json.dumps({
        "name": "x", "kernel": GUEST_ELF, "mem": "32M", "cpus": 2,
        "cmdline": BUSY, "serial": "null"}))
    host.vmmd("run", "--config", config, "--mem", "48M", "--detach")
    status = host.vmmd("status", "x", "--json").json
    host.vmmd("stop", "x")
    assert (status["memory_bytes"], status["vcpus"]) == (48 * MIB, 2)


def disk(host, name, size=MIB, content=b""):
    path = host.directory / name
    path.write_bytes(content)
    os.truncate(path, size)
    return path


def devices(vmm):
    return [{key: value for key, value in device.items()
             if key in ("type", "path", "read_only", "direct", "cid")}
            for device in vmm.status()["devices"]]


def test_devices_from_options_and_from_a_config_file(host):
    """Lists in the file for what may be repeated; the command line wins."""
    first, second = disk(host, "a,b"), disk(host, "second")
    config = host.directory / "config.json"
    config.write_text(json.dumps({
        "kernel": GUEST_ELF, "mem": "64M", "cmdline": BUSY, "rng": True,
        "balloon": False, "console": f"file:{host.directory / 'console'}",
        "disk": ["path=/overruled", "path=/as-well,ro"]}))
    guest = host.run(BUSY, options=(
        "--config", config, "--disk", f"path={str(first).replace(',', ',,')}",
        "--disk", f"path={second},ro"))
    assert devices(guest.vmm) == [
        {"type": "disk", "path": str(first), "read_only": False,
         "direct": False},
        {"type": "disk", "path": str(second), "read_only": True,
         "direct": False},
        {"type": "console"}, {"type": "rng"}]


def test_a_disk_has_one_owner(host):
    image = disk(host, "image")
    first = host.run(BUSY, options=("--disk", f"path={image}"))
    second = host.vmmd("run", "--name", "x", "--kernel", GUEST_ELF, "--serial",
                       "null", "--disk", f"path={image}", check=False)
    assert second.status == FAILED
    assert f"disk {image} is in use" in second.stderr
    first.vmm.stop()
    host.run(BUSY, options=("--disk", f"path={image}"))


def test_readers_share_a_disk(host):
    image = disk(host, "image")
    for _ in range(2):
        host.run(BUSY, options=("--disk", f"path={image},ro"))


def test_devices_come_along(host):
    """A migration and a snapshot rebuild the guest's devices by themselves."""
    image = disk(host, "image")
    guest = host.run(BUSY, options=("--disk", f"path={image}", "--rng",
                                    "--console", "null", "--balloon"))
    had = devices(guest.vmm)
    guest.wait_ready()
    host.move(guest)
    assert devices(guest.vmm) == had
    directory, _ = host.snapshot(guest)
    guest.vmm.stop()
    assert devices(host.restore(directory).vmm) == had


def test_the_receiver_says_where_a_disk_is(host):
    image, there = disk(host, "image"), disk(host, "there")
    guest = host.run(BUSY, options=("--disk", f"path={image}")).wait_ready()
    host.move(guest, receive_options=("--disk", f"path={there}"))
    assert devices(guest.vmm)[0]["path"] == str(there)
    guest.verify()


def test_refused_with_every_reason(host):
    small = disk(host, "small", 4096)
    options = [option for name in ("a", "b", "c")
               for option in ("--disk", f"path={disk(host, name)}")]
    guest = host.run(BUSY, options=options).wait_ready()
    for given, *reasons in (
            (["path=/nonexistent", f"path={small}",
              f"path={host.directory / 'c'},ro"],
             "/nonexistent", "4096", "read-only"),
            ([f"path={small}"], "1 --disk given here, but the guest has 3")):
        destination = host.receive([option for path in given
                                    for option in ("--disk", path)])
        result = host.vmmd("migrate", guest.vmm.name, destination.uri,
                           check=False)
        assert result.status == FAILED
        for reason in reasons:
            assert reason in result.stderr, result
    guest.verify()


def test_snapshot_with_disks(host):
    """A copy of the instant; the snapshot is never written to."""
    image = disk(host, "image", content=b"as it was")
    guest = host.run(BUSY, options=("--disk", f"path={image}")).wait_ready()
    directory, stats = host.snapshot(guest, None, "--disks")
    guest.vmm.stop()
    assert stats["disks"]["count"] == 1
    copy = directory / "disk0.raw"
    assert copy.read_bytes() == image.read_bytes()
    manifest = json.loads((directory / "manifest.json").read_text())
    assert manifest["disks"] == [{"disk": 0, "file": "disk0.raw",
                                  "bytes": MIB}]
    refused = host.vmmd("restore", directory, "--name", "x", "--serial",
                        "null", "--disk", f"path={copy}", check=False)
    assert refused.status == FAILED and "part of the snapshot" in refused.stderr
    mine = disk(host, "mine", content=copy.read_bytes())
    restored = host.restore(directory, options=("--disk", f"path={mine}"))
    restored.verify()


def test_balloon(host):
    guest = host.run(BUSY)
    result = host.vmmd("balloon", guest.vmm.name, "8M", check=False)
    assert result.status == FAILED and "no balloon" in result.stderr
    other = host.run(BUSY, options=("--balloon",))
    host.vmmd("balloon", other.vmm.name, "8M")
    result = host.vmmd("balloon", other.vmm.name, "1G", check=False)
    assert result.status == FAILED


def test_power_button_of_a_guest_that_does_not_listen(host):
    guest = host.run(BUSY)
    result = host.vmmd("stop", guest.vmm.name, "--powerdown", check=False)
    assert result.status == FAILED and "does not listen" in result.stderr
    guest.wait_beats(2)


def test_complaints_are_json_for_who_asked_for_it(host):
    config = host.directory / "config.json"
    config.write_text('{"mem": []}')
    for args, status, result in (
            (("run", "--json"), USAGE, "usage"),
            (("status", "--json", "a", "b"), USAGE, "usage"),
            (("run", "--frobnicate", "--json"), USAGE, "usage"),
            (("run", "--json", "--config", config), FAILED, "failed"),
            (("fly", "--json"), USAGE, "usage")):
        answer = host.vmmd(*args, check=False)
        assert answer.status == status
        assert answer.json["result"] == result and answer.json["error"]
    value = host.vmmd("list", "--json=1", check=False)
    assert value.status == USAGE and "takes no value" in value.stderr
    assert value.json["result"] == "usage"


def test_serial_on_a_pty(host):
    result = host.vmmd("run", "--name", "x", "--kernel", GUEST_ELF, "--mem",
                       "64M", "--cmdline", BUSY, "--serial", "pty",
                       "--detach", "--json").json
    with open(result["pty"], "rb", buffering=0) as terminal:
        text = b""
        while b"hb seq=" not in text:
            text += terminal.read(4096)
    host.vmmd("stop", "x")


def test_serial_on_stdio_of_a_terminal(host):
    """Raw while the guest runs; Ctrl-A x ends it; the terminal is put back."""
    master, slave = pty.openpty()
    before = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True,
                            check=True).stdout
    vmm = host.popen(["run", "--name", "x", "--kernel", GUEST_ELF, "--mem",
                      "64M", "--cmdline", BUSY], stdin=slave, stdout=slave,
                     stderr=subprocess.DEVNULL, start_new_session=True,
                     preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    text = b""
    while b"hb seq=" not in text:
        text += os.read(master, 4096)
    os.write(master, b"\x01x")
    assert vmm.wait(PATIENCE_S) == DONE
    after = subprocess.run(["stty", "-g"], stdin=slave, capture_output=True,
                           check=True).stdout
    os.close(master)
    os.close(slave)
    assert after == before


def test_doctor(host):
    text = host.vmmd("doctor").stdout
    for word in ("/dev/kvm", "userfaultfd", "log", "manual", "ring"):
        assert word in text
    json.loads(host.vmmd("doctor", "--json").stdout)


def test_threads_and_sixty_four_vcpus(host):
    guest = host.run("mem=16M work=dirty rate=1000 hb=200", cpus=64, mem="128M")
    guest.wait_ready()
    assert guest.stream.kinds("GUEST-START")[0]["cpus"] == 64
    host.move(guest, "--downtime-limit", "1000")
    guest.verify()


def test_a_detached_process_leaves_its_directory(host):
    """It keeps no file system busy that it does not need."""
    gone_dir = host.directory / "gone"
    gone_dir.mkdir()
    subprocess.run([VMMD, "run", "--name", "x", "--kernel", GUEST_ELF, "--mem",
                    "64M", "--cmdline", BUSY, "--serial", "null", "--detach"],
                   cwd=gone_dir, env=host.environment(), check=True,
                   stdout=subprocess.DEVNULL)
    gone_dir.rmdir()
    assert host.vmmd("status", "x", "--json").json["state"] == "running"
    host.vmmd("stop", "x")
