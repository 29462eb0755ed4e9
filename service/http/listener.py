"""The end of a listening socket, which costs nobody a request.

The kernel makes connections before anybody accepts them, and closing the socket resets those that
wait, with the requests that they have sent. So first it is made to begin no more of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
import sys

log = logging.getLogger(__name__)

#: Of Linux; Python has no names for them.
SO_ATTACH_FILTER = 26
QUEUE_OFFSET = 24  # in struct tcp_info: of a listener, how many connections wait to be accepted
#: What the filter does with a packet, which it sees from its TCP header on: one that begins a
#: connection (SYN without ACK) is dropped, the rest of a handshake passes. Whoever is dropped asks
#: again a second later, and then hears that nobody listens.
PROGRAM = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x54, 0, 0, 0x12),  # of them SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else let all of it pass
)
#: For what is under way: a handshake, a request right behind it.
QUIET_SECONDS = 0.1
MAX_ROUNDS = 20


async def hear_out(listener: socket.socket) -> None:
    """Let the loop accept all who have come and read what they say; nobody comes any more."""
    try:
        _drop_newcomers(listener)
    except OSError as error:  # a kernel without such filters: there is no end of those who come
        log.warning("who connects while the port is closed may be reset: %s", error.strerror)
        return
    for _ in range(MAX_ROUNDS):
        await asyncio.sleep(QUIET_SECONDS)
        if not count_waiting(listener):
            return


async def read_what_was_sent() -> None:
    """Let the loop look at every socket once more.

    A timer is no such look: where the loop is late, it comes first.
    """
    loop = asyncio.get_running_loop()
    looked = loop.create_future()
    reader, writer = socket.socketpair()
    with reader, writer:
        loop.add_reader(reader, _set, looked)
        writer.send(b"x")
        await looked
        loop.remove_reader(reader)


def _drop_newcomers(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in PROGRAM)
    buffer = ctypes.create_string_buffer(program, len(program))
    told = struct.pack("@HP", len(PROGRAM), ctypes.addressof(buffer))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, told)


def count_waiting(listener: socket.socket) -> int:
    """Connections that nobody has accepted yet."""
    size = QUEUE_OFFSET + 4
    told = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    return int.from_bytes(told[QUEUE_OFFSET:size], sys.byteorder)


def _set(looked: asyncio.Future[None]) -> None:
    if not looked.done():
        looked.set_result(None)
