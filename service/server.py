"""The server: check what can be checked, bind, serve, and leave in good order."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from service import logs
from service.app import create_app
from service.exits import FAILED, OK, WRONG_COMMAND, complain
from service.health import reachable
from service.protocol import OneWriteProtocol
from service.registry import NoBundles, bundle_folders
from service.service import Service
from service.session import DeviceError, check_device
from service.settings import Settings, SettingsError, read_settings

log = logging.getLogger(__name__)

#: What the printed curl lines send.
SAMPLES = {"image": "photo.jpg", "video": "clip.mp4", "volume": "scan.nii.gz"}
#: Family and address of a listening socket, as ``socket.getaddrinfo`` gives them.
Address = tuple[socket.AddressFamily, tuple[Any, ...]]


def main(arguments: list[str]) -> int:
    """Serve until a signal; the exit status."""
    try:
        settings = read_settings(arguments)
        check_device(settings.device)
        bundle_folders(settings.bundles)
        application = create_app(settings)
        logs.configure(settings)
        address = find_address(settings)
        check_reach(settings, address)
        listener = socket.create_server(address[1], family=address[0], backlog=2048)
    except (SettingsError, DeviceError, NoBundles) as error:
        return complain(error, WRONG_COMMAND)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        return complain(f"cannot listen on {where}: {error.strerror}", FAILED)
    if not (settings.has_keys or _is_loopback(address)):
        log.warning("whoever reaches %s is served: --open and no keys", settings.host)
    return Server(settings, application, listener).serve_until_signal()


def find_address(settings: Settings) -> Address:
    """Where ``settings.host`` is, looked up once: the checked address is the bound one."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.getaddrinfo(settings.host, settings.port, family, socket.SOCK_STREAM)
    return found[0][0], found[0][4]


def check_reach(settings: Settings, address: Address) -> None:
    """Refuse to serve everyone by accident; SettingsError says both ways out."""
    if not (settings.has_keys or settings.open or _is_loopback(address)):
        raise SettingsError(
            f"host: other machines reach {settings.host}, and there are no keys; give --keys-file "
            "(python -m service new-key makes a key), or say --open to serve whoever asks"
        )


def _is_loopback(address: Address) -> bool:
    return ipaddress.ip_address(address[1][0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn, which on the first signal stops taking work and lets the work inside finish."""

    def __init__(self, settings: Settings, app: FastAPI, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.service: Service = app.state.service
        self.service.on_ready = self._announce
        self.service.on_failure = self._stop
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=OneWriteProtocol,
                ws="none",
                log_config=None,
                log_level=_quieter(settings.log_level),
                access_log=False,  # the guard writes it
                server_header=False,
                proxy_headers=False,  # nobody's word about who they are is needed
                timeout_graceful_shutdown=settings.grace_seconds,
            )
        )

    def serve_until_signal(self) -> int:
        self.run(sockets=[self.listener])
        return OK if self.service.failure is None else FAILED

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's own, which also raises the signal again in the end: all is in order then."""
        self.service.draining = True
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    def _announce(self) -> None:
        """Tell a person where it is and what to try; a machine's log, where it is."""
        host, port = self.listener.getsockname()[:2]
        host = reachable(host)
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        ready = self.service.registry.ready_modalities
        states = [served.state for served in self.service.registry.bundles.values()]
        news = f"Serving {states.count('ready')} of {len(states)} bundles on {url}"
        if self.settings.log_format == "json":
            log.info(news)
        else:
            key = '-H "Authorization: Bearer $KEY" ' if self.service.keys else ""
            print(f"{news} (see {url}/docs)")
            for modality in ready:
                sample = f"-F file=@{SAMPLES[modality]}"
                print(f"Try: curl {key}{sample} {url}/v1/classify/{modality}")
            sys.stdout.flush()

    def _stop(self) -> None:
        self.should_exit = True


def _quieter(level: str) -> str:
    """uvicorn's own start and stop lines are news to nobody at ``info``."""
    return "warning" if level == "info" else level
