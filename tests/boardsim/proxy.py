"""A network that fails: a TCP proxy on loopback that stalls, or cuts the connection, at a chosen byte."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class Proxy:
    """Forwards to a port.

    Attributes:
        port: where it listens.
        sent: bytes that went to the server.
        connections: how many there have been.
        cut_after, stall_after: fail when this many bytes have gone to the server; with `only_first`, in the first connection alone.
        stalled: nothing goes through, until it is set to False.
    """

    def __init__(
        self,
        to: int,
        *,
        cut_after: int | None = None,
        stall_after: int | None = None,
        silent: bool = False,
        only_first: bool = False,
    ) -> None:
        self._to, self._silent, self._only_first = to, silent, only_first
        self.cut_after, self.stall_after = cut_after, stall_after
        self.sent = self.connections = 0
        self.stalled = False
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                if self._silent:
                    self._sockets.append(near)
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                fails = self.connections == 1 or not self._only_first
                for source, target, up in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pump, args=(source, target, up, fails), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, up: bool, fails: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if up:
                    self.sent += len(data)
                    if fails and self.cut_after is not None and self.sent > self.cut_after:
                        self.cut()
                        return
                    if fails and self.stall_after is not None and self.sent > self.stall_after:
                        self.stalled, self.stall_after = True, None
                while self.stalled and fails:
                    time.sleep(0.02)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Reset every connection, as a reboot or a pulled cable does."""
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
                one.close()

    def close(self) -> None:
        """Stop."""
        self._listener.close()
        self.cut()
