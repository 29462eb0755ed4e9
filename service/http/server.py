"""The server: where it listens, serving, and leaving in good order."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.addresses import reachable
from service.engine.engine import Service
from service.http.keys import Keys
from service.http.protocol import HttpProtocol
from service.settings import Settings, SettingsError

log = logging.getLogger(__name__)

#: What the printed curl lines send.
SAMPLES = {"image": "photo.jpg", "video": "clip.mp4", "volume": "scan.nii.gz"}
#: Once the device has died: how long whoever asks is told so, and how long what is inside may still
#: take. With the end of the workers that is less than 5 s.
LAST_WORDS_SECONDS, LAST_GRACE_SECONDS = 1, 1
#: Family and address of a listening socket, as ``socket.getaddrinfo`` gives them.
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


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
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(HttpProtocol, head_seconds=settings.head_seconds),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        log_level=_quieter(settings.log_level),
        access_log=False,  # the guard writes it
        server_header=False,
        proxy_headers=False,  # nobody's word about who they are is needed
        timeout_graceful_shutdown=settings.grace_seconds,
    )


class Server(uvicorn.Server):
    """uvicorn, which on the first signal stops taking work and lets the work inside finish."""

    def __init__(self, settings: Settings, app: FastAPI, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.signalled = False  # to end
        self.service: Service = app.state.service
        self.keys: Keys = app.state.keys
        self.service.on_ready = self._announce
        self.service.on_failure = self._stop
        super().__init__(make_config(settings, app))

    def serve_until_signal(self) -> None:
        self.run(sockets=[self.listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's own, which also raises the signal again in the end: all is in order then."""
        self.service.draining = self.signalled = True
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    def _announce(self) -> None:
        """Tell a person where it is and what to try; a machine's log, where it is."""
        host, port = self.listener.getsockname()[:2]
        host = reachable(host)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        ready = self.service.catalog.modalities("ready")
        states = [served.state for served in self.service.catalog.bundles.values()]
        news = f"Serving {states.count('ready')} of {len(states)} bundles on {url}"
        if self.settings.log_format == "json":
            log.info(news)
        else:
            key = '-H "Authorization: Bearer $KEY" ' if self.keys else ""
            print(f"{news} (see {url}/docs)")
            for modality in ready:
                sample = f"-F file=@{SAMPLES[modality]}"
                print(f"Try: curl {key}{sample} {url}/v1/classify/{modality}")
            sys.stdout.flush()

    def _stop(self) -> None:
        """Of its own accord. Of a death it tells for a moment, and then waits for little."""
        if not self.service.died:
            self.should_exit = True
            return
        self.config.timeout_graceful_shutdown = LAST_GRACE_SECONDS
        asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._exit)

    def _exit(self) -> None:
        self.should_exit = True


def _quieter(level: str) -> str:
    """uvicorn's own start and stop lines are news to nobody at ``info``."""
    return "warning" if level == "info" else level
