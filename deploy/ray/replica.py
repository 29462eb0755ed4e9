"""The server as replicas of Ray Serve: one engine with its HTTP fronts in each of them.

    serve run deploy/ray/serve.yaml

Ray starts replicas, sends each request to one of them and ends them; what happens to a request
inside is the server's own affair, as in ``python -m service``. See docs/scale.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import DeploymentActorConfig

from deploy.ray.front import Front
from deploy.ray.scrape import Board, Scrape
from deploy.ray.store import Following
from service import logs
from service.engine.engine import Engine
from service.engine.failures import Failure
from service.engine.folders import bundle_folders, check_defaults, name_bundles
from service.http.app import create_app
from service.http.health import check_live, check_ready, takes_requests
from service.http.keys import read_keys
from service.settings import Settings, SettingsError, make_settings

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
#: Settings that have no meaning behind Ray -> who decides instead.
NOT_HERE = {
    "host": "http_options of the config says where Ray listens",
    "port": "http_options of the config says where Ray listens",
    "grpc_port": "a replica has no port of its own for it, and Ray passes on HTTP",
    "cpus": "ray_actor_options.num_cpus says how many CPUs a replica has",
    "head_seconds": "Ray reads the heads of requests",
    "retry_start": "Ray starts a replica again",
    "drain_delay": "Ray sends nothing to a replica that is to end",
    "grace_seconds": "graceful_shutdown_timeout_s says how long requests may take to finish",
    "jobs": "a folder of jobs belongs to one server, and any replica may be asked",
    "jobs_paths": "there are no jobs here",
}
#: After the bundles were examined: for decode workers and device to be there.
READY_SECONDS = 30


def replica_settings(values: dict[str, Any]) -> Settings:
    """The settings of a replica, from the ``args`` of the config and LIERE_ variables.

    Folders count from the root of the checkout, wherever Ray runs its processes.

    Raises:
        SettingsError: a setting is unknown, wrong, or not for replicas; or whoever comes would be
            served without a key, and nobody has said so.
    """
    settings = make_settings(**values)
    for name in settings.model_fields_set & NOT_HERE.keys():
        raise SettingsError(f"{name}: not for a replica: {NOT_HERE[name]}")
    if not (settings.has_keys or settings.open):
        raise SettingsError(
            "open: replicas listen where other machines reach them, and there are no keys; set "
            "keys_file (python -m service new-key makes a key), or open: true to serve whoever asks"
        )
    paths = {"bundles": ROOT / settings.bundles}
    if settings.keys_file is not None:
        paths["keys_file"] = ROOT / settings.keys_file
    return settings.model_copy(update=paths)


def check_bound(most: int, settings: Settings) -> None:
    """SettingsError where Ray would refuse, or hold back, requests before the engine does."""
    if most <= settings.max_in_flight:
        raise SettingsError(
            "max_ongoing_requests: expected more than max_in_flight, which is "
            f"{settings.max_in_flight}, so that the server refuses first, got {most}"
        )


def given_cpus(resources: dict[str, float]) -> int:
    """Whole CPUs of what Ray has given a replica; SettingsError where that is none."""
    cpus = int(resources.get("CPU", 0))
    if cpus < 1:
        raise SettingsError(
            "ray_actor_options.num_cpus: expected at least 1, for decode workers and lanes, "
            f"got {resources.get('CPU', 0):g}"
        )
    return cpus


class Replica:
    """One engine and its fronts, as long as Ray lets it live.

    Args:
        values: settings of the server; see ``replica_settings``.

    Raises:
        SettingsError: see there; or it has no CPU; or Ray would refuse requests before the engine.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        settings = replica_settings(values)
        context = serve.get_replica_context()
        check_bound(context._deployment_config.max_ongoing_requests, settings)
        cpus = given_cpus(ray.get_runtime_context().get_assigned_resources())
        self.settings = settings.model_copy(update={"cpus": cpus})
        self.name = context.replica_id.unique_id
        self._open = contextlib.AsyncExitStack()

    async def __serve_build_asgi_app__(self) -> Front:
        """The application, once its engine is ready: until then Ray sends nothing here.

        Raises:
            RuntimeError: it cannot become ready, with the reason of every bundle that is refused.
        """
        logs.configure(self.settings)
        folders = bundle_folders(self.settings.bundles)
        check_defaults(self.settings.default_bundle, name_bundles(folders))
        app = create_app(self.settings)
        self.engine: Engine = app.state.engine
        self.keys = app.state.keys
        try:
            await self._open.enter_async_context(app.router.lifespan_context(app))
            await self._until_ready()
            scrape = Scrape(self.engine.metrics, self.name, self._versions)
            self.engine.rollout.needed_by = scrape.needed_by
            await self._open.enter_async_context(scrape)
            await self._open.enter_async_context(
                Following(self.settings.bundles, self.settings.keys_file, self.read_again)
            )
        except BaseException:
            await self._open.aclose()
            raise
        self._spent = self._spend()
        return Front(app)

    async def _until_ready(self) -> None:
        async def wait(condition: Any) -> None:
            while self.engine.failure is None and not condition():
                await asyncio.sleep(0.05)

        await wait(lambda: self.engine.catalog.examined)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS if self.engine.catalog.ready else 0):
                await wait(lambda: takes_requests(self.engine))
        if takes_requests(self.engine):
            return
        if self.engine.failure is not None:
            raise RuntimeError(f"the replica cannot become ready: {self.engine.failure}")
        try:
            check_ready(self.engine)
        except Failure as failure:
            bundles = self.engine.catalog.bundles.values()
            told = [f"{one.name}: {one.reason}" for one in bundles if one.state == "refused"]
            raise RuntimeError("; ".join([failure.detail, *told])) from None

    def _versions(self) -> frozenset[tuple[str, str]]:
        """Bundles and versions that answer here or see copies."""
        catalog, shadows = self.engine.catalog, self.engine.rollout.shadows
        manifests = {name: catalog.manifest(name) for name in catalog.bundles}
        answering = {(name, one.version) for name, one in manifests.items() if one}
        copied = {(name, version) for name in manifests if (version := shadows.version(name))}
        return frozenset(answering | copied)

    async def read_again(self) -> bool:
        """Bundles and keys, as SIGHUP does for a server, and whether all of them were good.

        What is bad leaves the old one be.
        """
        try:
            self.keys.become(await asyncio.to_thread(read_keys, self.settings))
            good = True
        except SettingsError as error:
            log.error("%s; the keys stay as they were", error)
            good = False
        return await self.engine.rollout.reload() and good

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Ray calls it in every replica when ``user_config`` changes: whatever it says, read again.

        It also does at the start, when there is nothing new.
        """
        await self.read_again()

    def check_health(self) -> None:
        """For Ray, which puts another replica in the place of one for which this raises."""
        check_live(self.engine)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For ``deploy.ray.scaling``, every few seconds.

        asked: predicted seconds of all that has asked to enter since the last call, per second.
        busy: processor time of this process since then, per second and CPU; workers have their own.
        fullness: the predicted wait over the wait at which it refuses.
        """
        before, self._spent = self._spent, self._spend()
        seconds, asked, busy = (now - then for now, then in zip(self._spent, before, strict=True))
        wait, most = self.engine.backlog.wait, self.engine.admission.max_wait
        kinds = self.engine.catalog.modalities("ready")
        return {
            "asked": asked / seconds,
            "busy": busy / seconds / self.settings.cpu_count,
            "fullness": max((wait(kind) / most(kind) for kind in kinds), default=0.0),
        }

    def _spend(self) -> tuple[float, float, float]:
        """By the clock, in predictions, of processors: seconds so far."""
        return time.monotonic(), self.engine.admission.asked_seconds, time.process_time()

    async def __del__(self) -> None:
        await self._open.aclose()


board = DeploymentActorConfig(
    name=Board.NAME, actor_class=Board, actor_options={"num_cpus": 0}
)
#: It has the name of its class in a config.
deployment = serve.deployment(deployment_actors=[board])(serve.ingress()(Replica))


def build(args: dict[str, Any]) -> serve.Application:
    """What ``import_path`` of the config names; ``args`` are settings of the server."""
    replica_settings(args)  # a mistake is told at once, not by the first replica
    return deployment.bind(args)
