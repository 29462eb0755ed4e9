"""The methods of the Open Inference Protocol: what ``service.http.v2`` has addresses for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service.engine.engine import NO_ANSWER, Engine
from service.engine.failures import DeadlinePassed, Draining, NotReady
from service.engine.job import Job, Outcome
from service.grpc.call import Call
from service.grpc.guard import Guard
from service.grpc.inference_pb2 import (
    DESCRIPTOR,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from service.grpc.messages import take_request, write_answer
from service.grpc.uploads import Uploads
from service.http.health import check_live, check_ready
from service.http.problems import BodyTooLarge, BrokenTensors
from service.http.v2.inference import make_jobs, wanted_seconds
from service.http.v2.models import all_models, known_model

SERVICE = DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
NAME, VERSION = "LieRE classification", "1"
EXTENSIONS = ("classification",)
INFER = "ModelInfer"
#: Of a request that is no work: names.
SMALL_BYTES = 2**12

Request = TypeVar("Request", bound=Message)


class Methods:
    """The methods, and how they are registered."""

    def __init__(self, engine: Engine, uploads: Uploads) -> None:
        self.engine = engine
        self.uploads = uploads

    def handlers(self, guard: Guard) -> grpc.GenericRpcHandler:
        """All of them, for a server."""
        public = {"ServerLive": self.is_live, "ServerReady": self.is_ready}
        others = {
            "ServerMetadata": self.describe_server,
            "ModelReady": self.is_model_ready,
            "ModelMetadata": self.describe_model,
            "RepositoryIndex": self.list_models,
            INFER: self.infer,
        }
        named = {
            name: guard.method(
                f"/{SERVICE}/{name}", answer, is_public=name in public, is_work=name == INFER
            )
            for name, answer in (public | others).items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, named)

    # --- the server --------------------------------------------------------------------------

    async def is_live(self, call: Call) -> bytes:
        check_live(self.engine)  # whatever the message says: it is not read
        return ServerLiveResponse(live=True).SerializeToString()

    async def is_ready(self, call: Call) -> bytes:
        check_ready(self.engine)
        return ServerReadyResponse(ready=True).SerializeToString()

    async def describe_server(self, call: Call) -> bytes:
        told = ServerMetadataResponse(name=NAME, version=VERSION, extensions=EXTENSIONS)
        return told.SerializeToString()

    # --- models ------------------------------------------------------------------------------

    async def is_model_ready(self, call: Call) -> bytes:
        asked, catalog = await self._read(call, ModelReadyRequest), self.engine.catalog
        known_model(catalog, asked.name).choose(catalog, asked.version or None)
        return ModelReadyResponse(ready=True).SerializeToString()

    async def describe_model(self, call: Call) -> bytes:
        asked, catalog = await self._read(call, ModelMetadataRequest), self.engine.catalog
        told = known_model(catalog, asked.name).metadata(catalog, asked.version or None)
        return ModelMetadataResponse(**told.model_dump()).SerializeToString()

    async def list_models(self, call: Call) -> bytes:
        asked = await self._read(call, RepositoryIndexRequest)
        entries = [one.entry().model_dump() for one in all_models(self.engine.catalog)]
        wanted = [one for one in entries if one["state"] == "READY" or not asked.ready]
        return RepositoryIndexResponse(models=wanted).SerializeToString()

    async def _read(self, call: Call, kind: type[Request]) -> Request:
        """The message of a call that is no work."""
        message = await self.uploads.read(call)
        if len(message) > SMALL_BYTES:
            raise BodyTooLarge(f"a {kind.__name__} may have at most {SMALL_BYTES} bytes")
        try:
            return kind.FromString(message)
        except DecodeError:
            raise BrokenTensors(f"expected a {kind.__name__}") from None

    # --- inference ---------------------------------------------------------------------------

    async def infer(self, call: Call) -> bytes:
        """Tensors in, a job per row, tensors out.

        The model stands in the message: what is held against the limits of its modality is held so
        once that is read. Where one modality answers, that it has no room is said before.
        """
        self._check_open()
        self._check_room(call)
        message = await self.uploads.read(call)
        asked, version, raw, is_raw = take_request(message)
        del message  # the bytes of the tensor are in ``raw``
        catalog = self.engine.catalog
        model = known_model(catalog, asked.model_name or "")
        kind = model.choose(catalog, version).manifest.modality
        limits = self.engine.settings.limits(kind)
        call.is_for(kind, limits)
        if call.received > limits.body_bytes:
            raise BodyTooLarge(f"a request may have at most {limits.body_bytes} bytes")
        if (seconds := wanted_seconds(asked, limits.deadline_seconds)) is not None:
            call.shorten(seconds)
        self._check_open()
        call.enter(self.engine.admission)
        try:
            jobs = make_jobs(self.engine, model, version, asked, raw, call.deadline)
            del raw
            outcomes = await self._submit(call, jobs)
            return write_answer(asked, model, outcomes, is_raw)
        finally:
            call.leave(self.engine.admission)

    def _check_open(self) -> None:
        if self.engine.draining:
            raise Draining("the server is shutting down; connect again")
        if self.engine.died:
            raise NotReady(NO_ANSWER)

    def _check_room(self, call: Call) -> None:
        """Overloaded where work of the only modality that is served would not be let in."""
        if not call.kind:
            return
        limits = self.engine.settings.limits(call.kind)
        deadline = min(call.started + limits.deadline_seconds, call.left_at)
        refusal = self.engine.admission.refusal(call.kind, deadline)
        if refusal is not None:
            call.is_for(call.kind, limits)
            raise refusal

    async def _submit(self, call: Call, jobs: Sequence[Job]) -> list[Outcome]:
        """What became of them; DeadlinePassed if that was not known in time."""
        choice = jobs[0].choice
        call.bundle, call.grid = choice.manifest.name, choice.grid
        try:
            async with asyncio.timeout(call.deadline - time.monotonic()) as timeout:
                outcomes = await self.engine.submit_all(jobs)
        except TimeoutError:
            if not timeout.expired():
                raise
            seconds = call.deadline - call.started
            raise DeadlinePassed(f"there was no answer within {seconds:g} seconds") from None
        call.grid = ",".join(dict.fromkeys(one.target.grid for one in outcomes))
        return outcomes
