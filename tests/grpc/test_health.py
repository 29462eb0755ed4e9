"""The standard health service, and how gRPC opens and closes with the server."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.grpc.health import MOST_WATCHES, Health
from tests.grpc.conftest import Start
from tests.helpers.grpc_serving import SERVICE, GrpcServer, of_files
from tests.helpers.service_fixtures import (
    CLEAN,
    ROOT,
    command,
    complaint,
    picture,
    running,
    wait_until,
)

HEALTH = "/grpc.health.v1.Health/"
GOOD = of_files("tiny", picture(1)).SerializeToString()
UP, DOWN = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def ask(channel: grpc.Channel, service: str) -> Any:
    call = channel.unary_unary(
        HEALTH + "Check",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return call(HealthCheckRequest(service=service), timeout=20).status


def watch(channel: grpc.Channel, service: str) -> Any:
    call = channel.unary_stream(
        HEALTH + "Watch",
        request_serializer=HealthCheckRequest.SerializeToString,
        response_deserializer=HealthCheckResponse.FromString,
    )
    return call(HealthCheckRequest(service=service), timeout=60)


def test_health_is_what_the_probes_say(server: GrpcServer) -> None:
    """The whole, the protocol, and by our names alive and started; others are not found."""
    for service in ("", "inference.GRPCInferenceService", "live", "startup"):
        assert ask(server.channel, service) == UP
    with pytest.raises(grpc.RpcError) as caught:
        ask(server.channel, "nope")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    (first,) = [next(watch(server.channel, "nope")).status]
    assert first == HealthCheckResponse.SERVICE_UNKNOWN


def test_so_many_may_watch_and_all_may_ask(server: GrpcServer) -> None:
    """They need no key and stay as long as they like: one more is told to ask; one that leaves
    makes room.
    """
    seen = [watch(server.channel, "") for _ in range(MOST_WATCHES)]
    assert [next(one).status for one in seen] == [UP] * MOST_WATCHES
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(server.channel, ""))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ask(server.channel, "") == UP
    for one in seen:
        one.cancel()
    wait_until(lambda: watches(server), "room for another")


class Waiting:
    """The context of a call whose message comes once a gate is open."""

    def __init__(self, gate: asyncio.Event) -> None:
        self._gate = gate

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> bytes:
        await self._gate.wait()
        return bytes(HealthCheckRequest(service="nope").SerializeToString())

    async def abort(self, code: grpc.StatusCode, detail: str) -> None:
        raise grpc.aio.AbortError(code)


def test_watches_are_counted_before_their_messages_are_there() -> None:
    """However many come at once; who is refused, or leaves, takes no place."""

    async def story() -> None:
        health, gate = Health(SimpleNamespace(draining=False), 2**20), asyncio.Event()  # type: ignore[arg-type]
        seen = [health.watch(None, Waiting(gate)) for _ in range(MOST_WATCHES + 9)]  # type: ignore[arg-type]
        first = [asyncio.ensure_future(anext(one)) for one in seen]
        await asyncio.sleep(0)
        gate.set()
        told = await asyncio.gather(*first, return_exceptions=True)
        refused = [one for one in told if isinstance(one, grpc.aio.AbortError)]
        assert [one.args for one in refused] == [(grpc.StatusCode.RESOURCE_EXHAUSTED,)] * 9
        for one in seen:
            await one.aclose()  # type: ignore[attr-defined]
        assert await anext(health.watch(None, Waiting(gate)))  # type: ignore[arg-type]

    asyncio.run(story())


@pytest.mark.parametrize("ask_so", [ask, lambda *asked: next(watch(*asked))])
def test_name_without_end_is_not_parsed(server: GrpcServer, ask_so: Any) -> None:
    """What a stranger sends is a name; of more nothing is made."""
    with pytest.raises(grpc.RpcError) as caught:
        ask_so(server.channel, "n" * 5000)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "a HealthCheckRequest may have at most 4096 bytes"


def watches(server: GrpcServer) -> bool:
    """Whether another one may."""
    another = watch(server.channel, "")
    try:
        return bool(next(another).status == UP)
    except grpc.RpcError:
        return False
    finally:
        another.cancel()


def test_stranger_that_sends_nothing_is_in_nobodys_way(start: Start) -> None:
    """A health check whose message does not come is given up soon, and takes no room for slow
    messages of others.
    """
    server, _ = start(max_body_mib=1, max_in_flight_mib=1)
    never, gate = threading.Event(), threading.Event()

    def messages(wait: threading.Event, message: bytes) -> Iterator[bytes]:
        wait.wait(20)
        yield message

    check = server.channel.stream_unary(HEALTH + "Check").future(messages(never, b""), timeout=30)
    time.sleep(0.5)  # longer than a message is quick
    slow = server.channel.stream_unary(SERVICE + "ModelInfer")
    answer = slow.future(messages(gate, GOOD), timeout=30)
    assert check.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
    gate.set()
    assert answer.result()
    never.set()


def test_leaving_server_says_so_and_still_answers(start: Start) -> None:
    """In the delay before its end it is not ready and lives; who watches is told of the change."""
    server, _ = start()
    seen = watch(server.channel, "")
    assert next(seen).status == UP
    server.engine.leaving = True
    assert next(seen).status == DOWN
    assert ask(server.channel, "") == DOWN
    assert ask(server.channel, "live") == UP
    assert server.infer(GOOD).outputs
    seen.cancel()


def test_call_that_is_inside_is_answered_before_the_end(start: Start) -> None:
    """No new one comes in; a watch does not keep the server, which ends once the call is done."""
    server, session = start()
    session.gate.clear()
    seen = watch(server.channel, "")
    assert next(seen).status == UP
    inside = server.channel.unary_unary(SERVICE + "ModelInfer").future(GOOD, timeout=30)
    while not session.batches:
        time.sleep(0.01)
    threading.Timer(1.5, session.gate.set).start()
    server.end()
    while not server.engine.draining:
        time.sleep(0.01)
    assert [one.status for one in seen] == [DOWN]
    error = server.refusal(GOOD, timeout=1)
    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert inside.result()
    server.stop()


def test_call_that_takes_too_long_is_ended(start: Start) -> None:
    """After the grace, which both ways in have together, the server goes."""
    server, session = start(grace_seconds=1)
    session.gate.clear()
    inside = server.channel.unary_unary(SERVICE + "ModelInfer").future(GOOD, timeout=30)
    while not session.batches:
        time.sleep(0.01)
    server.end()
    assert inside.exception().code() == grpc.StatusCode.UNAVAILABLE


# --- the command -----------------------------------------------------------------------------


def test_command_serves_both_and_ends_well(bundles: Path) -> None:
    """The port is told, a signal ends both, exit status 0."""
    with running(bundles, "--grpc-port", "0") as (process, _, lines):
        port = int(lines[0].split("gRPC on port ")[1].split()[0])
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert ask(channel, "") == UP
            assert channel.unary_unary(SERVICE + "ModelInfer")(GOOD, timeout=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def run_serve(*arguments: str | Path, under: Sequence[str] = ()) -> Any:
    """The server, which shall not come up."""
    whole = [*under, *command(*arguments)[3 if under else 0 :]]
    return subprocess.run(
        whole, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=60, check=False
    )


def test_port_that_is_taken_ends_the_command(bundles: Path, server: GrpcServer) -> None:
    """With one sentence of ours, and before anything else was begun."""
    taken = str(server.front.port)
    done = run_serve("--bundles", bundles, "--port", "0", "--grpc-port", taken)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"cannot listen on 127.0.0.1 port {taken} for gRPC" in last


WITHOUT = """
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "grpc" else find(name, *rest)
assert not {"grpc", "google.protobuf"} & set(sys.modules)
sys.argv[0] = "service"
runpy.run_module("service", run_name="__main__")
"""


def test_missing_package_is_a_setting_that_cannot_be(bundles: Path) -> None:
    """The command says what is not installed; without the port nobody asks."""
    under = [sys.executable, "-c", WITHOUT]
    done = run_serve("--bundles", bundles, "--grpc-port", "0", under=under)
    line = complaint(done, 2)
    assert line.endswith("grpc_port: gRPC is not installed; pip install '.[grpc]' brings it")


def test_server_without_the_port_loads_none_of_it() -> None:
    """What nobody asked for costs neither time nor memory."""
    program = (
        "import sys, service.cli.serve\n"
        "print([one for one in sys.modules if one.split('.')[0] in ('grpc', 'google')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
