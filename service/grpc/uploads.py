"""Messages while they come: nothing is known of one before it is whole, not even its length."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc

from service.engine.failures import Overloaded
from service.grpc.call import Call
from service.http.problems import BodyTimeout, EmptyBody

#: In so long the network brings what it can bring, however many send; what takes longer is given
#: room for the largest message, or refused.
QUICK_SECONDS = 0.1
RETRY_SECONDS = 1
#: In so long a call is cancelled whose client is no longer there.
CANCEL_SECONDS = 0.1


class Uploads:
    """Bounds what is held of messages that are not whole yet.

    Args:
        room: bytes, of all that come slowly together.
        on_refusal: called for work that found none, with its modality, empty if that is not known.

    Attributes:
        largest: bytes that a message may have, which gRPC sees to.
        seconds: that one may take, from the start of its call.
    """

    def __init__(
        self,
        largest: int,
        seconds: float,
        room: int,
        on_refusal: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self.largest = largest
        self.seconds = seconds
        self._room = room
        self._on_refusal = on_refusal
        self._reserved = 0

    async def read(self, call: Call) -> bytes:
        """The only message of a call.

        Raises:
            EmptyBody: there is none, or it was too large, which then has been said.
            Overloaded: it is slow, and there is no room for another slow one.
            BodyTimeout: it was not whole in time.
        """
        reading = asyncio.ensure_future(call.context.read())
        reading.add_done_callback(_look_away)  # where nobody waits any more, nobody asks
        await asyncio.wait([reading], timeout=QUICK_SECONDS)
        if not reading.done():
            await self._wait(reading, call)
        message = reading.result()
        if message is grpc.aio.EOF:
            # So it also ends where the client left or its deadline came: that is told a moment
            # later, by cancelling this call.
            await asyncio.sleep(CANCEL_SECONDS)
            raise EmptyBody(f"expected a message of at most {self.largest} bytes")
        call.received, call.uploaded = len(message), time.monotonic()
        return bytes(message)

    async def _wait(self, reading: asyncio.Future[bytes], call: Call) -> None:
        if self._reserved and self._reserved + self.largest > self._room:
            if call.kind is not None:
                self._on_refusal(call.kind)
            raise Overloaded("messages that come slowly hold all room", RETRY_SECONDS, "bytes")
        self._reserved += self.largest
        try:
            await asyncio.wait([reading], timeout=call.started + self.seconds - time.monotonic())
        finally:
            self._reserved -= self.largest
        if not reading.done():
            raise BodyTimeout(f"the message was not complete within {self.seconds:g} seconds")


def _look_away(reading: asyncio.Future[bytes]) -> None:
    if not reading.cancelled():
        reading.exception()
