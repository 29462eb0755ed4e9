"""What a decode worker says it saw is believed only in the form that its reader gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.engine.decode.evidence import check_evidence

CLIP_SHAPE, SCAN_SHAPE, IMAGE_SHAPE = (2, 3, 8, 6, 3), (1, 4, 6, 8, 1), (1, 8, 12, 3)
SECONDS = [[0.0, 0.5, 1], [0.25, 0.75, 59.9]]
BOX, WHOLE = {"size": [9, 512], "box": [[0.5, 8.5], [-0.25, 512]]}, [[0, 9], [0.0, 512], [-1, 2]]
IMAGE = BOX | {"turn": 6}
CLIP: dict[str, Any] = BOX | {"seconds": SECONDS}
SCAN: dict[str, Any] = {"orientation": "SPL", "spacing_mm": [5.0, 0.7, 0.7], "size": [9, 512, 1]}
SCAN["box"] = WHOLE
REST = ', "size": null, "box": null}'  # of what is told of a clip


@pytest.mark.parametrize(
    ("modality", "shape", "seen"),
    [
        ("image", IMAGE_SHAPE, {}),
        ("image", IMAGE_SHAPE, IMAGE),
        ("video", CLIP_SHAPE, CLIP),
        ("video", CLIP_SHAPE, CLIP | {"size": None, "box": None}),
        ("volume", SCAN_SHAPE, SCAN),
        ("volume", SCAN_SHAPE, SCAN | {"spacing_mm": None}),
    ],
)
def test_what_readers_say_is_passed_on(modality: str, shape: tuple[int, ...], seen: Any) -> None:
    """The documented forms come through unchanged."""
    assert check_evidence(modality, shape, seen) == seen


@pytest.mark.parametrize(
    ("modality", "shape", "told"),
    [
        ("image", IMAGE_SHAPE, "null"),
        ("image", IMAGE_SHAPE, '{"path": "/etc/passwd"}'),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"turn": 9})),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"turn": True})),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"size": [9, 512, 1]})),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"size": [9, 0]})),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"box": [[8.5, 0.5], [0, 1]]})),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"box": [[0, 1]]})),
        ("image", IMAGE_SHAPE, json.dumps(IMAGE | {"box": [0, 1]})),
        ("image", IMAGE_SHAPE, json.dumps(BOX)),
        ("video", CLIP_SHAPE, json.dumps(CLIP | {"size": None})),
        ("video", CLIP_SHAPE, json.dumps(CLIP | {"box": None})),
        ("video", CLIP_SHAPE, json.dumps(CLIP | {"box": [[0, "1"], [0, 1]]})),
        ("video", CLIP_SHAPE, json.dumps({"seconds": SECONDS})),
        ("video", CLIP_SHAPE, "{}"),
        ("video", CLIP_SHAPE, "[]"),
        ("video", CLIP_SHAPE, '{"seconds": null' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2]]' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1]]' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1, NaN]]' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1, Infinity]]' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1, true]]' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1, "2"]]' + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1, 1' + "0" * 400 + "]]" + REST),
        ("video", CLIP_SHAPE, '{"seconds": [[0, 1, 2], [0, 1, 2]], "x": 1' + REST),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"orientation": "<b>"})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"orientation": "SPLR"})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"orientation": ["S", "P", "L"]})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"spacing_mm": [1, 1]})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"spacing_mm": [1, 0, 1]})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"size": [9, 512, 1.5]})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"size": [9, -512, 1]})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"box": WHOLE[:2]})),
        ("volume", SCAN_SHAPE, json.dumps(SCAN | {"box": None})),
        ("volume", SCAN_SHAPE, json.dumps({"orientation": "SPL", "size": [1, 1, 1]})),
    ],
)
def test_what_has_another_form_is_refused(modality: str, shape: tuple[int, ...], told: str) -> None:
    """Names, lengths, types and ranges are all checked; JSON's own loopholes are closed."""
    with pytest.raises(ValueError, match="has another form"):
        check_evidence(modality, shape, json.loads(told))
