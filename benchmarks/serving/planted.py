"""``python -m service`` with something bad in it, planted from outside, for a row to find or bear.

    python -m benchmarks.serving.planted --leak 256 -- --bundles bundles --port 8000
    python -m benchmarks.serving.planted --bad-inputs -- --bundles bundles --port 8000

--leak keeps so many bytes of every request. --bad-inputs makes certain files bad: a picture that is
one grey gives logits that are no numbers (251) or makes its graph fail (7), and what ends as
``planted_worker`` says kills its decode worker or holds it up. All arguments after -- are the
service's.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

import service.engine.engine as engine_module
from benchmarks.serving.planted_worker import FAILS, NOT_FINITE
from service.cli import serve
from service.engine.decode.pool import DecodePool
from service.engine.device.session import DeviceName, Session, Stop, open_session
from service.http.app import create_app
from service.settings import Settings

WORKER = (sys.executable, "-m", "benchmarks.serving.planted_worker")
kept: list[bytes] = []


class Leak:
    """Keeps some bytes of every request."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self.app, self.size = app, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(bytes(self.size))
        await self.app(scope, receive, send)


class Fragile:
    """A graph with inputs that it does not bear."""

    def __init__(self, session: Session) -> None:
        self._session, self.device = session, session.device

    def run(self, pixels: np.ndarray, stop: Stop | None = None) -> np.ndarray:
        rows = pixels.reshape(len(pixels), -1)  # [batch, values]
        least, most = rows.min(axis=1), rows.max(axis=1)
        if ((least == FAILS) & (most == FAILS)).any():
            raise RuntimeError("a planted failure")
        logits = self._session.run(pixels, stop)
        logits[(least == NOT_FINITE) & (most == NOT_FINITE)] = np.nan
        return logits


def open_fragile(graph: Path, device: DeviceName, threads: int) -> Session:
    return Fragile(open_session(graph, device, threads))


def main() -> int:
    """Plant, then serve; the service's exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--leak", type=int, default=0, metavar="BYTES", help="of every request")
    parser.add_argument("--bad-inputs", action="store_true", help="some pictures and files are bad")
    parser.add_argument("service", nargs="*", help="arguments of python -m service")
    options = parser.parse_args()
    opener = open_fragile if options.bad_inputs else open_session
    if options.bad_inputs:
        pool = partial(DecodePool, command=WORKER)
        engine_module.DecodePool = pool  # type: ignore[assignment, attr-defined]

    def create(settings: Settings) -> FastAPI:
        app = create_app(settings, opener)
        if options.leak:
            app.add_middleware(Leak, size=options.leak)
        return app

    serve.create_app = create  # type: ignore[assignment, attr-defined]
    return serve.main(options.service)


if __name__ == "__main__":
    sys.exit(main())
