"""Files with the same bytes, which a split treats as one item: a model has seen both or neither."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping

from media.contents import contents_of
from media.sources import Source
from training.groups import joined


def first_copies(source: Source) -> dict[str, str]:
    """Item id -> that of the first item with the same bytes, of those in a split yet to be made.

    Reads every such file. Items whose split is given stay where they are, and what nobody has
    twice is not there; nor are files that are empty or cannot be read.
    """
    if any(item.split == "val" for item in source.items):
        return {}  # val is the last split to be made
    free = [item for item in source.items if item.split in ("", "train")]
    alike: dict[bytes, list[str]] = defaultdict(list)
    for item, digest in zip(free, contents_of(source, free).digests, strict=True):
        if digest.any():
            alike[digest.tobytes()].append(item.id)
    return {id_: ids[0] for ids in alike.values() if len(ids) > 1 for id_ in ids}


def join_copies(source: Source, copies: Mapping[str, str]) -> Source:
    """The source with items of the same bytes, and their groups, in one group each."""
    keys = [
        [key for key in (("group", item.group), ("bytes", copies.get(item.id, ""))) if key[1]]
        for item in source.items
    ]
    together: dict[int, list[int]] = defaultdict(list)
    for place, home in enumerate(joined(keys)):
        together[home].append(place)
    items, taken = list(source.items), {item.group for item in source.items}
    for places in together.values():
        if len(places) > 1:
            name = min({items[place].group for place in places} - {""}, default="")
            name = name or _unused(f"same bytes as {items[places[0]].id}", taken)
            for place in places:
                items[place] = dataclasses.replace(items[place], group=name)
    return dataclasses.replace(source, items=tuple(items))


def about_copies(source: Source, copies: Mapping[str, str]) -> Iterator[str]:
    """What was joined; nothing where no bytes are there twice."""
    if not copies:
        return
    contents = len(set(copies.values()))
    yield f"same bytes: {len(copies)} items are copies of {contents}, each kept in one split"
    old = {item.group for item in source.items} - {""}
    new = {item.group for item in join_copies(source, copies).items} & old
    if len(new) < len(old):
        yield f"groups that share bytes are one group: of {len(old)} groups {len(new)} are left"


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    return name
