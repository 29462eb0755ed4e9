"""Making jobs and reading them to their end, for tests."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

import httpx

from tests.helpers.service_fixtures import RunningServer, wait_until

Files = Mapping[str, bytes]


def form(files: Files, part: str = "file") -> list[tuple[str, tuple[str, bytes]]]:
    """Files as the parts of a form, for httpx."""
    return [(part, (name, media)) for name, media in files.items()]


def zipped(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, media in files.items():
            archive.writestr(name, media)
    return packed.getvalue()


def tarred(files: Files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, media in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(media)
            archive.addfile(entry, io.BytesIO(media))
    return packed.getvalue()


def make(server: RunningServer, **options: Any) -> dict[str, Any]:
    """A job that is taken."""
    answer = server.request("POST", "/v1/jobs", **options)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    document: dict[str, Any] = answer.json()
    return document


def refused(server: RunningServer, **options: Any) -> tuple[int, str, str]:
    """Status, name of the problem and detail of a job that is not taken."""
    return problem(server.request("POST", "/v1/jobs", **options))


def problem(answer: httpx.Response) -> tuple[int, str, str]:
    document = answer.json()
    assert document["status"] == answer.status_code
    return answer.status_code, document["type"].removeprefix("/problems/"), document["detail"]


def look(server: RunningServer, job: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    document: dict[str, Any] = server.get(f"/v1/jobs/{job['id']}", **options).json()
    return document


def finish(server: RunningServer, job: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The job once it has ended."""
    ended = ("done", "cancelled")
    wait_until(lambda: look(server, job, **options)["state"] in ended, "the job to end")
    return look(server, job, **options)


def lines(server: RunningServer, job: Mapping[str, Any], **options: Any) -> list[dict[str, Any]]:
    """The answers that are there by now."""
    answer = server.get(job["results"], **options)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in answer.text.splitlines()]
