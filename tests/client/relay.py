"""What stands between a client and a server: it spoils the first connections, then passes on."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence


class Relay:
    """A port; each connection gets the next of ``spoiled``, and then the server itself.

    Attributes:
        connections: how many came.
    """

    def __init__(self, port: int, spoiled: Sequence[bytes | None]) -> None:
        self._target = port
        self._spoiled = list(spoiled)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = self._good = 0

    def spoil_after(self, good: int, bad: int) -> None:
        """Let so many connections pass, then drop so many."""
        self._good, self._spoiled = good, [None] * bad

    def run(self) -> None:
        while True:
            try:
                incoming, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.connections += 1
            if self._spoiled and self.connections > self._good:
                _spoil(incoming, self._spoiled.pop(0))
            else:
                threading.Thread(target=self._pass_on, args=(incoming,), daemon=True).start()

    def _pass_on(self, incoming: socket.socket) -> None:
        with incoming, socket.create_connection(("127.0.0.1", self._target)) as outgoing:
            up = threading.Thread(target=_copy, args=(incoming, outgoing), daemon=True)
            up.start()
            _copy(outgoing, incoming)
            up.join()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _spoil(incoming: socket.socket, answer: bytes | None) -> None:
    """Read a part of the request, say that, and hang up; None is to hang up in silence."""
    incoming.recv(65536)
    if answer is not None:
        incoming.sendall(answer)
    incoming.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            # Every request a connection of its own, so that each may be spoiled.
            target.sendall(data.replace(b"Connection: keep-alive", b"Connection: close"))
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relaying(port: int, *spoiled: bytes | None) -> Iterator[Relay]:
    """A relay in a thread of its own."""
    relay = Relay(port, spoiled)
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.close()
        thread.join(10)
