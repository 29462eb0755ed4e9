"""The server: where it listens, serving, and leaving in good order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from fastapi import FastAPI

from service.addresses import reachable
from service.engine.engine import Engine
from service.http.keys import Keys, read_keys
from service.http.listener import hear_out, read_what_was_sent
from service.http.protocol import HttpProtocol
from service.http.turnstile import Turnstile
from service.settings import Settings, SettingsError

log = logging.getLogger(__name__)

#: What the printed curl lines send.
SAMPLES = {"image": "photo.jpg", "video": "clip.mp4", "volume": "scan.nii.gz"}
#: Once the device has died: how long whoever asks is told so, and how long what is inside may still
#: take. With the end of the workers that is less than 5 s.
LAST_WORDS_SECONDS, LAST_GRACE_SECONDS = 1, 1
#: Family and address of a listening socket, as ``socket.getaddrinfo`` gives them.
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


class CannotListen(RuntimeError):
    """An address cannot be had; the message says which and why."""


class Front(Protocol):
    """Another way in, which opens and closes with the server.

    Attributes:
        name: of what is spoken there.
        port: where it listens, once it is open.
    """

    name: str
    port: int

    async def open(self) -> None:
        """Listen; CannotListen where that cannot be."""

    async def close(self, grace_seconds: float) -> None:
        """Let nobody in, and let what is inside finish, for so long at most."""


def find_address(settings: Settings) -> Address:
    """Where ``settings.host`` is, looked up once: the checked address is the bound one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.getaddrinfo(settings.host, settings.port, family, socket.SOCK_STREAM)
    return found[0][0], found[0][4]


def check_reach(settings: Settings, address: Address) -> None:
    """Refuse to serve everyone by accident; SettingsError says both ways out."""
    if not (settings.has_keys or settings.open or is_loopback(address)):
        raise SettingsError(
            f"host: other machines reach {settings.host}, and there are no keys; give --keys-file "
            "(python -m service new-key makes a key), or say --open to serve whoever asks"
        )


def is_loopback(address: Address) -> bool:
    """Whether this machine alone reaches it."""
    return ipaddress.ip_address(address[1][0]).is_loopback


def make_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application."""
    engine: Engine = app.state.engine
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(  # type: ignore[arg-type]
            HttpProtocol,
            head_seconds=settings.head_seconds,
            is_leaving=lambda: engine.leaving,
            refuse=Turnstile(engine, app.state.keys).refuse,
        ),
        ws="none",
        log_config=None,
        log_level=_quieter(settings.log_level),
        access_log=False,  # the guard writes it
        server_header=False,
        proxy_headers=False,  # nobody's word about who they are is needed
        timeout_graceful_shutdown=settings.grace_seconds,
    )


class Server(uvicorn.Server):
    """uvicorn, which on a signal leaves: it tells, hears out who has come, then lets nobody in.

    SIGTERM and SIGINT begin the delay before that, a second one ends it, a further SIGINT does not
    wait for the work inside. SIGHUP reads again what may change.
    """

    def __init__(
        self,
        settings: Settings,
        app: FastAPI,
        listener: socket.socket,
        front: Front | None = None,
    ) -> None:
        self.settings = settings
        self.listener = listener
        self.front = front
        self.signalled = False  # to end
        self._leave_at = math.inf  # of the monotonic clock, seconds
        self._hung_up = False  # SIGHUP came
        self._reloading: asyncio.Task[bool] | None = None  # of the newest one
        self.engine: Engine = app.state.engine
        self.keys: Keys = app.state.keys
        self.engine.on_ready = self._announce
        self.engine.on_failure = self._stop
        super().__init__(make_config(settings, app))

    def serve_until_signal(self) -> None:
        signal.signal(signal.SIGHUP, self.handle_hangup)
        self.run(sockets=[self.listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's own, which also raises the signal again in the end: all is in order then."""
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        delay = 0.0 if self.signalled else self.settings.drain_delay
        self._leave_at = time.monotonic() + delay
        self.should_exit = self.should_exit or not delay
        self.signalled = self.engine.leaving = True

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Reading and logging are for the loop: a handler may interrupt either of them."""
        self._hung_up = True

    async def on_tick(self, counter: int) -> bool:
        """What the signals asked for, ten times a second."""
        if self._hung_up:
            self._hung_up = False
            self._reload()
        if self.engine.leaving:
            for connection in cast(set[HttpProtocol], self.server_state.connections):
                connection.leave()
        if time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own, after the other way in: where that cannot be had, nothing has begun."""
        if self.front is not None:
            await self.front.open()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own, which closes idle connections and lets what is inside finish.

        The listener is closed before: whatever was sent until then is read, and so not idle.
        """
        await hear_out(self.listener)
        for server in self.servers:
            server.close()
        await read_what_was_sent()
        self.engine.draining = True
        if self.front is not None:
            await self._close(self.front)
        await super().shutdown(sockets)

    async def _close(self, front: Front) -> None:
        """The other way in, on the time of what is inside here; a further SIGINT ends the wait."""
        began, grace = time.monotonic(), self.config.timeout_graceful_shutdown or 0
        closing = asyncio.create_task(front.close(grace))
        while not (closing.done() or self.force_exit):
            await asyncio.wait([closing], timeout=0.1)
        if not closing.done():
            await front.close(0)
        left = max(0.0, grace - (time.monotonic() - began))
        self.config.timeout_graceful_shutdown = math.ceil(left)

    def _reload(self) -> None:
        """Read again what may change while the server runs; what is bad leaves the old one be."""
        if self.settings.keys_file is not None:
            self._reload_keys()
        self._reloading = asyncio.create_task(self.engine.rollout.reload())
        self._reloading.add_done_callback(_tell_failure)

    def _reload_keys(self) -> None:
        try:
            self.keys.become(read_keys(self.settings))
        except SettingsError as error:
            log.error("%s; the keys stay as they were", error)
        else:
            log.info("the keys were read again; there are %d", len(self.keys))

    def _announce(self) -> None:
        """Tell a person where it is and what to try; a machine's log, where it is."""
        host, port = self.listener.getsockname()[:2]
        host = reachable(host)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        ready = self.engine.catalog.modalities("ready")
        states = [served.state for served in self.engine.catalog.bundles.values()]
        news = f"Serving {states.count('ready')} of {len(states)} bundles on {url}"
        if self.front is not None:
            news += f" and {self.front.name} on port {self.front.port}"
        if self.settings.log_format == "json":
            log.info(news)
        else:
            key = '-H "Authorization: Bearer $KEY" ' if self.keys else ""
            print(f"{news} (open it in a browser; the API is at {url}/docs)")
            for modality in ready:
                sample = f"-F file=@{SAMPLES[modality]}"
                print(f"Try: curl {key}{sample} {url}/v1/classify/{modality}")
            sys.stdout.flush()

    def _stop(self) -> None:
        """Of its own accord. Of a death it tells for a moment, and then waits for little."""
        if not self.engine.died:
            self.should_exit = True
            return
        self.config.timeout_graceful_shutdown = LAST_GRACE_SECONDS
        asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


def _tell_failure(reloading: asyncio.Task[bool]) -> None:
    if not reloading.cancelled() and (error := reloading.exception()) is not None:
        log.error("the bundles could not be read again", exc_info=error)


def _quieter(level: str) -> str:
    """uvicorn's own start and stop lines are news to nobody at ``info``."""
    return "warning" if level == "info" else level
