"""All devices of a server: one station each; an item goes to the one that comes to it soonest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from service.engine.device.queues import Key, Row
from service.engine.device.station import DeviceStation


@dataclass(slots=True, eq=False)
class Device:
    """One of them.

    Attributes:
        name: as it was asked for: auto, cpu, cpu:N, cuda or cuda:N.
        kind: cpu or cuda, once its first graph is open.
        is_proven: it has answered the goldens of a bundle.
    """

    name: str
    station: DeviceStation
    kind: str | None = None
    is_proven: bool = False

    @property
    def is_insisted_on(self) -> bool:
        """Whether nothing may take its place."""
        return self.name not in ("auto", "cpu")


class Devices:
    """Every graph is opened on each of them, so that any may take any item.

    Attributes:
        left_out: names of those that were asked for and did not prove themselves.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = list(devices)
        self.left_out: list[str] = []

    def leave_out(self, device: Device) -> None:
        """Do without one that has taken no item yet; the others do all the work."""
        self._devices.remove(device)
        self.left_out.append(device.name)

    def __iter__(self) -> Iterator[Device]:
        return iter(tuple(self._devices))

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def names(self) -> str:
        """Of those that work, as ``--device`` says it."""
        return ",".join(one.name for one in self._devices)

    @property
    def stations(self) -> list[DeviceStation]:
        return [one.station for one in self._devices]

    @property
    def lanes(self) -> int:
        """Batches that run at the same time."""
        return sum(one.lanes for one in self.stations)

    @property
    def depth(self) -> int:
        """Entries that wait for a device."""
        return sum(one.depth for one in self.stations)

    @property
    def threads_of_cpu(self) -> float:
        """CPUs that decode too and that a lane takes, in the mean: of a GPU it takes none."""
        return fmean(
            one.station.threads if one.kind in ("cpu", None) else 0 for one in self._devices
        )

    def row_seconds(self, key: Key) -> float:
        """Of a lane for one row, expected."""
        return fmean(one.costs(key).row for one in self.stations)

    def high_seconds(self, key: Key) -> float:
        """That nine of ten runs of a row stay below."""
        return fmean(one.costs(key).high for one in self.stations)

    def ahead(self, kind: str) -> float:
        """Predicted seconds that stand before a newcomer of a kind, where they are fewest."""
        return min(one.ahead(kind) for one in self.stations)

    def bytes_ahead(self) -> int:
        """Of the pixels of all that waits for a lane."""
        return sum(one.bytes_ahead() for one in self.stations)

    def embeds(self, key: Key) -> bool:
        """Whether a graph, which is the same on all of them, has features to give."""
        return self.stations[0].embeds(key)

    async def submit(
        self, key: Key, pixels: np.ndarray, deadline: float = math.inf, kind: str | None = None,
        embed: bool = False,
    ) -> Row:
        """``DeviceStation.submit`` where this item is begun, and then done, soonest."""
        station = self.stations[0]
        if len(self._devices) > 1:
            station = min(self.stations, key=lambda one: one.until_done(key, len(pixels), kind))
        return await station.submit(key, pixels, deadline, kind, embed)

    def keep_beside(self, keys: Iterable[Key]) -> None:
        """Nothing but batch work will be sent to these queues: they say nothing of the others."""
        for station in self.stations:
            station.beside.update(keys)

    def close_queue(self, key: Key) -> None:
        """On all of them: nobody submits to it any more."""
        for station in self.stations:
            station.close_queue(key)

    def close(self) -> None:
        for station in self.stations:
            station.close()

    def give_up(self, detail: str) -> None:
        for station in self.stations:
            station.give_up(detail)
