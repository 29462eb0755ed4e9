"""Where does the time of a request go? Decoding, waiting, the graph, the rest.

    python -m service &
    python -m benchmarks.request_stages --modality video data/clips/*.mp4

Every file is sent ``--rounds`` times to a server that does nothing else; the first answer of a file
is thrown away. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import httpx

from media.spec import AXES


def main() -> None:
    """Print the medians over all requests, in milliseconds, and decoding's share."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("files", nargs="+", type=Path, help="what to send")
    parser.add_argument("--modality", choices=list(AXES), required=True)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=5)
    words = parser.parse_args()
    with httpx.Client(base_url=words.server, timeout=120) as client:
        rows = [
            row
            for path in words.files
            for row in _measure(client, words.modality, path.read_bytes(), words.rounds)
        ]
    medians = {stage: statistics.median(row[stage] for row in rows) for stage in rows[0]}
    share = statistics.median(row["decode"] / row["request"] for row in rows)
    for stage, value in medians.items():
        print(f"{stage:>10} {value:8.2f} ms")
    print(f"decoding is {share:.0%} of a request")
    found = {"requests": len(rows), "median_ms": medians, "decode_share": share}
    print(json.dumps({"benchmark": "request_stages", "modality": words.modality, **found}))


def _measure(
    client: httpx.Client, modality: str, media: bytes, rounds: int
) -> list[dict[str, float]]:
    """Milliseconds of every stage, and of the whole as the client sees it."""
    rows = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        answer = client.post(f"/v1/classify/{modality}", content=media).raise_for_status()
        seconds = time.perf_counter() - began
        (result,) = answer.json()["results"]
        rows.append({**result["timing_ms"], "request": 1000 * seconds})
    return rows[1:]


if __name__ == "__main__":
    main()
