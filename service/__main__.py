"""``python -m service``: check what can be checked, bind, serve, and leave in good order."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from types import FrameType

import uvicorn

from service.app import create_app
from service.protocol import OneWriteProtocol
from service.registry import NoBundles, bundle_folders
from service.service import Service
from service.session import DeviceError, check_device
from service.settings import Settings, SettingsError, read_settings

#: Exit statuses: 2 is a wrong command, 1 a server that could not start or serve.
WRONG_COMMAND, FAILED = 2, 1


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal; the exit status."""
    try:
        settings = read_settings(sys.argv[1:] if arguments is None else arguments)
        check_device(settings.device)
        bundle_folders(settings.bundles)
    except (SettingsError, DeviceError, NoBundles) as error:
        return _complain(error, WRONG_COMMAND)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        listener = bind(settings)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        return _complain(f"cannot listen on {where}: {error.strerror}", FAILED)
    return Server(settings, listener).serve_until_signal()


def bind(settings: Settings) -> socket.socket:
    """A listening socket, taken before anything is loaded."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


class Server(uvicorn.Server):
    """uvicorn, which on the first signal stops taking work and lets the work inside finish."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.application = create_app(settings)
        self.service: Service = self.application.state.service
        self.service.on_ready = self._announce
        self.service.on_failure = self._stop
        super().__init__(
            uvicorn.Config(
                self.application,
                loop="uvloop",
                http=OneWriteProtocol,
                ws="none",
                log_config=None,
                log_level=_quieter(settings.log_level),
                access_log=settings.access_log,
                server_header=False,
                proxy_headers=False,  # nobody's word about who they are is needed
                timeout_graceful_shutdown=settings.grace_seconds,
            )
        )
        # uvicorn gives it the level of its other lines; who asks for these wants to see them.
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)

    def serve_until_signal(self) -> int:
        self.run(sockets=[self.listener])
        return 0 if self.service.failure is None else FAILED

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's own, which also raises the signal again in the end: all is in order then."""
        self.service.draining = True
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True

    def _announce(self) -> None:
        """Tell a person where it is and what to try."""
        host, port = self.listener.getsockname()[:2]
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        url = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
        states = [served.state for served in self.service.registry.bundles.values()]
        print(f"Serving {states.count('ready')} of {len(states)} bundles on {url} (see {url}/docs)")
        print(f"Try: curl -F file=@photo.jpg {url}/v1/classify/image", flush=True)

    def _stop(self) -> None:
        self.should_exit = True


def _quieter(level: str) -> str:
    """uvicorn's own start and stop lines are news to nobody at ``info``."""
    return "warning" if level == "info" else level


def _complain(message: object, status: int) -> int:
    print(f"python -m service: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
