"""Room for bodies: shares keep some for others, and refuse nobody for ever."""

from __future__ import annotations

import math

import pytest

from service.engine.admission import Admission, Work
from service.engine.failures import Overloaded
from service.engine.schedule import CPU, Backlog
from service.settings import MIB, Settings


def make(kinds: int) -> Admission:
    admission = Admission(max_requests=40, max_bytes=1000, backlog=Backlog({CPU: 2}))
    admission.kinds = kinds
    return admission


def test_who_is_not_told_apart_has_no_share_of_a_client() -> None:
    """Without keys all of the room is for everyone."""
    admission = make(kinds=1)
    for _ in range(40):
        admission.enter("image")
    admission.hold("image", 400)
    admission.hold("image", 600)
    assert admission.bytes == 1000


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("client", [None, "one"])
@pytest.mark.parametrize("pieces", [1, 10])
def test_body_larger_than_a_share_enters_alone(
    kinds: int, client: str | None, pieces: int
) -> None:
    """In one piece or as it comes; a second one finds no room until it has left."""
    admission = make(kinds)
    admission.enter("volume", client)
    for _ in range(pieces):
        admission.hold("volume", 1000 // pieces, client)
    admission.leave("volume", 1000, client)
    admission.enter("volume", client)
    admission.hold("volume", 500, client)
    admission.enter("volume", client)
    if kinds > 1 or client is not None:
        with pytest.raises(Overloaded):
            admission.hold("volume", 400, client)
    else:
        admission.hold("volume", 400, client)


def test_body_larger_than_the_room_is_over_its_limit() -> None:
    """413, at once: waiting would not help."""
    settings = Settings.model_construct(max_in_flight_mib=8.0)
    for modality in ("image", "video", "volume"):
        assert settings.limits(modality).body_bytes == 8 * MIB


def test_what_was_asked_for_counts_whether_it_was_let_in_or_not() -> None:
    """In seconds of all CPUs; a refused request, of which nothing is known, as one of its kind."""
    admission = make(kinds=2)
    assert admission.asked_seconds == 0
    clip = Work("video", {"decode": {CPU: 4.0}, "run": {CPU: 2.0}}, own=6.0)
    with admission.work(clip, math.inf):
        assert admission.asked_seconds == pytest.approx(3.0)
        for _ in range(2):
            with pytest.raises(Overloaded):
                admission.enter("video")
        admission.enter("image")  # costs nothing before anything is known of it
        assert admission.asked_seconds == pytest.approx(9.0)
    assert admission.asked_seconds == pytest.approx(9.0)
