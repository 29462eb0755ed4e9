"""Are the data of a run the ones that it began with, and does nothing lie in two of their splits?

Before anything is read, data are told by what was listed: ids, labels, sizes and times. What they
hold is read once (``media.index.Digests``): before the first step where that is little or is asked
for, else beside the steps. The end of the first epoch waits for it, so that no checkpoint that is
measured, reported or exported lacks it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Self

from media.contents import Contents
from media.duplicates import Duplicates, find_duplicates, let_through
from media.index import Dataset, Digests, fingerprint
from media.sources import SourceError
from media.sources.stores import Held
from training.about_data import about_duplicates
from training.config import TrainConfig
from training.data import check_contents
from training.progress import Progress
from training.stopping import Stop

#: Bytes of items that are read before the first step; what takes longer is read beside the steps.
SMALL_BYTES = 2**30
#: Splits that a run uses.
USED = ("train", "val")
#: Of the thread that reads beside the steps: it takes what they leave of the processors.
NICE = 19


class Identity:
    """The data of one run, as far as they are known.

    Attributes:
        fingerprint: of each used split what ``media.index.fingerprint`` says.
        contents: what every split holds; None until all of it was read.
        duplicates: of them; None until then.
        allowed: whether the run goes on where bytes lie in two splits.
    """

    def __init__(
        self,
        dataset: Dataset,
        digests: Digests,
        config: TrainConfig,
        begun: dict[str, Any] | None,
        progress: Progress,
    ) -> None:
        self.dataset, self.digests, self.progress = dataset, digests, progress
        self.begun = begun  # the notes of a run that goes on
        self.allowed = config.allow_duplicates or bool(begun and let_through(begun))
        self.workers = max(1, config.workers)
        self.in_memory = isinstance(dataset.store, Held)  # whose items have no times of their own
        self.fingerprint = {split: fingerprint(dataset, split) for split in USED}
        self.contents: dict[str, Contents] | None = None
        self.duplicates: Duplicates | None = None

    @property
    def trusted(self) -> bool:
        """Whether nothing has to be read: all was once, and the files are as they were then."""
        if not self.begun or "duplicates" not in self.begun["data"] or self.in_memory:
            return False
        known = all(self.begun["data"][split]["sha256"] for split in USED)
        return known and self._same("items") and self._same("times")

    def begin(self, now: bool) -> None:
        """Read what has to be read before the first step, and refuse what is not as it was.

        Args:
            now: whether all of it has to be.

        Raises:
            SourceError: the data are not those of the run, or bytes lie in two splits.
        """
        if self.trusted and not now:
            return
        little = self.digests.missing_bytes() <= SMALL_BYTES
        if not little and self.begun:
            self._check_fingerprint(self.begun)
            now = now or not self._same("times")
        if now or little or self.in_memory:
            self._read()
            self.judge()

    def follow(self, now: bool) -> None:
        """In place of ``begin`` where another process is the judge.

        Args:
            now: whether what the splits hold has to be known.
        """
        if now:
            self._read()
            self.contents = self.digests.contents()

    def judge(self) -> Duplicates:
        """Of what was read: is it what the run began with, and what is in it twice?

        Raises:
            SourceError: it is not, or bytes lie in two splits and may not.
        """
        self.contents = self.digests.contents()
        self.duplicates = find_duplicates(self.contents)
        if self.begun:
            check_contents(self.begun, self.contents)
            self._check_fingerprint(self.begun)
        if not self.allowed:
            self.duplicates.check(self.dataset)
        self.progress.say(about_duplicates(self.duplicates.as_json()))
        return self.duplicates

    def pending(self) -> Pending | None:
        """What is left to be read beside the steps; None where nothing is."""
        return None if self.contents or self.trusted else Pending(self)

    def kept(self, described: dict[str, Any]) -> dict[str, Any]:
        """What is told of the data, with what the run that goes on knew of them already."""
        if self.contents or not self.begun:
            return described
        before: dict[str, Any] = self.begun["data"]
        told = {split: described[split] | {"sha256": before[split]["sha256"]} for split in USED}
        return described | told | {"duplicates": before.get("duplicates")}

    def _read(self) -> None:
        if len(missing := self.digests.missing()):
            if (size := self.digests.missing_bytes()) > SMALL_BYTES:
                self.progress.say([f"reads {len(missing)} items ({size / 1e9:.1f} GB), once"])
            with self.progress.reading(len(missing)) as advance:
                self.digests.complete(advance, workers=self.workers)

    def _same(self, what: str) -> bool:
        before: Mapping[str, Any] = (self.begun or {}).get("fingerprint", {})
        return all(
            before.get(split, {}).get(what) == self.fingerprint[split][what] for split in USED
        )

    def _check_fingerprint(self, begun: dict[str, Any]) -> None:
        """SourceError where ids, labels or sizes tell that the data are others.

        Or where times are others, and the run never knew what its files held.
        """
        for split in USED:
            before, now = begun.get("fingerprint", {}).get(split), self.fingerprint[split]
            known = begun["data"][split]["sha256"]
            if before is None or before == now:
                continue
            if known and (self.contents or before["items"] == now["items"]):
                continue  # what the files hold decides
            what = "times" if before["items"] == now["items"] else "ids, labels or sizes"
            raise SourceError(
                f"split {split!r} is not the one that the run began with: its {what} are others"
                + ", and the run had not read it to its end; put the old times back, or begin anew"
                * (what == "times")
            )


class Pending:
    """What is read beside the steps: by a thread, within this context; ``settle`` asks after it."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._leave = threading.Event()
        self._error: BaseException | None = None
        self._settled = False
        self._thread = threading.Thread(target=self._read, name="digests", daemon=True)

    def __enter__(self) -> Self:
        digests = self.identity.digests
        count, size = len(digests.missing()), digests.missing_bytes() / 1e9
        self.identity.progress.say(
            [f"reads {count} items ({size:.1f} GB) beside the steps, once, to find equal bytes"]
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What was read until now is kept."""
        self._leave.set()
        self._thread.join()

    def settle(self, notes: dict[str, Any], stop: Stop, wait: bool = False) -> None:
        """Once all is read, the notes of the run say what it is.

        Args:
            wait: until then; a stop ends it.

        Raises:
            SourceError: bytes lie in two splits, or a file has changed.
            OSError: what was read cannot be kept.
        """
        while wait and self._thread.is_alive():
            stop.check()
            self._thread.join(0.2)
        if self._settled or self._thread.is_alive():
            return
        if self._error:
            raise self._error
        duplicates = self.identity.judge()
        assert self.identity.contents
        self._settled, data = True, notes["data"]
        for split in USED:
            data[split]["sha256"] = self.identity.contents[split].sha256
        data["duplicates"] = duplicates.as_json()
        notes["config"]["allow_duplicates"] |= bool(duplicates.across)
        self.identity.progress.say(["has read all items: their digests are known"])

    def _read(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # of this thread alone
        digests, progress = self.identity.digests, self.identity.progress
        try:
            with progress.reading(len(digests.missing())) as advance:
                digests.complete(advance, self._check)
        except _Left:
            return
        except BaseException as error:  # for whoever asks
            self._error = error

    def _check(self) -> None:
        if self._leave.is_set():
            raise _Left


class _Left(Exception):
    """The run ends."""
