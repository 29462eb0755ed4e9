"""What a client still sends and nobody wants, dropped in the kernel: never copied, never seen."""

from __future__ import annotations

import asyncio
import socket

#: A connection is given up after so long, whatever the client still has to say, or not to read.
DISCARD_SECONDS = 2.0
#: What one call may drop. The kernel wants a buffer of that size and does not write into it, so
#: that it takes no memory either.
PIECE = bytearray(2**20)


class Discard:
    """The end of a connection whose answer is written before all of the request has come.

    Closing at once would reset it under the answer. The transport does not read meanwhile, and is
    closed after ``size`` bytes, or when there is nothing more, or not soon enough.
    """

    def __init__(self, transport: asyncio.Transport, size: int) -> None:
        transport.pause_reading()
        self._transport = transport
        self._left = size
        self._loop = asyncio.get_running_loop()
        # A loop lets nobody else wait for a transport's own descriptor, but for another one of it.
        self._socket: socket.socket = transport.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._drop)
        # Of a client that reads nothing, whose answers a transport that is closed would keep.
        self._alarm = self._loop.call_later(DISCARD_SECONDS, transport.abort)

    def _drop(self) -> None:
        try:
            most = min(self._left, len(PIECE))
            dropped = self._socket.recv_into(PIECE, most, socket.MSG_TRUNC)
        except BlockingIOError:
            return
        except OSError:  # it was reset
            dropped = 0
        self._left -= dropped
        if not (dropped and self._left):
            self._end()

    def _end(self) -> None:
        """There is nothing more to drop; what is still to be written may take a while."""
        self._loop.remove_reader(self._socket)
        self._transport.close()

    def close(self) -> None:
        """The transport is closed; the connection lives as long as any descriptor of it."""
        self._alarm.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
