"""The benchmark of gRPC beside HTTP, small: that it runs on a real server and compares answers."""

from __future__ import annotations

import http.client
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.serving.grpc_beside_http import measure, over_grpc, over_http, small_jpeg
from tests.helpers.grpc_serving import GrpcServer


def test_both_ways_are_measured_and_must_agree(server: GrpcServer) -> None:
    """Milliseconds of each, by the clock and of processors; other logits end the row."""
    process: Any = SimpleNamespace(cpu_seconds=time.process_time)
    file = small_jpeg()
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        ways = {
            "HTTP": over_http(connection, "image", file),
            "gRPC": over_grpc(server.channel, "image", file),
        }
        figures = measure(process, ways, calls=2, rounds=2)
        assert set(figures) == {"p50_ms", "cpu_ms"}
        assert all(figures["p50_ms"][way] > 0 for way in ways)
        with pytest.raises(SystemExit, match="do not give the same logits"):
            measure(process, ways | {"gRPC": lambda: np.zeros((1, 5))}, calls=1, rounds=1)
