"""The client asks for arrays, raw ones and thresholds, and reads what comes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from client import BadAnswer, Client, Coverage, Problem, __main__
from client.answers import Answer, FailedFile, Result
from client.reading import read_json
from service.engine.job import softmax
from service.http.examples import examples
from tests.helpers.measured_grids import ABSTAIN, TEMPERATURES, coverage, measured_grids
from tests.helpers.service_fixtures import (
    LABELS,
    RunningServer,
    picture,
    serving,
    tiny_embedding,
    tiny_logits,
    write_tiny_bundle,
)

MEDIA = picture(5)
LOGITS = tiny_logits(MEDIA, "2x3")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a bundle with temperatures, a threshold and an embedding."""
    root = tmp_path_factory.mktemp("measured")
    write_tiny_bundle(root, embeds=True, grids=measured_grids(abstain=ABSTAIN))
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def client(measured: RunningServer) -> Iterator[Client]:
    with Client(measured.url, verify=False) as one:
        yield one


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_arrays_are_read_whichever_way_they_come(client: Client, encoding_format: Any) -> None:
    """As tuples of numbers, and no predictions beside them."""
    expected: dict[Any, Any] = {
        "probabilities": softmax(LOGITS, TEMPERATURES[0]),
        "logits": LOGITS,
        "embedding": tiny_embedding(MEDIA, "2x3"),
    }
    for want, values in expected.items():
        result = client.classify(
            MEDIA, modality="image", want=want, encoding_format=encoding_format
        )
        assert getattr(result, want) == pytest.approx(values, abs=1e-4)
        assert result.predictions == ()
        others = expected.keys() - {want}
        assert {getattr(result, other) for other in others} == {None}


def test_client_says_how_sure_an_answer_is(client: Client) -> None:
    """Calibrated or raw, withheld or not, with what was measured at that threshold."""
    row = next(one for one in coverage() if one.threshold == ABSTAIN)
    own = client.classify(MEDIA, modality="image")
    raw = client.classify(MEDIA, modality="image", raw=True, abstain=0.3)
    off = client.classify(MEDIA, modality="image", abstain=0)
    assert (own.calibrated, own.abstained) == (True, True)
    assert own.coverage == Coverage(ABSTAIN, row.share, row.accuracy)
    assert (raw.calibrated, raw.abstained, raw.coverage) == (False, False, None)
    assert raw.predictions[0].probability == pytest.approx(softmax(LOGITS).max(), abs=1e-4)
    assert (off.calibrated, off.abstained) == (True, None)
    logits = client.classify(MEDIA, modality="image", want="logits")
    assert (logits.calibrated, logits.abstained) == (None, None)


def test_file_that_failed_among_others_is_a_problem() -> None:
    """An answer of 200 may hold one: read as such, and raised where it is the only one."""
    document = examples("image")["one of two files is broken"]
    good, failed = read_json(Answer, json.dumps(document).encode()).results
    assert isinstance(good, Result) and isinstance(failed, FailedFile)
    assert failed.error.status == 422
    alone = document | {"results": document["results"][1:]}
    answering = httpx.MockTransport(lambda request: httpx.Response(200, json=alone))
    with (
        Client("http://server", transport=answering) as client,
        pytest.raises(Problem, match="/problems/broken-media") as caught,
    ):
        client.classify(MEDIA, modality="image")
    assert (caught.value.status, caught.value.detail) == (422, failed.error.detail)


@pytest.mark.parametrize(
    ("member", "value", "told"),
    [
        ("logits", "AAA", "logits: expected base64 of float32, got 'AAA'"),
        ("logits", "AAAA", "logits: expected base64 of float32, got 'AAAA'"),
        ("logits", [1, "2"], r"logits\[1\]: expected a number, got '2'"),
        ("calibrated", 1, "calibrated: expected true or false, got 1"),
        ("coverage", {"threshold": 0.5}, "coverage: expected a member share"),
        ("error", 3, r"results\[0\].error: expected an object, got 3"),
    ],
)
def test_wrong_members_are_named(member: str, value: Any, told: str) -> None:
    """As all others."""
    document = json.loads(json.dumps(examples("image")["ranked labels"]))
    document["results"][0][member] = value
    with pytest.raises(BadAnswer, match=told):
        read_json(Answer, json.dumps(document).encode())


def test_command_passes_both_on(
    measured: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And tells people which answers the model is not sure of."""
    (tmp_path / "a.png").write_bytes(MEDIA)
    asked = ["classify", str(tmp_path / "a.png"), "--url", measured.url, "--top-k", "1"]
    best = LABELS[int(LOGITS.argmax())]
    for words, unsure, temperature in (
        ([], "not sure: ", TEMPERATURES[0]),
        (["--abstain", "0"], "", TEMPERATURES[0]),
        (["--raw"], "not sure: ", 1.0),
    ):
        assert __main__.main([*asked, *words]) == 0
        value = softmax(LOGITS, temperature).max()
        assert capsys.readouterr().out == f"{tmp_path}/a.png: {unsure}{best} {value:.1%}\n"
