"""What a server has to offer: the bundles of its folder by name, and who answers a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from media.spec import AXES
from models.bundle import Bundle, BundleError
from models.manifest import Manifest
from models.versions import has_versions, read_version, version_names
from service.engine.device.session import DeviceError
from service.engine.failures import (
    BundleRefused,
    Failure,
    NotReady,
    UnknownBundle,
    UnknownGrid,
    UnknownVersion,
)
from service.engine.folders import (
    check_defaults,
    is_empty,
    modality_of,
    name_bundles,
    read_answering,
    versions_there,
)
from service.engine.model import AUTO, Choice, ExaminedBundle, State
from service.engine.proof import Prover

log = logging.getLogger(__name__)

OnExamined = Callable[[ExaminedBundle], None]
#: A folder -> the verified bundle, and the names of all versions that are there.
Read = Callable[[Path], tuple[Bundle, tuple[str, ...]]]


class Catalog:
    """The bundles of a folder, examined once, at start, and who of them answers a request.

    Each answers as soon as it is examined itself.

    Args:
        defaults: bundles that answer where none is named, each for its modality.

    Attributes:
        bundles: by name, in the order of their folders.
        defaults: modality -> the bundle that answers where none is named, ready or refused. One is
            entered when no bundle that is still to come can take its place, and stays: a refused
            one has no stand-in, who asked for it would not know.
        examined: all of them were.
    """

    def __init__(self, prover: Prover, defaults: Sequence[str]) -> None:
        self._prover = prover
        self._named = defaults
        self.bundles: dict[str, ExaminedBundle] = {}
        self.defaults: dict[str, ExaminedBundle] = {}
        self.examined = False

    @property
    def ready(self) -> bool:
        """Every bundle was examined and at least one may answer."""
        return self.examined and any(b.state == "ready" for b in self.bundles.values())

    def modalities(self, state: State) -> list[str]:
        """Those whose default bundle is ready, or refused."""
        found = self.defaults
        return [one for one in AXES if one in found and found[one].state == state]

    async def examine(self, folders: list[Path], on_examined: OnExamined) -> None:
        """Examine every folder; one bad bundle does not stop the others.

        Raises:
            DeviceError: the operator's device is not there, so nothing can be served.
            SettingsError, NoBundles: what ``check_defaults`` says.
        """
        bundles = name_bundles(folders)
        check_defaults(self._named, bundles)
        for name, folder in bundles.items():
            one = await self._examine(name, folder)
            self.bundles[one.name] = one
            self._settle_defaults()
            on_examined(one)
        for modality in self.modalities("refused"):
            name = self.defaults[modality].name
            log.error("bundle %s is the default for modality %s and is refused", name, modality)
        self.examined = True

    def select(self, modality: str, bundle: str | None, grid: str | None) -> Choice:
        """Who answers a request; every grid where the file's own size shall choose.

        Raises:
            Failure: the bundle or the grid is unknown, refused or not ready.
        """
        one = self._find(modality, bundle)
        if one.state == "refused":
            which = "" if bundle is not None else f", the default for {modality},"
            raise BundleRefused(f"bundle {one.name}{which} is not served: {one.reason}")
        if bundle is not None and bundle != one.name:
            _check_version(one, bundle.partition("@")[2])
        if grid == AUTO:
            return Choice.of(one.targets.values(), grid)
        if grid is None:
            return Choice.of([next(iter(one.targets.values()))])
        if grid not in one.targets:
            known = ", ".join((*one.targets, AUTO))
            unknown = f"unknown grid {grid[:32]!a} for bundle {one.name}"
            raise UnknownGrid(f"{unknown}; known: {known}")
        return Choice.of([one.targets[grid]], grid)

    def check_modality(self, modality: str) -> None:
        """UnknownBundle where nobody here ever answers a modality, whatever a request names."""
        if self.examined and not any(one.may_answer(modality) for one in self.bundles.values()):
            raise UnknownBundle(f"no bundle of this server is for modality {modality}")

    def _find(self, modality: str, bundle: str | None) -> ExaminedBundle:
        """The bundle that is named, or that answers where none is."""
        if bundle is None:
            if modality in self.defaults:
                return self.defaults[modality]
            self._check_examined()
            raise UnknownBundle(f"no bundle of this server is for modality {modality}")
        one = self.find(bundle)
        if one is None or not one.may_answer(modality):
            self._check_examined()
            fitting = [name for name, one in self.bundles.items() if one.may_answer(modality)]
            known = ", ".join(sorted(fitting)) or "none"
            raise UnknownBundle(f"unknown {modality} bundle {bundle[:64]!a}; known: {known}")
        return one

    def find(self, bundle: str) -> ExaminedBundle | None:
        """The bundle that NAME or NAME@VERSION means; whether this version answers is not asked."""
        return self.bundles.get(bundle) or self.bundles.get(bundle.partition("@")[0])

    def manifest(self, name: str) -> Manifest | None:
        """Of the version that answers by a name; None where none does."""
        one = self.bundles.get(name)
        return one.manifest if one else None

    def _check_examined(self) -> None:
        """NotReady while what is missing may still come."""
        if not self.examined:
            raise NotReady("the bundles are still being checked")

    def _settle_defaults(self) -> None:
        """Enter every default that is certain: what comes later is a later folder.

        Only the operator's word counts for more than the order of the folders, so while a bundle
        that was named is still to come, nothing but another named one of this modality is certain.
        """
        named_to_come = any(name not in self.bundles for name in self._named)
        for modality in AXES:
            one = self.defaults.get(modality) or self._default(modality)
            surely_named = one and one.name in self._named and one.modality == modality
            if one is not None and (surely_named or not named_to_come):
                self.defaults[modality] = one

    def _default(self, modality: str) -> ExaminedBundle | None:
        """The operator's word, else the first folder that may be for this modality.

        One whose modality cannot be read may have been the default, so it counts for all.
        """
        fitting = [one for one in self.bundles.values() if one.may_answer(modality)]
        named = [one for one in fitting if one.name in self._named]
        named.sort(key=lambda one: one.modality is None)  # the others are surely not for this one
        found = [one for one in fitting if not one.empty]
        return next(iter(named or found), None)

    # --- while it serves ---------------------------------------------------------------------

    async def examine_version(self, name: str, home: Path, version: str) -> ExaminedBundle:
        """A version that may take the place of the one that answers; nothing is changed yet."""

        def read(home: Path) -> tuple[Bundle, tuple[str, ...]]:
            if has_versions(home):
                return read_version(home, version), version_names(home)
            return read_answering(home)

        return await self._examine(name, home, read)

    def put(self, one: ExaminedBundle) -> ExaminedBundle | None:
        """Let a bundle answer by its name from now on; the one that did before."""
        before = self.bundles.get(one.name)
        self.bundles[one.name] = one
        for modality in [known for known, default in self.defaults.items() if default is before]:
            if one.may_answer(modality):
                self.defaults[modality] = one
            else:
                del self.defaults[modality]
        self._settle_defaults()
        return before

    def remove(self, name: str) -> ExaminedBundle:
        """Let nobody answer by this name."""
        one = self.bundles.pop(name)
        for modality in [known for known, default in self.defaults.items() if default is one]:
            del self.defaults[modality]
        self._settle_defaults()
        return one

    def open_versions(self, name: str) -> set[str]:
        """Of a bundle those that answer or have requests inside."""
        models = (one.manifest for one in self._prover.models)
        return {manifest.version for manifest in models if manifest.name == name}

    # --- one of them -------------------------------------------------------------------------

    async def _examine(
        self, name: str, folder: Path, read: Read = read_answering
    ) -> ExaminedBundle:
        """One folder: read, open, replay; any failure is a reason that may be told."""
        try:
            bundle, versions = await self._prover.in_thread(read, folder)
            if bundle.manifest.name != name:
                raise BundleError(
                    f"another folder already gave a bundle named {bundle.manifest.name}"
                )
            proven = await self._prover.prove(bundle)
        except DeviceError:
            raise
        except (BundleError, Failure) as error:
            reason = str(error).removeprefix(f"{folder.name}: ")
        except Exception:
            log.exception("bundle %s cannot be examined", folder.name)
            reason = "it cannot be read; the log says why"
        else:
            version = bundle.manifest.version
            log.info("bundle %s %s is ready on %s", proven.name, version, proven.device)
            proven.versions, proven.home = versions, folder
            return proven
        log.error("bundle %s is refused: %s", folder.name, reason)
        return await self._prover.in_thread(read_refused, name, folder, reason)


def read_refused(name: str, folder: Path, reason: str) -> ExaminedBundle:
    """What can be told of a folder that must not be served."""
    return ExaminedBundle(
        name,
        "refused",
        modality_of(folder),
        reason,
        versions=versions_there(folder),
        empty=is_empty(folder),
        home=folder,
    )


def _check_version(one: ExaminedBundle, version: str) -> None:
    """UnknownVersion unless a ready bundle answers with it."""
    assert one.manifest is not None
    if version != (answers := one.manifest.version):
        known = version in one.versions
        what = f"version {version} is there and not loaded" if known else (
            f"there is no version {version[:64]!a}"
        )
        raise UnknownVersion(f"bundle {one.name}: {what}; version {answers} answers")
