"""Examples of explanations for the OpenAPI page: maps of few cells, in the form of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

#: The first bytes of a PNG; the picture itself would fill the page.
OVERLAY = "iVBORw0KGgo="
#: Of the patches, in an example of attention.
SHARE = 0.82
HEIGHT: dict[str, Any] = {"name": "height", "unit": "px", "cells": [[0.0, 240.0], [240.0, 480.0]]}
WIDTH: dict[str, Any] = {"name": "width", "unit": "px", "cells": [[80.0, 320.0], [320.0, 560.0]]}

EXPLANATIONS: dict[str, dict[str, Any]] = {
    "image": {
        "method": "occlusion",
        "label": "airplane",
        "index": 0,
        "log_odds": 3.303502,
        "masks": 5,
        "axes": [HEIGHT, WIDTH],
        "values": [[0.021, -0.113], [0.874, 0.302]],
        "peak": {
            "value": 0.874,
            "index": [1, 0],
            "where": {"height": [240.0, 480.0], "width": [80.0, 320.0]},
        },
        "overlay": OVERLAY,
    },
    "video": {
        "method": "occlusion",
        "label": "covid19",
        "index": 0,
        "log_odds": 1.714314,
        "masks": 36,
        "axes": [
            {
                "name": "time",
                "unit": "s",
                "cells": [
                    [[0.0, 1.2], [1.7, 2.9]],
                    [[0.1, 1.3], [1.8, 3.0]],
                    [[0.2, 1.4], [1.9, 3.1]],
                    [[0.3, 1.5], [2.0, 3.2]],
                ],
            },
            HEIGHT,
            WIDTH,
        ],
        "values": [
            [[[0.021, 0.004], [0.101, 0.032]], [[0.013, 0.002], [0.094, 0.041]]],
            [[[0.019, 0.006], [0.122, 0.037]], [[0.011, 0.001], [0.083, 0.036]]],
            [[[0.022, 0.003], [0.119, 0.031]], [[0.014, 0.004], [0.088, 0.043]]],
            [[[0.018, 0.007], [0.117, 0.028]], [[0.012, 0.003], [0.091, 0.038]]],
        ],
        "peak": {
            "value": 0.122,
            "index": [1, 0, 1, 0],
            "where": {"time": [0.1, 1.3], "height": [240.0, 480.0], "width": [80.0, 320.0]},
        },
        "overlay": OVERLAY,
    },
    "volume": {
        "method": "occlusion",
        "label": "hyperplasia",
        "index": 1,
        "log_odds": 4.223066,
        "masks": 9,
        "axes": [
            {"name": name, "unit": "mm", "cells": [[0.0, 64.0], [64.0, 128.0]]}
            for name in ("depth", "height", "width")
        ],
        "values": [[[0.021, 0.113], [0.874, 0.302]], [[-0.031, 0.022], [0.214, 0.135]]],
        "peak": {
            "value": 0.874,
            "index": [0, 1, 0],
            "where": {"depth": [0.0, 64.0], "height": [64.0, 128.0], "width": [0.0, 64.0]},
        },
        "overlay": OVERLAY,
    },
}


def attention_of(modality: str) -> dict[str, Any]:
    """The example of occlusion as one of attention: the same places count most."""
    example = EXPLANATIONS[modality]
    mean = fmean(1 + value / 2 for value in _flat(example["values"]))

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(one) for one in value]
        return round((1 + value / 2) / mean * SHARE, 6)

    return {
        "method": "attention",
        "share": SHARE,
        "axes": example["axes"],
        "values": told(example["values"]),
        "peak": example["peak"] | {"value": told(example["peak"]["value"])},
        "overlay": example["overlay"],
    }


def _flat(values: Any) -> Iterator[float]:
    """The numbers of nested lists."""
    for one in values:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one
