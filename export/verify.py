"""python -m export verify BUNDLE: prove a finished bundle again, without its checkpoint."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import sys
from pathlib import Path

from export.proof import Proof
from export.proofs import prove
from export.workers import add_workers
from media.index import open_dataset
from media.sources import FIRST, RULE, SPLITS, SourceError
from models.bundle import BundleError, read_manifest
from models.versions import has_versions, version_names

MARKS = {True: "ok    ", False: "FAILED", None: "--    "}


def main(arguments: list[str]) -> int:
    """Prove one bundle; the exit status is 0, 1 (a proof failed) or 2 (bad input)."""
    words = _parser().parse_args(arguments)
    try:
        if not words.bundle.is_dir():
            raise FileNotFoundError(f"expected the folder of a bundle, got {words.bundle}")
        if has_versions(words.bundle):
            there = ", ".join(version_names(words.bundle))
            raise FileNotFoundError(f"{words.bundle} has versions: name the folder of one: {there}")
        if words.data:
            _check_labels(words.bundle)
        dataset = open_dataset(words.data, _rule(words.bundle)) if words.data else None
    except (SourceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    proofs = []
    for proof in prove(words.bundle, dataset, words.split, words.workers):
        proofs.append(proof)
        if not words.json:
            print(f"{MARKS[proof.passed]} {proof.what}: {proof.told}", flush=True)
    failed = [proof for proof in proofs if proof.passed is False]
    if words.json:
        print(json.dumps(_as_json(words.bundle.name, proofs, not failed)))
    elif not failed:
        print("verified")
    for proof in failed:
        print(f"not verified: {proof.what}: {proof.told}", file=sys.stderr)
    return 1 if failed else 0


def _check_labels(bundle: Path) -> None:
    """SourceError for a bundle without a head; what is wrong with a broken one, ``prove`` tells."""
    with contextlib.suppress(BundleError):
        if not read_manifest(bundle).labels:
            raise SourceError(
                f"{bundle} has no head, so its answers cannot be compared with the labels of "
                "--data: verify it without. Its features are proved by its goldens, and how near "
                "they are to the checkpoint's is stated in its parity"
            )


def _rule(bundle: Path) -> int:
    """By which the bundle's data were split; what is wrong with a broken one, ``prove`` tells."""
    try:
        return int(read_manifest(bundle).source.get("data", {}).get("rule", FIRST))
    except BundleError:
        return RULE


def _as_json(name: str, proofs: list[Proof], verified: bool) -> dict[str, object]:
    """Figures that are no numbers become null: JSON has none."""
    rows = [dataclasses.asdict(proof) for proof in proofs]
    for row in rows:
        for key in ("found", "bound"):
            if row[key] is not None and not math.isfinite(row[key]):
                row[key] = None
    return {"bundle": name, "verified": verified, "proofs": rows}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export verify",
        description="Prove a bundle against its own manifest, on this machine's CPU.",
        epilog="example: python -m export verify bundles/digits --data digits.csv; "
        "exit status 0 verified, 1 not verified, 2 bad input",
    )
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    add(
        "--data",
        type=Path,
        help="labelled data that accuracy was measured on, to measure again; not of a bundle "
        "without a head, which has none",
    )
    add("--split", choices=SPLITS, help="split of --data (default: the one that was measured)")
    add("--json", action="store_true", help="one JSON object instead of a line per proof")
    add_workers(parser)
    return parser
