"""A data set as columns: opened in seconds, a few dozen bytes an item, shared by processes.

``open_dataset`` lists what ``media.sources`` lists, by the same rules, and keeps no object of an
item. ``Dataset.kept`` writes the columns to a folder and maps them, after which a worker process
is given the folder's path alone. ``Digests`` tell what items hold: of each they are computed once
and kept.
"""

from __future__ import annotations

from media.index.dataset import Changed, Dataset, Wanted, open_kept
from media.index.digests import Digests, fingerprint
from media.index.listing import open_dataset, open_media

__all__ = [
    "Changed", "Dataset", "Digests", "Wanted", "fingerprint", "open_dataset", "open_kept",
    "open_media",
]  # fmt: skip
