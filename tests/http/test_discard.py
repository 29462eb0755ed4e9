"""What is thrown away of a request ends, also where its client reads nothing of the answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
import uvloop

from service.http import discard
from service.http.discard import Discard

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
SIZE = 2**16
#: More than the kernel takes for a client that reads nothing.
ANSWERS = bytes(2**24)
Run = Callable[[Coroutine[Any, Any, None]], None]


class Counted(Discard):
    """Knows how often there was something to do."""

    calls = 0

    def _drop(self) -> None:
        self.calls += 1
        super()._drop()


class Ending(asyncio.Protocol):
    """The end of a connection of whose answers most are still to be written."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """What comes first is the head, of one byte."""
        self.transport.write(ANSWERS)
        self.discard = Counted(self.transport, SIZE)

    def connection_lost(self, error: Exception | None) -> None:
        self.discard.close()
        self.lost.set_result(None)


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run in a loop of either kind, in which nothing may go wrong unseen."""

    def run_one(scenario: Coroutine[Any, Any, None]) -> None:
        complaints = list[dict[str, Any]]()
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(asyncio.wait_for(scenario, 5))
        assert complaints == []

    return run_one


@asynccontextmanager
async def meet(sent: bytes) -> AsyncIterator[tuple[Ending, socket.socket]]:
    """A connection whose client has sent so much and reads nothing."""
    loop, made = asyncio.get_running_loop(), list[Ending]()

    class Told(Ending):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            made.append(self)

    server = await loop.create_server(Told, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, b"x")
        while not made:
            await asyncio.sleep(0.005)
        try:
            with suppress(ConnectionError):  # a test's time may be over before it is sent
                await loop.sock_sendall(client, sent)
            while made[0].discard._left == SIZE and not made[0].lost.done():
                await asyncio.sleep(0.005)
            yield made[0], client
        finally:  # also of a test that took too long: a loop of libuv waits for what is open
            server.close()
            if not made[0].lost.done():
                made[0].transport.abort()
                await made[0].lost


@pytest.mark.parametrize(
    ("sent", "ends"), [(SIZE, False), (SIZE, True), (SIZE + 999, False), (SIZE - 1, True)]
)
def test_nothing_is_dropped_after_the_end_and_what_is_written_arrives(
    run: Run, sent: int, ends: bool
) -> None:
    """Whatever waits to be read after it, and however long the answers take, the loop is idle."""

    async def scenario() -> None:
        async with meet(bytes(sent)) as (ending, client):
            if ends:
                client.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            calls = ending.discard.calls
            if sent > SIZE or not ends:
                await asyncio.get_running_loop().sock_sendall(client, bytes(99))
            await asyncio.sleep(0.05)
            assert ending.discard.calls == calls < 9
            assert not ending.lost.done()
            if not sent > SIZE and ends:
                assert await received(client) == len(ANSWERS)
                await ending.lost

    run(scenario())


async def received(client: socket.socket) -> int:
    """Bytes until the end of a connection."""
    loop, size = asyncio.get_running_loop(), 0
    while data := await loop.sock_recv(client, 2**20):
        size += len(data)
    return size


@pytest.mark.parametrize("sent", [SIZE // 2, SIZE])
def test_client_that_reads_nothing_is_let_go(
    run: Run, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    """Its answers are given up with it, whether all of its request has come or not."""
    monkeypatch.setattr(discard, "DISCARD_SECONDS", 0.1)

    async def scenario() -> None:
        async with meet(bytes(sent)) as (ending, _):
            async with asyncio.timeout(5):
                await ending.lost

    run(scenario())
