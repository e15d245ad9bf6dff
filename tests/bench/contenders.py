"""The two sides of versus.py: vmmd and QEMU move the same guest.

A contender boots a guest, moves it, and tells what that cost, always in the same
steps: boot, huge pages settled, memory for the other side warmed, a look at the
clocks, the move, a look at the clocks. Both give a dict of the same figures; see
FIGURES in report.py.
"""

import os
import time
from pathlib import Path

import qemu
from limits import Warm
from settle import wait_settled
from vmmd import GIB, MIB, PATIENCE_S, Guest, Timeout

ROOM_MIB = 64  # in the guest, beside its test memory
REST_BEATS = 10
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

    Made before the move, it has the memory ready that the move will need. What the
    guest itself needs is measured from then until the move begins, and taken off.
    The source is counted to its very end, with the memory that it gives back.
    """

    def __init__(self, source, target, size):
        self.pids = (source.pid, target.pid)
        self.source_at = cpu_time_s(source.pid)
        self.at = time.monotonic()
        self.warm = Warm(size)

    def __enter__(self):
        self.warm.follow(self.pids[1])
        self._start()

    def __exit__(self, *error):
        self._moved()
        self.warm.release()

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


def longest_stall_ms(guest, since):
    """Of any vCPU, by the guest's TSC, in the beats after since."""
    return max(beat["max_stall_all_us"] for beat in guest.check()
               if beat["seq"] > since) / 1000


def longest_waits(said, nr):
    """The nr longest waits in the line that felt.c describes, in us, sorted.

    As many as pages were asked for: pages that are there, but that KVM has yet to
    map, keep a guest waiting as well, only less long.
    """
    waits = []
    for key in said.keys:
        if key[0] == "u":
            least = int(key[1:])
            middle = least + (1 << least.bit_length() - 4)  # four to an octave
            waits += [middle] * said[key]
    return sorted(waits)[-nr:] if nr else []


class Contender:
    """host: a Host of vmmd.py. patience_s: for one move.

    A contender has boot(), move() and end(); what it boots is a Guest.
    """

    def __init__(self, host, patience_s):
        self.host, self.patience_s = host, patience_s

    def measure(self, scenario, size_mib):
        """One sample."""
        mem_mib = size_mib + ROOM_MIB
        work = scenario.work.format(ws=size_mib // 4)
        try:
            guest = self.boot(f"mem={size_mib}M {work}" if scenario.filled else work,
                              mem_mib, scenario.cpus)
            guest.wait_ready()
            if scenario.filled:
                wait_settled(guest.vmm.pid, size_mib)
            _, rest = resident(guest.vmm.pid, mem_mib * MIB)
            figures = {"overhead_mib": rest / MIB}
            if "rest_ms" in scenario.show:
                figures |= self.at_rest(guest)
            return figures | self.move(guest, scenario, size_mib * MIB)
        finally:
            self.end()

    def at_rest(self, guest):
        """The longest standstill that it feels without being moved."""
        since = guest.last_seq()
        guest.wait_beats(REST_BEATS)
        return {"rest_ms": longest_stall_ms(guest, since)}

    def felt(self, guest, since, faults=0):
        """The longest standstill of any vCPU since the stalls were forgotten, and
        how long the pages that it missed let it wait."""
        guest.ask("h")
        said = guest.wait_line("felt")
        guest.wait_beats(3)
        figures = {"felt_ms": longest_stall_ms(guest, since)}
        waits = longest_waits(said, faults)
        if waits:
            figures |= {"wait_p50_us": waits[len(waits) // 2],
                        "wait_p99_us": waits[len(waits) * 99 // 100],
                        "wait_max_us": said["max_us"]}
        return figures


class Vmmd(Contender):
    name = "vmmd"

    def boot(self, cmdline, mem_mib, cpus):
        return self.host.run(cmdline, mem=f"{mem_mib}M", cpus=cpus)

    def move(self, guest, scenario, size):
        target = self.host.receive()
        source = guest.vmm
        meter = Meter(source, target, size)
        since = guest.forget_stalls()
        with meter:
            command = self.host.start_migrate(guest, target.uri, *scenario.vmmd)
            try:
                result = command.wait(self.patience_s)
            except Timeout as stuck:
                raise Timeout(f"{stuck}; the source says {source.status()} "
                              f"{source.errors()}{target.errors()}") from None
        assert not result.status, (f"{result}source: {source.errors()}"
                                   f"destination: {target.errors()}")
        wait_ended(source.pid, PATIENCE_S)
        figures = meter.figures(size)
        source.wait_exit()
        guest.moved_to(target)
        said = result.json
        return figures | {
            "wall_ms": meter.wall_s * 1000, "total_ms": said["total_ms"],
            "setup_ms": said["setup_ms"],
            "said_down_ms": said["downtime_ms"], "rounds": said["rounds"],
            "sent_bytes": said["bytes_sent"],
            "postcopy_ms": said["postcopy_ms"],
            "faults": said["faults"]["count"],
            "fault_p50_us": said["faults"]["p50_us"],
            "fault_p99_us": said["faults"]["p99_us"],
            **self.felt(guest, since, said["faults"]["count"])}

    def end(self):
        """Whatever became of it: all that still lives of this side."""
        for vmm in self.host.vmms:
            if vmm.alive():
                try:
                    vmm.stop(force=True)
                except AssertionError:
                    vmm.kill()


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
        meter = Meter(source, target, size)
        since = guest.forget_stalls()
        with meter:
            figures = qemu.move(source, target, uri, plan, self.patience_s)
        source.qmp.command("quit")
        wait_ended(source.pid, PATIENCE_S)
        figures |= meter.figures(size)
        guest.moved_to(target)
        return figures | self.felt(guest, since, figures.get("faults", 0))

    def end(self):
        for process in self.processes:
            process.kill()
        self.processes.clear()
