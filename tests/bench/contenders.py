"""The two sides of versus.py: vmmd and QEMU move the same guest.

A contender boots a guest, moves it, and tells what that cost, always in the same
steps: boot, memory for the other side warmed, a look at the clocks, the move, a
look at the clocks. Both give a dict of the same figures; see FIGURES in versus.py.
"""

import contextlib
import os
import time
from pathlib import Path

import qemu
from limits import Warm
from vmmd import GIB, MIB, PATIENCE_S, Guest, Timeout

ROOM_MIB = 64  # in the guest, beside its test memory
CPUS = os.cpu_count()


def cpu_time_s(pid):
    """Of a process with all its threads, ended or not: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def host_times_s():
    """(busy, stolen): CPU time of this host, all CPUs together."""
    with open("/proc/stat", encoding="ascii") as stat:
        ticks = [int(n) for n in stat.readline().split()[1:9]]
    idle, iowait, stolen = ticks[3], ticks[4], ticks[7]
    hz = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - idle - iowait - stolen) / hz, stolen / hz


def resident(pid, guest_bytes):
    """(guest, rest): resident bytes of the mapping that is its RAM, of all else."""
    guest = rest = 0
    ram_kib = guest_bytes // 1024
    in_ram = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        word, *values = line.split()
        if word == "Size:":
            in_ram = int(values[0]) == ram_kib
        elif word == "Rss:":
            if in_ram:
                guest += int(values[0]) * 1024
            else:
                rest += int(values[0]) * 1024
    return guest, rest


class Meter:
    """CPU time of the two processes of a move, and of everybody else.

    What the guest itself needs is measured while it is not being moved, and taken
    off. The source is counted to its very end, with the memory that it gives back.
    """

    def __init__(self, source_pid, target_pid):
        self.pids = (source_pid, target_pid)
        self.source_at = cpu_time_s(source_pid)
        self.at = time.monotonic()

    @contextlib.contextmanager
    def move(self, size):
        """Around the move, for which the memory is made ready; until it begins
        the guest runs undisturbed."""
        warm = Warm(size)
        try:
            warm.follow(self.pids[1])
            self._start()
            yield
            self._moved()
        finally:
            warm.release()

    def _start(self):
        now = time.monotonic()
        self.guest_share = ((cpu_time_s(self.pids[0]) - self.source_at) /
                            (now - self.at))
        self.before = [cpu_time_s(pid) for pid in self.pids]
        self.host, self.at = host_times_s(), now

    def _moved(self):
        self.wall_s = time.monotonic() - self.at
        self.host = [now - before for now, before in
                     zip(host_times_s(), self.host)]

    def figures(self, size):
        """The source has ended, and waits to be reaped."""
        used = [cpu_time_s(pid) - before
                for pid, before in zip(self.pids, self.before)]
        guest = self.guest_share * self.wall_s
        busy, stolen = self.host
        others = max(0, busy - sum(used))
        return {"cpu_s_per_gib": max(0, sum(used) - guest) * GIB / size,
                "cpu_source_s": used[0], "cpu_target_s": used[1],
                "cpu_guest_s": guest,
                "others": others / (self.wall_s * CPUS),
                "stolen_ms": stolen * 1000}


def wait_ended(pid, patience_s):
    """Until the process is a zombie: its clock can still be read."""
    limit = time.monotonic() + patience_s
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        if time.monotonic() > limit:
            raise Timeout(f"pid {pid} never ended")
        time.sleep(0.005)


class Contender:
    """host: a Host of vmmd.py. patience_s: for one move."""

    def __init__(self, host, patience_s):
        self.host, self.patience_s = host, patience_s

    def measure(self, scenario, size_mib):
        """One sample."""
        work = scenario.work.format(ws=size_mib // 4)
        guest = self.boot(f"mem={size_mib}M {work}" if scenario.filled else work,
                          size_mib + ROOM_MIB, scenario.cpus)
        try:
            guest.wait_ready()
            figures = self.overhead(guest, size_mib + ROOM_MIB)
            figures |= self.move(guest, scenario, size_mib * MIB)
            return figures
        finally:
            self.end(guest)

    def felt(self, guest, since):
        """The longest standstill of any vCPU since the stalls were forgotten, and
        how long the pages that it read let it wait: see felt.c."""
        guest.ask("h")
        waits = guest.wait_line("felt")
        guest.wait_beats(3)
        return {"felt_ms": max(beat["max_stall_all_us"] for beat in guest.check()
                               if beat["seq"] > since) / 1000,
                "waits": waits["count"],
                **{f"wait_{key}": waits[key]
                   for key in ("p50_us", "p99_us", "max_us")}}

    def overhead(self, guest, mem_mib):
        _, rest = resident(guest.vmm.pid, mem_mib * MIB)
        return {"overhead_mib": rest / MIB}


class Vmmd(Contender):
    name = "vmmd"

    def boot(self, cmdline, mem_mib, cpus):
        return self.host.run(cmdline, mem=f"{mem_mib}M", cpus=cpus)

    def move(self, guest, scenario, size):
        target = self.host.receive()
        source = guest.vmm
        since = guest.forget_stalls()
        meter = Meter(source.pid, target.pid)
        with meter.move(size):
            result = self.host.start_migrate(
                guest, target.uri, *scenario.vmmd).wait(self.patience_s)
        assert not result.status, (f"{result}source: {source.errors()}"
                                   f"destination: {target.errors()}")
        wait_ended(source.pid, PATIENCE_S)
        figures = meter.figures(size)
        source.wait_exit()
        guest.moved_to(target)
        said = result.json
        return figures | {
            "wall_ms": meter.wall_s * 1000, "total_ms": said["total_ms"],
            "said_down_ms": said["downtime_ms"], "rounds": said["rounds"],
            "sent_bytes": said["bytes_sent"],
            "postcopy_ms": said["postcopy_ms"],
            "faults": said["faults"]["count"],
            "fault_p50_us": said["faults"]["p50_us"],
            "fault_p99_us": said["faults"]["p99_us"],
            **self.felt(guest, since)}

    def end(self, guest):
        """Whatever became of it: all that still lives of this side."""
        for vmm in self.host.vmms:
            if vmm.alive():
                vmm.stop(force=True)


class Qemu(Contender):
    name = "qemu"

    def __init__(self, host, channels, patience_s):
        super().__init__(host, patience_s)
        self.channels = channels
        self.processes = []

    def process(self, *args, **options):
        new = qemu.Qemu(self.host.directory, self.host.name("q"), *args, **options)
        self.processes.append(new)
        return new

    def boot(self, cmdline, mem_mib, cpus):
        self.args = (cmdline, f"{mem_mib}M", cpus)
        guest = qemu.QemuGuest(self.process(*self.args))
        guest.wait_line("GUEST-START")
        return guest

    def move(self, guest, scenario, size):
        source, target = guest.vmm, self.process(*self.args, arriving=True)
        plan = scenario.plan(self.channels)
        for process in (source, target):
            process.configure(plan.capabilities, plan.parameters)
        uri = target.listen()
        since = guest.forget_stalls()
        meter = Meter(source.pid, target.pid)
        with meter.move(size):
            figures = qemu.move(source, target, uri, plan, self.patience_s)
        source.qmp.command("quit")
        wait_ended(source.pid, PATIENCE_S)
        figures |= meter.figures(size)
        guest.moved_to(target)
        return figures | self.felt(guest, since)

    def end(self, guest):
        for process in self.processes:
            process.kill()
        self.processes.clear()
