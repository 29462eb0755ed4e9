"""What a server has to offer: the bundles of its folder by name, and who answers a request."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from media.spec import AXES
from models.bundle import MAX_MANIFEST_BYTES, Bundle, BundleError, read_bundle, read_manifest
from models.manifest import MANIFEST
from service.engine.device.session import DeviceError
from service.engine.failures import BundleRefused, Failure, NotReady, UnknownBundle, UnknownGrid
from service.engine.model import ExaminedBundle, State, Target
from service.engine.proof import Prover
from service.settings import SettingsError

log = logging.getLogger(__name__)

OnExamined = Callable[[ExaminedBundle], None]


#: How a manifest states its modality: for itself, and once more for its input.
STATED = re.compile(rb'"modality"\s*:\s*"(\w+)"')


class NoBundles(RuntimeError):
    """What shall be served is not there. The message says where it was looked for."""


def bundle_folders(root: Path) -> list[Path]:
    """The folders to examine, by name; NoBundles if there are none or nobody may look."""
    try:
        if not root.is_dir():
            raise NoBundles(f"--bundles {root}: there is no such folder")
        folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise NoBundles(f"--bundles {root}: the folder cannot be read: {error.strerror}") from None
    if not folders:
        raise NoBundles(f"--bundles {root}: there is no bundle in this folder")
    return folders


def modality_of(folder: Path) -> str | None:
    """What a bundle says it is for, however damaged it is; None if not even that can be read."""
    try:
        with (folder / MANIFEST).open("rb") as manifest:
            text = manifest.read(MAX_MANIFEST_BYTES)
    except OSError:
        return None
    stated = {word.decode() for word in STATED.findall(text)} & set(AXES)
    return stated.pop() if len(stated) == 1 else None


def name_bundles(folders: Iterable[Path]) -> dict[str, Path]:
    """Name -> folder: its manifest's name where that can be read and is free, else the folder's."""
    named: dict[str, Path] = {}
    for folder in folders:
        names = [_stated(folder)[0], folder.name, f"{folder.name} (again)"]
        named[next(name for name in names if name not in named)] = folder
    return named


def check_defaults(defaults: Sequence[str], bundles: Mapping[str, Path]) -> None:
    """Whether the operator's defaults are among the bundles, one for each modality.

    Raises:
        SettingsError: there are bundles, and others than these.
        NoBundles: there is none yet.
    """
    for name in defaults:
        if name not in bundles:
            found = sorted(one for one, folder in bundles.items() if not _is_no_bundle(folder))
            kind = SettingsError if found else NoBundles
            known = ", ".join(found) or "none"
            raise kind(f"--default-bundle {name}: no such bundle; known: {known}")
    for modality, count in Counter(_stated(bundles[name])[1] for name in defaults).items():
        if modality is not None and count > 1:
            given = ",".join(defaults)
            raise SettingsError(f"--default-bundle {given}: {count} are for modality {modality}")


def _stated(folder: Path) -> tuple[str, str | None]:
    """Name and modality of a bundle by its manifest, or what is left of them without it."""
    try:
        manifest = read_manifest(folder)
    except (BundleError, OSError):
        return folder.name, modality_of(folder)
    return manifest.name, manifest.modality


def _read(folder: Path) -> Bundle:
    """A verified bundle; one that may not be read is refused as any other that is damaged."""
    try:
        any(folder.iterdir())  # of one that may not be listed every file seems to be missing
        return read_bundle(folder)
    except OSError as error:
        inside = os.path.relpath(error.filename or folder, folder)
        what = "the folder" if inside == "." else inside
        raise BundleError(f"{what} cannot be read: {error.strerror}") from error


def _is_no_bundle(folder: Path) -> bool:
    """Whether there is neither a manifest nor a graph; one that nobody may look into may be one."""
    try:
        return not {MANIFEST, "graphs"} & {path.name for path in folder.iterdir()}
    except OSError:
        return False


class Catalog:
    """The bundles of a folder, examined once, at start, and who of them answers a request.

    Args:
        defaults: bundles that answer where none is named, each for its modality.

    Attributes:
        bundles: by name, in the order of their folders.
        defaults: modality -> the bundle that answers where none is named, ready or refused. Fixed
            when all were examined: a refused one has no stand-in, who asked for it would not know.
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
        return [modality for modality, one in self.defaults.items() if one.state == state]

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
            on_examined(one)
        found = {modality: self._default(modality) for modality in AXES}
        self.defaults = {modality: one for modality, one in found.items() if one is not None}
        for modality in self.modalities("refused"):
            name = self.defaults[modality].name
            log.error("bundle %s is the default for modality %s and is refused", name, modality)
        self.examined = True

    def select(self, modality: str, bundle: str | None, grid: str | None) -> Target:
        """Who answers a request.

        Raises:
            Failure: the bundle or the grid is unknown, refused or not ready.
        """
        if not self.examined:
            raise NotReady("the bundles are still being checked")
        one = self._find(modality, bundle)
        if one.state == "refused":
            which = "" if bundle is not None else f", the default for {modality},"
            raise BundleRefused(f"bundle {one.name}{which} is not served: {one.reason}")
        if grid is None:
            return next(iter(one.targets.values()))
        if grid not in one.targets:
            known = ", ".join(one.targets)
            unknown = f"unknown grid {grid[:32]!a} for bundle {one.name}"
            raise UnknownGrid(f"{unknown}; known: {known}")
        return one.targets[grid]

    def _find(self, modality: str, bundle: str | None) -> ExaminedBundle:
        """The bundle that is named, or that answers where none is."""
        if bundle is None:
            if modality not in self.defaults:
                raise UnknownBundle(f"no bundle of this server is for modality {modality}")
            return self.defaults[modality]
        fitting = [name for name, one in sorted(self.bundles.items()) if one.may_answer(modality)]
        if bundle not in fitting:
            known = ", ".join(fitting) or "none"
            raise UnknownBundle(f"unknown {modality} bundle {bundle[:64]!a}; known: {known}")
        return self.bundles[bundle]

    def _default(self, modality: str) -> ExaminedBundle | None:
        """The operator's word, else the first folder that may be for this modality.

        One whose modality cannot be read may have been the default, so it counts for all.
        """
        fitting = [one for one in self.bundles.values() if one.may_answer(modality)]
        named = [one for one in fitting if one.name in self._named]
        named.sort(key=lambda one: one.modality is None)  # the others are surely not for this one
        found = [one for one in fitting if not one.empty]
        return next(iter(named or found), None)

    async def _examine(self, name: str, folder: Path) -> ExaminedBundle:
        """One folder: read, open, replay; any failure is a reason that may be told."""
        try:
            bundle = await self._prover.on_device(_read, folder)
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
            return proven
        log.error("bundle %s is refused: %s", folder.name, reason)
        return ExaminedBundle(
            name, "refused", modality_of(folder), reason, empty=_is_no_bundle(folder)
        )
