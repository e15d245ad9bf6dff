"""Drive real vmmd processes: the library under every process-level test.

A Host is one test's world: a run directory of its own and every process that
was started in it. A Vmm is one process that owns (or waits for) a guest. A Guest
is the guest itself, wherever it lives: its serial output over all the processes
it lived in, and what can be asked of it.

Environment (ctest sets it): VMMD, GUEST_ELF; VMMD_SANITIZER when the binary was
built with one. Only processes started here are ever signalled.
"""

import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from guestlog import Stream

VMMD = os.environ.get("VMMD", "build/release/cli/vmmd")
GUEST_ELF = os.environ.get("GUEST_ELF", "build/release/tests/guest/guest.elf")
TSAN_SUPPRESSIONS = Path(__file__).resolve().parent.parent / "tsan.supp"
SANITIZER = os.environ.get("VMMD_SANITIZER", "")
PAGE_BYTES = 4096
MIB = 1 << 20
GIB = 1 << 30

# No test is about how long something takes: these are for what never comes.
PATIENCE_S = float(os.environ.get("VMMD_PATIENCE") or
                   (120 if SANITIZER else 60))
POLL_S = 0.01

SANITIZER_REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer",
                     "WARNING: ThreadSanitizer", "runtime error:")

DONE, FAILED, USAGE, ATTENTION = range(4)

# Lets precopy end with a busy guest. Sanitizers send slowly.
FIT = ("--downtime-limit", 5000 if SANITIZER else 500)


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """In a child before exec: a test that is killed takes its guests along."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Timeout(AssertionError):
    pass


def wait_until(condition, what, patience_s=None):
    """The first true value of condition()."""
    limit = time.monotonic() + (patience_s or PATIENCE_S)
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise Timeout(f"never came: {what() if callable(what) else what}")
        time.sleep(POLL_S)


def phase_of(status):
    return (status.get("operation") or status.get("arrival") or {}).get("phase")


def owns(status):
    """Does a process with this status say that its vCPUs may run?"""
    return status.get("state") in ("running", "saving") or (
        status.get("state") == "migrating" and
        phase_of(status) in ("setup", "precopy"))


class Result:
    """A command that has ended."""

    def __init__(self, args, status, stdout, stderr):
        self.args, self.status = args, status
        self.stdout, self.stderr = stdout, stderr

    @property
    def json(self):
        return json.loads(self.stdout)

    def __repr__(self):
        return (f"vmmd {' '.join(map(str, self.args))}: exit {self.status}\n"
                f"{self.stdout}{self.stderr}")


class Command:
    """A command that runs beside the test, such as a migration."""

    def __init__(self, host, args, env=None):
        self.args = args
        self.process = host.popen(args, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env=env)

    def running(self):
        return self.process.poll() is None

    def wait(self, patience_s=None):
        try:
            out, err = self.process.communicate(
                timeout=patience_s or PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise Timeout(f"vmmd {' '.join(map(str, self.args))} never ended: "
                          f"{out}{err}") from None
        return Result(self.args, self.process.returncode, out, err)


class Vmm:
    """A process that owns a guest: vmmd run, receive or restore."""

    def __init__(self, host, name, args, env=None):
        self.host, self.name = host, name
        self.serial = host.directory / f"{name}.serial"
        self.out = host.directory / f"{name}.out"
        self.err = host.directory / f"{name}.err"
        self.args = [*args, "--serial", f"file:{self.serial}"]
        self.uri = None  # of a receiver
        self.frozen = False
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = host.popen(self.args, stdin=subprocess.DEVNULL,
                                      stdout=out, stderr=err, env=env)

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def errors(self):
        return self.err.read_text(errors="replace")

    def status(self):
        """What vmmd status says; {} when there is no such guest."""
        result = self.host.vmmd("status", self.name, "--json", check=False)
        return result.json if result.status == DONE else {}

    def state(self):
        return self.status().get("state")

    def wait_for(self, condition, what):
        """Until condition(status) holds; the process must not end before."""
        def look():
            assert self.alive(), f"{self.name} ended early: {self.errors()}"
            status = self.status()
            return status if status and condition(status) else None
        return wait_until(
            look, lambda: f"{self.name}: {what}; {self.status()} "
                          f"{self.errors()}")

    def wait_phase(self, phase):
        """Of the operation on the guest, or of its arrival here."""
        return self.wait_for(lambda status: phase_of(status) == phase,
                             f"phase {phase}")

    def wait_state(self, *states):
        return self.wait_for(lambda status: status.get("state") in states,
                             f"state {' or '.join(states)}")

    def wait_exit(self, patience_s=None):
        try:
            return self.process.wait(patience_s or PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Timeout(f"{self.name} never ended: {self.errors()}") from None

    def kill(self):
        """SIGKILL, and see it truly gone."""
        self.process.kill()
        self.wait_exit()

    def freeze(self):
        os.kill(self.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        """Only what is frozen: a process that ends may be attached to by its leak
        checker, whose SIGSTOP a SIGCONT undoes, and that waits for ever then."""
        if self.frozen:
            os.kill(self.pid, signal.SIGCONT)
        self.frozen = False

    def stop(self, force=False):
        self.host.vmmd("stop", self.name, *(["--force"] if force else []))
        status = self.wait_exit()
        assert status == DONE, f"{self.name} ended with {status}: {self.errors()}"

    def rss_bytes(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


class Guest:
    """The guest in vmm, with all it has said since it was booted."""

    def __init__(self, vmm, branched=False):
        self.vmm = vmm
        self.stream = Stream(vmm.serial, branched=branched)

    def moved_to(self, vmm):
        self.vmm = vmm
        self.stream.files.append(vmm.serial)

    def check(self):
        return self.stream.check()

    def wait_line(self, kind, count=1, patience_s=None):
        """The count-th line of this kind; fails at once when it cannot come."""
        def look():
            lines = self.stream.kinds(kind)
            if len(lines) >= count:
                return lines[count - 1]
            self.check()
            assert self.vmm.alive(), (
                f"{self.vmm.name} ended early: {self.vmm.errors()}")
            return None
        return wait_until(look, lambda: f"{kind} from the guest in "
                                        f"{self.vmm.name}: {self.tail()}",
                          patience_s)

    def tail(self):
        return self.stream.raw()[-400:].decode("ascii", "replace")

    def wait_ready(self):
        """It has been through all its memory once, and works at full speed."""
        self.wait_line("GUEST-READY")
        return self

    def last_seq(self):
        beats = self.stream.beats()
        return beats[-1]["seq"] if beats else 0

    def wait_beats(self, more=3):
        """It lives: so many more beats come."""
        goal = self.last_seq() + more

        def look():
            self.check()
            assert self.vmm.alive(), (
                f"{self.vmm.name} ended early: {self.vmm.errors()}")
            return self.last_seq() >= goal
        wait_until(look, lambda: f"beat {goal} of the guest in "
                                 f"{self.vmm.name}: {self.tail()}")

    def ask(self, text):
        self.vmm.host.vmmd("send", self.vmm.name, text)

    def forget_stalls(self):
        """From here on felt_ms() counts; returns what it is to be given."""
        before = len(self.stream.kinds("stalls-forgotten"))
        self.ask("z")
        self.wait_line("stalls-forgotten", before + 1)
        return self.last_seq()

    def felt_ms(self, since_seq):
        """The guest's own longest standstill in the beats after since_seq."""
        self.wait_beats(3)
        return max(beat["max_stall_us"] for beat in self.check()
                   if beat["seq"] > since_seq) / 1000

    def verify(self):
        """Every byte it ever wrote is what it wrote; all beats are there."""
        before = len(self.stream.kinds("verify-all"))
        self.ask("v")
        self.wait_line("verify-all", before + 1)
        return self.check()


class Host:
    """A run directory and the processes in it. close() checks for leaks."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.run_dir = self.directory / "run"
        self.run_dir.mkdir(mode=0o700)
        self.processes = []
        self.vmms = []
        self.proxies = []
        self.next_name = 0

    def environment(self):
        reports = f"log_path={self.directory}/sanitizer"
        env = dict(os.environ, VMMD_RUN_DIR=str(self.run_dir))
        env.pop("VMMD_FAULT", None)
        env["ASAN_OPTIONS"] = f"exitcode=99:detect_leaks=1:{reports}"
        env["UBSAN_OPTIONS"] = f"print_stacktrace=1:{reports}"
        env["TSAN_OPTIONS"] = (f"exitcode=99:halt_on_error=1:"
                               f"second_deadlock_stack=1:history_size=7:"
                               f"suppressions={TSAN_SUPPRESSIONS}:{reports}")
        return env

    def command(self, args):
        return [VMMD, *map(str, args)]

    def popen(self, args, env=None, **options):
        """A vmmd process; env is added to the environment."""
        options.setdefault("preexec_fn", die_with_parent)
        process = subprocess.Popen(
            self.command(args), env={**self.environment(), **(env or {})},
            **options)
        self.processes.append(process)
        return process

    def vmmd(self, *args, check=True, env=None, patience_s=None):
        """A command, to its end."""
        result = Command(self, args, env).wait(patience_s)
        assert not check or result.status == DONE, result
        return result

    def name(self, stem="g"):
        self.next_name += 1
        return f"{stem}{self.next_name}"

    # -- processes that own a guest

    def _own(self, stem, args, env):
        name = self.name(stem)
        vmm = Vmm(self, name, [args[0], *args[1:], "--name", name], env)
        self.vmms.append(vmm)
        return vmm

    def run(self, cmdline="", mem="64M", cpus=1, options=(), env=None):
        """vmmd run of the test guest; returns it once it has said a word."""
        vmm = self._own("r", ["run", "--kernel", GUEST_ELF, "--mem", mem,
                              "--cpus", cpus, "--cmdline", cmdline, *options],
                        env)
        guest = Guest(vmm)
        guest.wait_line("GUEST-START")
        return guest

    def receive(self, options=(), env=None, address="127.0.0.1", port=0):
        """vmmd receive, listening, by default on a free port: see its uri."""
        vmm = self._own("d", ["receive", "--listen", f"tcp://{address}:{port}",
                              *options], env)
        status = vmm.wait_for(lambda status: status.get("listen"), "listens")
        vmm.uri = status["listen"]
        return vmm

    def restore(self, snapshot, lazy=False, options=(), env=None):
        """vmmd restore; returns the guest once it runs."""
        vmm = self._own("s", ["restore", snapshot, *(["--lazy"] if lazy else []),
                              *options], env)
        vmm.wait_state("running")
        return Guest(vmm, branched=True)

    # -- what is done to them

    def start_migrate(self, guest, uri, *options):
        return Command(self, ["migrate", guest.vmm.name, uri, "--json",
                              *options])

    def migrate(self, guest, destination, *options, env=None):
        """Move guest to destination (a Vmm) and see the source end."""
        source = guest.vmm
        result = self.start_migrate(guest, destination.uri, *options).wait()
        assert result.status == DONE, (
            f"{result}source: {source.errors()}"
            f"destination: {destination.errors()}")
        assert source.wait_exit() == DONE, source.errors()
        guest.moved_to(destination)
        return result.json

    def move(self, guest, *options, receive_options=()):
        """The same, to a process of its own."""
        return self.migrate(guest, self.receive(receive_options), *options)

    def snapshot(self, guest, directory=None, *options):
        directory = directory or self.directory / self.name("snapshot")
        result = self.vmmd("snapshot", guest.vmm.name, directory, "--json",
                           *options)
        return directory, result.json

    # -- the end

    def owners_running(self):
        """Names of the processes that say their guest's vCPUs run."""
        return [vmm.name for vmm in self.vmms
                if vmm.alive() and owns(vmm.status())]

    def close(self):
        """Stop what still runs, then nothing may be left."""
        problems = []
        for proxy in self.proxies:
            proxy.close()
        for vmm in self.vmms:
            if vmm.alive():
                problems += self._end(vmm)
        problems += self._leaks()
        for left in self.run_dir.glob("*.sock"):
            # Detached, and its test failed before it was stopped.
            self.vmmd("stop", left.stem, "--force", check=False)
        for process in self.processes:
            if process.poll() is None:
                problems.append(f"pid {process.pid} still ran: {process.args}")
                process.kill()
            process.wait()
        assert not problems, "\n".join(problems)

    def _end(self, vmm):
        try:
            vmm.thaw()
            vmm.stop(force=True)
            return []
        except AssertionError as error:
            # A receiver may have been ending by itself just then.
            try:
                wait_until(lambda: not vmm.alive(), "its end")
                return []
            except AssertionError:
                vmm.kill()
                return [f"{vmm.name} could not be stopped: {error}"]

    def _leaks(self):
        # What SIGKILL left behind is swept by whoever takes the name next.
        killed = {vmm.name for vmm in self.vmms
                  if vmm.process.poll() == -signal.SIGKILL}
        problems = [f"left in the run directory: {entry}"
                    for entry in sorted(os.listdir(self.run_dir))
                    if entry.rsplit(".", 1)[0] not in killed]
        problems += self.sanitizer_reports()
        return problems

    def sanitizer_reports(self):
        files = [*self.directory.glob("sanitizer.*"), *self.run_dir.glob("*.log"),
                 *(vmm.err for vmm in self.vmms)]
        texts = [(file, file.read_text(errors="replace")) for file in files
                 if file.exists()]
        return [f"{file}:\n{text}" for file, text in texts
                if any(report in text for report in SANITIZER_REPORTS)]
