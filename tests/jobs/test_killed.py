"""A server that is killed while it works on a job: the next one goes on, nothing twice or lost."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.helpers.effort import alone, effort
from tests.helpers.jobs import tarred
from tests.helpers.service_fixtures import picture, running, tiny_logits, wait_until

ITEMS = 400


@alone
def test_killed_server_goes_on_where_it_was(bundles: Path, tmp_path: Path) -> None:
    """Lines that were read stay the first ones, and in the end every item has exactly one."""
    media = [picture(seed) for seed in range(8)]
    packed = tarred({f"{n:04}.png": media[n % 8] for n in range(ITEMS)})
    arguments = ("--jobs", str(tmp_path / "jobs"), "--lanes", "1", "--max-batch", "4")
    with running(bundles, *arguments) as (process, port, _):
        headers = {"Content-Type": "application/x-tar"}
        url = f"http://127.0.0.1:{port}/v1/jobs"
        made = httpx.post(url, content=packed, headers=headers, verify=False)
        path = made.headers["location"]
        known = lines_of(port, path, 1)
        process.kill()
        process.wait(10)
    kills = effort(2, 20)
    for kill in range(1, kills + 1):
        with running(bundles, *arguments) as (process, port, _):
            now = lines_of(port, path, ITEMS if kill == kills else len(known) + 1)
            assert now[: len(known)] == known
            known = now
            state = httpx.get(f"http://127.0.0.1:{port}{path}", verify=False).json()
            process.kill()
            process.wait(10)
    assert (state["state"], state["answered"], state["failed"]) == ("done", ITEMS, 0)
    lines = [json.loads(line) for line in known]
    assert sorted(line["item"] for line in lines) == list(range(1, ITEMS + 1))
    best = [int(tiny_logits(one, "2x3").argmax()) for one in media]
    for line in lines:
        assert line["predictions"][0]["index"] == best[int(line["filename"][:4]) % 8]


def lines_of(port: int, path: str, enough: int) -> list[str]:
    """The lines of a job once there are so many."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, verify=False) as client:
        wait_until(lambda: client.get(path).json()["answered"] >= min(enough, ITEMS), "lines")
        return client.get(f"{path}/results").text.splitlines()
