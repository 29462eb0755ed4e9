"""``python -m service``: check what can be checked, bind, and serve until a signal."""

from __future__ import annotations

import logging
import socket

from service import logs
from service.cli.exit_status import FAILED, OK, WRONG_COMMAND, complain
from service.engine.catalog import NoBundles, bundle_folders
from service.engine.device.session import DeviceError, check_device
from service.http.app import create_app
from service.http.server import Server, check_reach, find_address, is_loopback
from service.settings import SettingsError, read_settings

log = logging.getLogger(__name__)


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
    if not (settings.has_keys or is_loopback(address)):
        log.warning("whoever reaches %s is served: --open and no keys", settings.host)
    server = Server(settings, application, listener)
    server.serve_until_signal()
    return OK if server.service.failure is None else FAILED
