"""A TCP proxy that a test can cut, hold or throttle between two vmmd processes."""

import socket
import threading

CHUNK = 1 << 16


class Link:
    """One proxied connection: two sockets and a pump thread each way."""

    def __init__(self, proxy, near, far):
        self.near, self.far = near, far
        self.forwarded = 0  # bytes from the source to the destination
        self.threads = [
            threading.Thread(target=self._pump, args=(proxy, near, far, True)),
            threading.Thread(target=self._pump, args=(proxy, far, near, False)),
        ]
        for thread in self.threads:
            thread.start()

    def _pump(self, proxy, source, sink, outgoing):
        try:
            while True:
                data = source.recv(CHUNK)
                if not data:
                    break
                proxy.flowing.wait()
                if outgoing:
                    data = proxy.account(self, data)
                sink.sendall(data)
        except OSError:
            pass
        # Half a connection is of no use to either side: end both ways, but let
        # what was sent arrive.
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def cut(self):
        """As if the cable were pulled and both kernels had noticed: RST."""
        for end in (self.near, self.far):
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                               b"\x01\0\0\0\0\0\0\0")
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.cut()
        for thread in self.threads:
            thread.join()
        self.near.close()
        self.far.close()


class Proxy:
    """Listens on a free loopback port and forwards each connection to target.

    cut_after: bytes from the source, over all connections, after which every
    connection is cut, in the middle of a buffer if it falls there.
    """

    def __init__(self, target_port, cut_after=None):
        self.target_port = target_port
        self.cut_after = cut_after
        self.flowing = threading.Event()
        self.flowing.set()
        self.lock = threading.Lock()
        self.links = []
        self.forwarded = 0
        self.has_cut = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.acceptor = threading.Thread(target=self._accept)
        self.acceptor.start()

    @property
    def uri(self):
        return f"tcp://127.0.0.1:{self.port}"

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(
                    ("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.links.append(Link(self, near, far))

    def account(self, link, data):
        """What of data still goes through."""
        with self.lock:
            if self.cut_after is not None:
                data = data[:max(0, self.cut_after - self.forwarded)]
            self.forwarded += len(data)
            link.forwarded += len(data)
            due = (self.cut_after is not None and
                   self.forwarded >= self.cut_after)
        if due:
            link.far.sendall(data)
            self.cut()
            raise OSError("cut")
        return data

    def cut(self, index=None):
        """Cut every connection, or the one that was opened index-th."""
        with self.lock:
            links = self.links if index is None else [self.links[index]]
            self.cut_after = None
        for link in links:
            link.cut()
        self.has_cut.set()

    def hold(self):
        """Keep the connections open and let nothing through."""
        self.flowing.clear()

    def release(self):
        self.flowing.set()

    def close(self):
        self.flowing.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.acceptor.join()
        for link in self.links:
            link.close()
