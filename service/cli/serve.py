"""``python -m service``: check what can be checked, bind, and serve until a signal."""

from __future__ import annotations

import importlib.util
import logging
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from fastapi import FastAPI

from media.spec import AXES
from service import logs
from service.cli.exit_status import (
    FAILED,
    OK,
    WRONG_COMMAND,
    complain,
    end_at_once,
    end_of_device,
)
from service.engine.device.session import DeviceDied, DeviceError, check_device
from service.engine.folders import (
    NoBundles,
    bundle_folders,
    check_defaults,
    modality_of,
    name_bundles,
)
from service.http.app import create_app
from service.http.keys import KeysNotThere
from service.http.server import (
    Address,
    CannotListen,
    Front,
    Server,
    check_reach,
    find_address,
    is_loopback,
)
from service.settings import Settings, SettingsError, read_settings

log = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 60


class CannotStart(RuntimeError):
    """What may be there a moment later is not: bundles, keys, the device or the address.

    Attributes:
        status: to end with, where nobody waits for it.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: list[str]) -> int:
    """Serve until a signal; the exit status."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to read again: it is all still unread
    try:
        settings = read_settings(arguments)
        check_device(settings.device)
        logs.configure(settings)
        return _serve_again(settings) if settings.retry_start else _serve(settings)
    except (SettingsError, DeviceError) as error:
        return complain(error, WRONG_COMMAND)
    except CannotStart as error:
        return complain(error, error.status)
    except DeviceDied:  # the log has the reason
        end_of_device()


def _serve_again(settings: Settings) -> int:
    """Try until the server has run, with waits that double; settings that are wrong stay wrong."""
    wait = 1
    while True:
        try:
            return _serve(settings)
        except CannotStart as error:
            log.error("%s; trying again in %d seconds", error, wait)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end_at_once)
        time.sleep(wait)
        wait = min(2 * wait, MAX_WAIT_SECONDS)


def _serve(settings: Settings) -> int:
    """One server, from its first look at the bundles to its end.

    Raises:
        SettingsError: a key is none, or there are none where they are needed; a default bundle is
            none of the bundles that are there; gRPC is wanted and not installed.
        CannotStart: it never became ready.
        DeviceDied: it was ready, and the device stopped to answer.
    """
    _check_grpc(settings)
    try:
        bundles = name_bundles(bundle_folders(settings.bundles))
        check_defaults(settings.default_bundle, bundles)  # soon known, and then it is the setting
        application = create_app(settings)
    except (NoBundles, KeysNotThere) as error:
        raise CannotStart(str(error), WRONG_COMMAND) from error
    try:
        address = find_address(settings)
        check_reach(settings, address)
        listener = socket.create_server(address[1], family=address[0], backlog=2048)
    except OSError as error:
        where = f"{settings.host} port {settings.port}"
        raise CannotStart(f"cannot listen on {where}: {error.strerror}", FAILED) from error
    if not (settings.has_keys or is_loopback(address)):
        log.warning("whoever reaches %s is served: --open and no keys", settings.host)
    front = _make_front(settings, application, address, bundles.values())
    server = Server(settings, application, listener, front)
    try:
        server.serve_until_signal()
    except CannotListen as error:
        raise CannotStart(str(error), FAILED) from error
    if isinstance(server.engine.failure, DeviceDied):
        raise server.engine.failure
    if server.engine.failure is None or server.signalled:
        return OK
    raise CannotStart("the server cannot become ready, as the lines above say", FAILED)


def _check_grpc(settings: Settings) -> None:
    """SettingsError where gRPC is wanted and its packages are not there."""
    missing = any(importlib.util.find_spec(one) is None for one in ("grpc", "grpc_health"))
    if settings.grpc_port is not None and missing:
        raise SettingsError("grpc_port: gRPC is not installed; pip install '.[grpc]' brings it")


def _make_front(
    settings: Settings, application: FastAPI, address: Address, folders: Iterable[Path]
) -> Front | None:
    """gRPC, where it is wanted: its packages are loaded by nobody else."""
    if settings.grpc_port is None:
        return None
    from service.grpc.front import GrpcFront  # noqa: PLC0415 - an extra, and few ask for it

    modalities = {modality for one in folders if (modality := modality_of(one))} or set(AXES)
    state, where = application.state, (address[1][0], settings.grpc_port)
    return GrpcFront(state.engine, state.keys, where, modalities, state.tracing)
