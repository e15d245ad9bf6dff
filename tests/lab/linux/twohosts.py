"""Two hosts for a guest to move between, and a peer that it talks to: three
network namespaces on one switch, in a fourth.

    one, two    each a bridge "br0" that carries the host's address, with the tap
                "tap" of the guest on it
    peer        somebody else on the same network

The guest's address stays; which host's port its frames go to is for the switch
to learn, from what the guest's network says after a move.
"""

import subprocess
from contextlib import contextmanager

from vmmd import Host

TAP = "tap"
ADDRESS = {"one": "10.112.0.1", "two": "10.112.0.2", "peer": "10.112.0.3"}
GUEST_ADDRESS = "10.112.0.10"
OTHER = {"one": "two", "two": "one"}


def host_run(*command):
    return subprocess.run(command, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


class TwoHosts(Host):
    """What is started in "with hosts.inside(NAME)" runs in that namespace."""

    def __init__(self, directory):
        super().__init__(directory)
        self.namespace = None
        self.beside = []
        self._ip("netns", "add", "switch")
        self._in("switch", "link", "add", "br0", "type", "bridge")
        self._in("switch", "link", "set", "br0", "up")
        for name in ADDRESS:
            self._add(name)

    def _ip(self, *arguments):
        return host_run("ip", *arguments)

    def _in(self, namespace, *arguments):
        return self._ip("-n", namespace, *arguments)

    def _add(self, name):
        self._ip("netns", "add", name)
        self._in(name, "link", "set", "lo", "up")
        self._in(name, "link", "add", "wire", "type", "veth", "peer", "name",
                 f"to-{name}", "netns", "switch")
        self._in("switch", "link", "set", f"to-{name}", "master", "br0", "up")
        self._in(name, "link", "add", "br0", "type", "bridge")
        self._in(name, "link", "set", "wire", "master", "br0", "up")
        if name in OTHER:
            self._in(name, "tuntap", "add", TAP, "mode", "tap")
            self._in(name, "link", "set", TAP, "master", "br0", "up")
        self._in(name, "address", "add", f"{ADDRESS[name]}/24", "dev", "br0")
        self._in(name, "link", "set", "br0", "up")

    @contextmanager
    def inside(self, namespace):
        before, self.namespace = self.namespace, namespace
        try:
            yield self
        finally:
            self.namespace = before

    def command(self, args):
        if self.namespace is None:
            return super().command(args)
        # "ip netns exec" becomes what it runs: the pid is vmmd's.
        return ["ip", "netns", "exec", self.namespace, *super().command(args)]

    def run_beside(self, namespace, *command, env=None):
        """What something that is not vmmd prints."""
        return subprocess.run(
            ["ip", "netns", "exec", namespace, *map(str, command)], check=True,
            text=True, stdout=subprocess.PIPE,
            env={**self.environment(), **(env or {})}).stdout

    def start_beside(self, namespace, *command, env=None):
        """Something that is not vmmd, until close()."""
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *map(str, command)],
            env={**self.environment(), **(env or {})})
        self.beside.append(process)
        return process

    def close(self):
        try:
            for process in self.beside:
                process.kill()
                process.wait()
            super().close()
        finally:
            for name in ("switch", *ADDRESS):
                self._ip("netns", "delete", name)
