"""Two replicas of Ray Serve answer as one server does, also below a prefix."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.ray_cluster import Cluster, until
from tests.helpers.service_fixtures import ENDINGS, MEDIA, ROOT, serving, write_tiny_bundle

#: Of a logit, absolute and relative: what the bundles' goldens are held to in fp32 on a CPU.
TOLERANCE = 1e-4
SHIPPED = "cifar10-liere8"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of every modality; the one of images is shipped and of full size."""
    root = tmp_path_factory.mktemp("bundles")
    shutil.copytree(ROOT / "bundles" / SHIPPED, root / SHIPPED)
    for modality in ("video", "volume"):
        write_tiny_bundle(root, f"tiny-{modality}", modality)
    return root


def test_answers_are_those_of_the_single_server(cluster: Cluster, bundles: Path) -> None:
    """Logits of images, clips and scans, whichever replica was asked."""
    cluster.deploy(bundles, prefix="/vision")
    cluster.settle(2)
    with serving(bundles) as server:
        for modality, make in MEDIA.items():
            path = f"/v1/classify/{modality}?want=logits"
            for seed in range(4):
                files = {"file": (f"a{ENDINGS[modality]}", make(seed))}
                (expected,) = server.classify(path, files=files).json()["results"]
                answer = cluster.classify(path, files=files)
                assert answer.status_code == 200, answer.text
                (result,) = answer.json()["results"]
                assert (result["bundle"], result["grid"]) == (expected["bundle"], expected["grid"])
                np.testing.assert_allclose(
                    result["logits"], expected["logits"], rtol=TOLERANCE, atol=TOLERANCE
                )
    until(
        lambda: all(cluster.series("liere_requests_total").get(one) for one in cluster.names()),
        "both replicas to have answered",
    )
