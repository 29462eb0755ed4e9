"""What works across replicas, is off, or is per replica: a test for each row of docs/scale.md."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest

from deploy.ray.replica import replica_settings
from deploy.ray.scrape import HAND_SECONDS
from deploy.ray.store import LOOK_SECONDS
from models.promotion import promote
from models.versions import read_serving
from service.settings import SettingsError
from tests.helpers.ray_cluster import Cluster, Load, until
from tests.helpers.service_fixtures import picture, write_tiny_bundle, write_tiny_versions

ROWS = (
    "classify, v2, prepare", "gRPC", "jobs", "admin: promote, rollback, retire", "admin: load",
    "admin: shadow", "serving.json", "keys", "limits of a key", "health", "/metrics", "the page",
)  # fmt: skip
PREFIX = "/vision"
ADMIN, OTHER, SLOW = ({"Authorization": f"Bearer {name}"} for name in ("boss", "other", "slow"))


def line(name: str, *rights: str) -> str:
    return " ".join((sha256(name.encode()).hexdigest(), name, *rights))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one bundle in three versions, and a file of keys beside it."""
    root = tmp_path_factory.mktemp("several")
    promote(write_tiny_versions(root / "bundles", "tiny", "1", "2", "3"), "1")
    lines = (
        line("boss", "scopes=classify,metrics,admin"), line("slow", "rate=0.01/s")
    )
    (root / "keys").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def two(cluster: Cluster, folder: Path) -> Iterator[Cluster]:
    """Two replicas below a prefix, with keys."""
    cluster.headers = ADMIN
    arguments = {"open": False, "keys_file": str(folder / "keys")}
    cluster.deploy(folder / "bundles", prefix=PREFIX, **arguments)
    cluster.settle(2)
    yield cluster
    cluster.headers = {}


@pytest.fixture(autouse=True)
def version_1(two: Cluster, folder: Path) -> None:
    """Answers in both."""
    promote(folder / "bundles" / "tiny", "1")
    until(lambda: answering(two) == {"1"}, "version 1 to answer")


def answering(cluster: Cluster) -> set[str]:
    """Versions of the answers to twenty requests, each on a connection of its own."""
    found = (cluster.classify(headers=ADMIN).json()["results"][0] for _ in range(20))
    return {one["version"] for one in found}


def test_the_guide_has_a_row_for_each(repo_root: Path) -> None:
    """One table, in this order."""
    page = (repo_root / "docs" / "scale.md").read_text()
    section = page.partition("\n## What several replicas share\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*?) \|", section, flags=re.MULTILINE)
    assert tuple(rows[2:]) == ROWS


def test_there_is_no_grpc() -> None:
    """Off: a port for it is refused before anything starts."""
    with pytest.raises(SettingsError, match="grpc_port: not for a replica"):
        replica_settings({"open": True, "grpc_port": 0})


def test_there_are_no_jobs(two: Cluster) -> None:
    """Off: the address is none, with the key that may most."""
    assert two.get("/v1/jobs", headers=ADMIN).status_code == 404


def test_a_promote_is_followed_by_the_others(two: Cluster, folder: Path) -> None:
    """Works across: one replica is asked, all answer so, and the store says it."""
    answer = two.post("/admin/bundles/tiny/versions/2/promote")
    assert answer.status_code == 200, answer.text
    until(lambda: answering(two) == {"2"}, "both to follow")
    rolled_back = two.post("/admin/bundles/tiny/rollback")
    assert rolled_back.status_code == 200, rolled_back.text
    until(lambda: answering(two) == {"1"}, "both to follow the rollback")


def test_what_one_replica_was_asked_no_other_is(two: Cluster) -> None:
    """A replica that ends before it answers may have done it: HAProxy does not send the request to
    another one, where a rollback would go back once more. Who asked is told that it was lost.
    """
    dies, lives = two.pids().values()
    answers: list[str] = []

    def ask() -> None:
        try:
            answer = two.post("/admin/bundles/tiny/rollback")
            answers.append(answer.headers["content-type"].partition(";")[0])
        except httpx.TransportError:
            answers.append("none")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for pid in (dies, lives):
        os.kill(pid, signal.SIGSTOP)  # both have the requests before either answers
    try:
        for thread in threads:
            thread.start()
        time.sleep(2)
        os.kill(dies, signal.SIGKILL)
        time.sleep(1)
    finally:
        os.kill(lives, signal.SIGCONT)
    for thread in threads:
        thread.join()
    said_by_a_replica = {"application/json", "application/problem+json"}
    assert sum(one in said_by_a_replica for one in answers) == 4, answers
    two.settle(2)


def test_two_promotes_at_once_leave_one_version(two: Cluster, folder: Path) -> None:
    """Whoever writes last is whom all follow; no request fails meanwhile."""
    answers: list[httpx.Response] = []

    def ask(version: str) -> None:
        answers.append(two.post(f"/admin/bundles/tiny/versions/{version}/promote"))

    with Load(two.url, 2, headers=ADMIN) as load:
        threads = [threading.Thread(target=ask, args=(one,)) for one in ("2", "3")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.status_code for one in answers} == {200}
        serving = read_serving(folder / "bundles" / "tiny")
        assert serving is not None
        until(lambda: answering(two) == {serving.version}, "both to follow the last one")
    assert load.outcomes == {200: load.outcomes.total()}


def test_a_version_that_is_loaded_answers_in_one_replica(two: Cluster) -> None:
    """Per replica: nothing is written, so the others do not follow."""
    assert two.post("/admin/bundles/tiny/versions/3/load").status_code == 200
    until(lambda: answering(two) == {"1", "3"}, "the one to answer so and the other not")
    promote_again = two.post("/admin/bundles/tiny/versions/1/promote")
    assert promote_again.status_code == 200
    until(lambda: answering(two) == {"1"}, "the next change to end it")


def test_a_shadow_is_of_one_replica(two: Cluster) -> None:
    """Per replica: one knows of it and the other not, and a scrape tells of it whoever is asked."""
    assert two.post("/admin/bundles/tiny/versions/3/shadow?share=1").status_code == 200

    def reports() -> set[int]:
        return {two.get("/admin/bundles/tiny/shadow").status_code for _ in range(20)}

    assert reports() == {200, 404}
    until(lambda: answering(two) == {"1"} and compared(two), "a copy to be compared")


def test_what_another_replica_needs_is_not_retired(two: Cluster, folder: Path) -> None:
    """Works across: a version that answers in one replica alone stays, whoever is asked."""
    write_tiny_bundle(folder, "tiny", version="4").rename(folder / "bundles" / "tiny" / "4")

    def retire() -> httpx.Response:
        return two.delete("/admin/bundles/tiny/versions/4")

    time.sleep(2 * LOOK_SECONDS)  # until all have seen the promotion of before, and read no more
    assert two.post("/admin/bundles/tiny/versions/4/load").status_code == 200
    time.sleep(2 * HAND_SECONDS)  # until every replica knows
    assert answering(two) == {"1", "4"}
    answers = [retire() for _ in range(20)]
    assert {one.status_code for one in answers} == {409}
    reasons = {one.json()["detail"].partition(": ")[2] for one in answers}
    assert reasons == {
        "version 4 answers; load another first", "another replica needs version 4"
    }  # fmt: skip
    promote(folder / "bundles" / "tiny", "2")
    until(lambda: answering(two) == {"2"}, "both to follow the folder")
    until(lambda: retire().status_code == 200, "nobody to need it any more")


def compared(cluster: Cluster) -> bool:
    return any(cluster.series("liere_shadow_items_total").values())


def test_serving_json_is_followed(two: Cluster, folder: Path) -> None:
    """Works across: a change of the folder reaches all, without a word to any."""
    promote(folder / "bundles" / "tiny", "3")
    until(lambda: answering(two) == {"3"}, "both to follow")


def test_a_new_key_is_known_to_all(two: Cluster, folder: Path) -> None:
    """Works across: the file is read again when it was written anew."""
    assert two.classify(headers=OTHER).status_code == 401
    with (folder / "keys").open("a") as keys:
        keys.write("\n" + line("other"))
    until(
        lambda: {two.classify(headers=OTHER).status_code for _ in range(20)} == {200},
        "both to know the key",
    )


def test_a_key_has_its_rate_at_each_replica(two: Cluster) -> None:
    """Per replica: a key that may send one request in 100 s has two answered by two."""
    statuses = [two.classify(headers=SLOW).status_code for _ in range(30)]
    assert statuses.count(200) == 2
    assert statuses.count(429) == 28


def test_health_is_that_of_the_replica_that_is_asked(two: Cluster) -> None:
    """Per replica, without a key; Ray asks each for itself."""
    assert {two.get("/health/ready", headers={}).status_code for _ in range(10)} == {200}


def test_one_scrape_tells_of_all(two: Cluster) -> None:
    """Works across: whoever is asked has the series of both, with a label that says whose."""
    names = two.names()
    assert len(names) == 2
    for _ in range(10):
        until(lambda: sorted(two.series("liere_requests_total")) == names, "both in one scrape")
    assert two.get("/metrics", headers=SLOW).status_code in (200, 429)  # its scope is asked first
    assert two.get("/metrics", headers={}).status_code == 401


def test_the_page_works_below_the_prefix(two: Cluster) -> None:
    """Works across: it is the same everywhere, and its links count from where it lies."""
    bare = two.get("", headers={})
    assert (bare.status_code, bare.headers["location"]) == (307, PREFIX + "/")
    page = two.get("/", headers={})
    assert page.status_code == 200
    links = re.findall(r'(?:href|src)="(page/[^"]+)"', page.text)
    assert links
    assert {two.get(f"/{one}", headers={}).status_code for one in links} == {200}


def test_a_request_has_one_id(two: Cluster) -> None:
    """Ray's and the server's are the same, and said once."""
    answer = two.classify(headers=ADMIN | {"X-Request-ID": "mine-1"}, files={"file": picture()})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert answer.json()["id"] == "mine-1"
