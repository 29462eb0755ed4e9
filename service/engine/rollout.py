"""Bundles while the server runs: what an operator changes, and what the folder says anew.

One change at a time; ``service.engine.succession`` proves whoever shall answer. Whatever goes wrong
leaves the old one serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from models.bundle import BundleError
from models.promotion import promote, retire
from models.versions import NoSuchVersion, has_versions, read_serving
from service.engine.catalog import Catalog, read_refused
from service.engine.failures import (
    CandidateRefused,
    Draining,
    Failure,
    FolderFixed,
    NoLabels,
    UnknownBundle,
    UnknownVersion,
    VersionInUse,
)
from service.engine.folders import (
    NoBundles,
    bundle_folders,
    is_still,
    manifest_in,
    name_bundles,
)
from service.engine.shadow.report import ShadowReport
from service.engine.shadow.shadows import Shadows
from service.engine.status import BundleStatus, answering_in, status_of, versions_in
from service.engine.succession import Refusal, Succession
from service.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")


class Rollout:
    """Changes who answers.

    Args:
        catalog: what answers now.
        shadows: candidates that only see copies.
    """

    def __init__(
        self, settings: Settings, catalog: Catalog, succession: Succession, shadows: Shadows
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self.succession = succession
        self.shadows = shadows
        self._one_at_a_time = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._closed = False
        #: (bundle, version) -> who else needs it; None where nobody does.
        self.needed_by: Callable[[str, str], str | None] = lambda name, version: None

    # --- what an operator asks for -----------------------------------------------------------

    async def statuses(self) -> list[BundleStatus]:
        """Every bundle of the folder, and those that are gone from it and answer still."""
        folders = await asyncio.to_thread(self._folders)
        names = sorted({*folders, *self._catalog.bundles})
        return [await self._status(name, folders.get(name)) for name in names]

    async def load(self, name: str, version: str) -> BundleStatus:
        """Let a version answer here, until the server ends or is told otherwise.

        Raises:
            UnknownBundle, UnknownVersion: it is not there.
            CandidateRefused: it failed a proof; the old one answers.
        """
        return await self._change(lambda: self._load(name, version, for_good=False))

    async def promote(self, name: str, version: str) -> BundleStatus:
        """As ``load``, and after the next start too.

        Raises:
            FolderFixed: nothing can be written there.
        """
        return await self._change(lambda: self._load(name, version, for_good=True))

    async def roll_back(self, name: str) -> BundleStatus:
        """Promote the version that answered before.

        Raises:
            UnknownVersion: none is known.
        """

        async def change() -> BundleStatus:
            home = await asyncio.to_thread(self._home, name)
            serving = await asyncio.to_thread(read_serving, home)
            if serving is None or serving.previous is None:
                raise UnknownVersion(f"bundle {name}: no version is known that answered before")
            return await self._load(name, serving.previous, for_good=True)

        return await self._change(change)

    async def retire(self, name: str, version: str) -> BundleStatus:
        """Remove a version from the folder.

        Raises:
            VersionInUse: it answers, here or by the folder, sees copies, or is needed elsewhere.
            UnknownBundle, UnknownVersion, FolderFixed: as above.
        """

        async def change() -> BundleStatus:
            home = await asyncio.to_thread(self._home, name)
            if version not in (known := await asyncio.to_thread(versions_in, home)):
                there = ", ".join(known)
                raise UnknownVersion(f"bundle {name}: there is no such version; there are {there}")
            answers = self._catalog.manifest(name)
            if answers and answers.version == version:
                raise VersionInUse(f"bundle {name}: version {version} answers; load another first")
            if self.shadows.version(name) == version:
                raise VersionInUse(f"bundle {name}: version {version} sees copies; end that first")
            if (who := self.needed_by(name, version)) is not None:
                raise VersionInUse(f"bundle {name}: {who} needs version {version}")
            try:
                await self._write(home, lambda home: retire(home, version))
            except NoSuchVersion:
                raise
            except BundleError as error:  # it answers by the folder, or nobody knows who does
                raise VersionInUse(str(error)) from error
            refusal = self.succession.refused.get(name)
            if refusal and refusal.version == version:
                del self.succession.refused[name]
            return await self._status(name, home)

        return await self._change(change)

    async def shadow(self, name: str, version: str, share: float) -> ShadowReport:
        """Let a version see copies of a share of the requests that another one answers.

        It is proven as if it should answer. Of one that sees copies the share is changed.

        Raises:
            UnknownBundle, UnknownVersion: it is not there, or nobody answers by this name.
            VersionInUse: it answers itself.
            CandidateRefused: it failed a proof.
            NoLabels: one of the two gives features alone.
        """

        async def change() -> ShadowReport:
            answering = self._catalog.bundles.get(name)
            home = await asyncio.to_thread(self._home, name)
            await self._check_there(name, home, version)
            if answering is None or answering.manifest is None:
                raise UnknownVersion(f"bundle {name}: no version answers, so there are no copies")
            if answering.manifest.version == version:
                raise VersionInUse(f"bundle {name}: version {version} answers; name another one")
            if self.shadows.version(name) == version:
                self.shadows.change_share(name, share)
            else:
                candidate = await self.succession.examine(name, home, version)
                both = (answering.manifest, candidate.manifest)
                if not all(manifest and manifest.labels for manifest in both):
                    raise NoLabels(f"bundle {name}: labels of both versions are compared")
                self.shadows.begin(answering, candidate, share)
            return self.shadows.report(name)

        return await self._change(change)

    async def end_shadow(self, name: str) -> ShadowReport:
        """Let nobody see copies for a bundle; NoShadow where nobody did."""

        async def change() -> ShadowReport:
            self.shadows.end(name, "an operator ended it")
            return self.shadows.report(name)

        return await self._change(change)

    async def reload(self) -> bool:
        """Let answer what would after a new start, and tell whether all of it was good.

        What is bad, or is no more, is in the log. Defaults stay who they are while they are there.
        """
        try:
            await self._change(self._reload)
        except Failure as failure:
            log.error("the bundles are not read again: %s", failure.detail)
            return False
        return not self.succession.refused

    async def close(self) -> None:
        """End what is under way; nothing of it is half done, and nothing begins any more."""
        self._closed = True
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)

    # --- one change --------------------------------------------------------------------------

    async def _change(self, change: Callable[[], Awaitable[T]]) -> T:
        """After those that came before; whoever asked for it may leave meanwhile."""

        async def in_turn() -> T:
            async with self._one_at_a_time:
                while not self._catalog.examined:  # the start is a change too
                    await asyncio.sleep(0.05)
                return await change()

        if self._closed:
            raise Draining("the server is shutting down; nothing is changed any more")
        task = asyncio.create_task(in_turn())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except NoSuchVersion as error:
            raise UnknownVersion(str(error)) from error
        except BundleError as error:
            raise CandidateRefused(f"{error}; nothing was changed") from error
        except OSError as error:
            log.error("the folder of bundles cannot be read: %s", error)
            raise FolderFixed(f"the folder of bundles cannot be read: {error.strerror}") from error
        finally:
            del task  # its exception holds this frame, and frames hold what was opened

    async def _load(self, name: str, version: str, for_good: bool) -> BundleStatus:
        """Prove a version, write down that it answers, let it answer."""
        home = await asyncio.to_thread(self._home, name)
        await self._check_there(name, home, version)
        answers = self._catalog.manifest(name)
        proven = answers is not None and await asyncio.to_thread(is_still, home, version, answers)
        one = None if proven else await self.succession.examine(name, home, version)
        if for_good and await asyncio.to_thread(has_versions, home):  # a flat one answers anyway
            await self._write(home, lambda home: promote(home, version))
        if one is not None:
            self.succession.let_answer(one)
        return await self._status(name, home)

    async def _reload(self) -> None:
        folders = await asyncio.to_thread(self._folders)
        for name, home in folders.items():
            await self._renew(name, home)
        for name in [one for one in self._catalog.bundles if one not in folders]:
            if name in self._settings.default_bundle:
                log.error("bundle %s is a default and gone from the folder; it stays", name)
                continue
            self.succession.remove(name)
            log.warning("bundle %s is gone from the folder and does not answer any more", name)

    async def _renew(self, name: str, home: Path) -> None:
        """Let answer who does by the folder; where that is nobody, who answers stays."""
        before = self._catalog.bundles.get(name)
        try:
            version = await asyncio.to_thread(answering_in, home)
            if before and before.manifest == await asyncio.to_thread(manifest_in, home, version):
                before.versions = await asyncio.to_thread(versions_in, home)
                self.succession.refused.pop(name, None)
                return
            self.succession.let_answer(await self.succession.examine(name, home, version))
            return
        except CandidateRefused:
            reason = self.succession.refused[name].reason
        except (BundleError, OSError) as error:
            told = f"it cannot be read: {error.strerror}" if isinstance(error, OSError) else error
            reason = str(told).removeprefix(f"{home.name}: ")
            self.succession.refuse(name, Refusal(reason))
        if before is None or before.state == "refused":  # as at a start it is listed, and says why
            one = await asyncio.to_thread(read_refused, name, home, reason)
            one.newcomer = before is None or before.newcomer
            self.succession.enter(one)

    async def _check_there(self, name: str, home: Path, version: str) -> None:
        """UnknownVersion unless it is in the folder of its bundle."""
        known = await asyncio.to_thread(versions_in, home)
        if version not in known:
            there = ", ".join(known)
            raise UnknownVersion(
                f"bundle {name}: there is no version {version[:64]!a}; there are {there}"
            )

    # --- folders, in a thread ----------------------------------------------------------------

    def _folders(self) -> dict[str, Path]:
        known = {one.home: name for name, one in self._catalog.bundles.items() if one.home}
        try:
            return name_bundles(bundle_folders(self._settings.bundles), known)
        except NoBundles as error:
            log.error("%s", error)
            raise UnknownBundle("the folder of bundles is empty, or cannot be read") from error

    def _home(self, name: str) -> Path:
        folders = self._folders()
        if name not in folders:
            known = ", ".join(sorted(folders))
            raise UnknownBundle(f"unknown bundle {name[:64]!a}; known: {known}")
        return folders[name]

    async def _write(self, home: Path, write: Callable[[Path], object]) -> None:
        """Change who answers by the folder; FolderFixed where that cannot be."""
        try:
            await asyncio.to_thread(write, home)
        except OSError as error:
            log.error("the folder of bundle %s cannot be changed: %s", home.name, error)
            told = self.succession.told(home.name)
            raise FolderFixed(
                f"the folder of bundle {home.name} cannot be changed: {error.strerror}; {told}"
            ) from error

    async def _status(self, name: str, home: Path | None) -> BundleStatus:
        one, refused = self._catalog.bundles.get(name), self.succession.refused.get(name)
        answers = self._catalog.manifest(name)
        return await asyncio.to_thread(
            status_of,
            name,
            home,
            one.state if one else None,
            answers.version if answers else None,
            self._catalog.open_versions(name),
            str(refused) if refused else one.reason if one else None,
            shadow=self.shadows.version(name),
        )
