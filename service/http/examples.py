"""Examples for the OpenAPI page: answers as the server gives them, a sentence for every problem."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from models.figures import Calibration, Coverage, Estimate, Figures, FittedOn, Reliability
from service.engine import failures
from service.engine.vocabulary import PARAMETERS
from service.http import problems
from service.http.explain_examples import EXPLANATIONS, attention_of
from service.settings import Settings

ID = "ce5fe426057e319e"  # of a request


def _answer(
    bundle: str,
    grid: str,
    ranked: list[tuple[str, int, float]],
    timing_ms: tuple[float, float, float],
    **seen: Any,
) -> dict[str, Any]:
    """Of one file."""
    names = "label", "index", "probability"
    result = {
        "bundle": bundle,
        "version": "1",
        "grid": grid,
        "seen": seen,
        "predictions": [dict(zip(names, one, strict=True)) for one in ranked],
        "calibrated": True,
        "timing_ms": dict(zip(("decode", "queue", "inference"), timing_ms, strict=True)),
    }
    return {"id": ID, "results": [result]}


_TIMES = [0.0, 0.4, 0.8, 1.2, 1.7, 2.1, 2.5, 2.9]
ANSWERS = {
    "image": _answer(
        "cifar10-liere8",
        "8x8",
        [("airplane", 0, 0.991506), ("ship", 8, 0.001912)],
        (1.174, 0.325, 3.908),
        size=[480, 640],
        turn=1,
        box=[[0.0, 480.0], [80.0, 560.0]],
    ),
    "video": _answer(
        "lung-ultrasound",
        "4x4x4",
        [("covid19", 0, 0.835756), ("pneumonia", 1, 0.108638)],
        (14.051, 0.223, 3.878),
        seconds=[[round(view / 10 + time, 1) for time in _TIMES] for view in range(4)],
        size=[480, 640],
        box=[[0.0, 480.0], [0.0, 640.0]],
    ),
    "volume": _answer(
        "adrenal",
        "4x4x4",
        [("hyperplasia", 1, 0.998975), ("normal", 0, 0.001025)],
        (4.093, 0.223, 4.057),
        orientation="SPL",
        spacing_mm=[2.0, 2.0, 2.0],
        size=[64, 64, 64],
        box=[[0.0, 64.0], [0.0, 64.0], [0.0, 64.0]],
    ),
}

_MEASURED = Figures(
    top1=Estimate(0.778, 0.7702975, 0.7867025, 1000),
    top5=Estimate(0.9859, 0.9836975, 0.9881, 1000),
    balanced_accuracy=Estimate(0.7779999999999999, 0.7702950703679696, 0.786204484945119, 1000),
    roc_auc=Estimate(0.9725759333333333, 0.9708000596271814, 0.9743431762871207, 1000),
    drawn="items",
    units=10_000,
    confidence=0.7983406735008021,
    mix=(0.1067, 0.104, 0.0984, 0.0863, 0.0983, 0.1061, 0.1042, 0.0968, 0.0989, 0.1003),
    coverage=(
        Coverage(0.5, 0.8805, 0.8307779670641681),
        Coverage(0.6, 0.7982, 0.8634427461789025),
        Coverage(0.7, 0.7097, 0.8938988304917571),
        Coverage(0.8, 0.6142, 0.9220123738196028),
        Coverage(0.9, 0.4702, 0.9593789876648234),
        Coverage(0.95, 0.3315, 0.9782805429864253),
        Coverage(0.99, 0.0196, 1.0),
    ),
)
_CALIBRATION = Calibration(
    calibrated=True,
    temperature=0.7887797087408384,
    reason="",
    fitted_on=FittedOn(
        "val", 2500, "d09f93900d5ada7922bee8075f6e14aae10326380130c063055e2ce9387f3ab1", 0
    ),
    before=Reliability(0.05680968383188508, 0.6896041227444722, 0.31624958382277046),
    after=Reliability(0.02390003096189861, 0.6620857573601951, 0.31380148969107013),
)
BUNDLES_EXAMPLE: dict[str, Any] = {
    "ready": True,
    "default": {"image": "cifar10-liere8", "video": "lung-ultrasound", "volume": "adrenal"},
    "bundles": [
        {
            "name": "cifar10-liere8",
            "state": "ready",
            "reason": None,
            "version": "1",
            "versions": ["1"],
            "modality": "image",
            "views": None,
            "stride_seconds": None,
            "spacing_mm": None,
            "device": "cpu",
            "encoding": "liere",
            "precision": "fp32",
            "grids": [
                {
                    "grid": "8x8",
                    "pixels": [32, 32],
                    "top1": 0.778,
                    "split": "test",
                    "items": 10_000,
                    "figures": asdict(_MEASURED),
                    "calibration": asdict(_CALIBRATION),
                    "explain": ["occlusion"],
                    "abstain": None,
                }
            ],
            "labels": [
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ],
        }
    ],
}

ADMIN_EXAMPLE: dict[str, Any] = {
    "name": "digits",
    "state": "ready",
    "loaded": "2",
    "draining": ["1"],
    "shadow": None,
    "versions": ["1", "2"],
    "answering": "2",
    "previous": "1",
    "writable": True,
    "refused": None,
}
#: What a shadow has found.
SHADOW_EXAMPLE: dict[str, Any] = {
    "bundle": "digits",
    "answering": "1",
    "candidate": "2",
    "share": 0.1,
    "state": "running",
    "reason": None,
    "began": 1795968000.0,
    "waiting": 0,
    "compared": 40,
    "agreed": 39,
    "shed": {"busy": 2},
    "failed": {},
    "agreement": {"value": 0.975, "low": 0.871, "high": 0.996},
    "difference": {"value": 0.021, "low": 0.012, "high": 0.03},
    "largest_difference": 0.44,
    "confidence": {"answering": 0.912, "candidate": 0.931},
    "lane_ms": {"answering": 3.1, "candidate": 3.2},
    "labels": [
        {
            "label": "seven",
            "answering": 40,
            "candidate": 39,
            "agreement": {"value": 0.975, "low": 0.871, "high": 0.996},
        }
    ],
    "differed": [{"answering": "seven", "candidate": "one", "items": 1}],
}
#: One sentence that each problem under /admin really gives.
ADMIN: dict[type[failures.Failure], str] = {
    failures.UnknownBundle: "unknown bundle 'digit'; known: digits",
    failures.UnknownVersion: "bundle digits: there is no version '3'; there are 1, 2",
    failures.CandidateRefused: "bundle digits: version 2 is refused: graphs/weights.bin is listed "
    "and missing; version 1 answers",
    failures.VersionInUse: "bundle digits: version 2 answers; load another first",
    failures.NoShadow: "bundle 'digits' has no shadow, and had none since the start",
    failures.BadParameter: "share: expected a number from 0 to 1, got '10%'",
    problems.UnknownParameter: "unknown parameter 'shares'; known parameters: share",
    problems.RepeatedParameter: "share is given more than once",
    failures.FolderFixed: "the folder of bundle digits cannot be changed: Read-only file system; "
    "version 1 answers",
    failures.Draining: "the server is shutting down",
}

#: One sentence that each problem really gives, whatever the modality.
COMMON: dict[type[failures.Failure], str] = {
    problems.Unauthorized: "expected Authorization: Bearer KEY, with a key that this server knows",
    problems.Forbidden: "expected a key with the scope classify; this one has metrics",
    problems.KeyLimited: "this key may send 10 requests a second",
    problems.EmptyBody: "expected a file as the body, or a form with a part named file",
    problems.BrokenForm: "the form ends before its last boundary",
    problems.NoFile: "expected at least one part named file",
    failures.EmptyFile: "file 1 has no bytes",
    problems.TooManyFiles: "a request may have at most 16 files",
    problems.ContentEncoded: "expected no Content-Encoding, or identity",
    problems.RepeatedParameter: "top_k is given more than once",
    failures.Overloaded: "all 128 permits are taken; try again later",
    failures.InferenceFailed: "the model gave no finite answer for this input",
    failures.InternalError: "the server made a mistake; it is in its log under this id",
    failures.NotReady: "the bundles are still being checked",
    failures.Draining: "the server is shutting down; connect again",
}
#: What a file of none of the types that an address reads is told.
UNSUPPORTED = {
    "image": "expected JPEG, PNG, WEBP, TIFF, BMP, GIF bytes; these are none of them",
    "video": "expected MP4, QuickTime, Matroska, WebM, AVI, GIF, MPEG or MPEG-TS bytes; these are "
    "none of them",
    "volume": "expected NIfTI, DICOM, npy, npz, zip of DICOM, NRRD, MetaImage bytes (the first two "
    "may be gzipped); these are none of them",
}
ENDINGS = {"image": ".jpg", "video": ".mp4", "volume": ".nii.gz"}
BROKEN = {"image": "image", "video": "video", "volume": "scan"}
TOO_LARGE = {
    "image": "images may have at most 50000000 pixels",
    "video": "a clip may last at most 60 seconds",
    "volume": "scans may have at most 134217728 voxels and 16384 per side; "
    "this one is 1000x1000x1000",
}


def examples(modality: str) -> dict[str, Any]:
    """Answers of an operation: of one file, explained both ways, and two of which one is broken."""
    (result,) = ANSWERS[modality]["results"]
    named = {"filename": f"1{ENDINGS[modality]}"} | result
    error = problems.members(failures.BrokenMedia(details(modality)[failures.BrokenMedia]))
    failed = {"filename": f"2{ENDINGS[modality]}", "error": error}
    return {
        "ranked labels": ANSWERS[modality],
        "with explain=occlusion": {
            "id": ID, "results": [result | {"explanation": EXPLANATIONS[modality]}],
        },
        "with explain=attention": {
            "id": ID, "results": [result | {"explanation": attention_of(modality)}],
        },
        "one of two files is broken": {"id": ID, "results": [named, failed]},
    }


def details(modality: str) -> dict[type[failures.Failure], str]:
    """A sentence for every problem, as requests of this modality get it by default."""
    limits = Settings.model_construct().limits(modality)
    bundle, grid = (ANSWERS[modality]["results"][0][name] for name in ("bundle", "grid"))
    return COMMON | {
        failures.UnknownBundle: f"unknown {modality} bundle 'nope'; known: {bundle}",
        failures.BundleRefused: (
            f"bundle {bundle} is not served: graphs/weights.bin is listed and missing"
        ),
        failures.UnknownVersion: f"bundle {bundle}: there is no version '2'; version 1 answers",
        failures.NoEmbedding: (
            f"want: bundle {bundle} has no embedding at grid {grid}; bundles have one since their "
            "graphs are exported with it"
        ),
        failures.NoAttention: (
            f"explain: bundle {bundle} tells no attention at grid {grid}: expected one that was "
            "exported with --explain, or explain=occlusion"
        ),
        failures.NoLabels: (
            f"want: bundle {bundle} has no labels and gives features alone: expected "
            "want=embedding, got want=labels"
        ),
        failures.ExplanationTooLong: (
            "explain: the masked rows take about 41.3 seconds here, and the answer is due in 30.0; "
            "a smaller grid, fewer views or fewer files take less"
        ),
        failures.UnknownGrid: f"unknown grid '9x9' for bundle {bundle}; known: {grid}, auto",
        problems.UnknownParameter: (
            f"unknown parameter 'topk'; known parameters: {', '.join(PARAMETERS[modality])}"
        ),
        failures.BadParameter: "top_k: expected a whole number from 1 to 10, got '0'",
        problems.BodyTooLarge: f"a request body may have at most {limits.body_bytes} bytes",
        failures.FileTooLarge: f"a file may have at most {limits.file_bytes} bytes",
        problems.BodyTimeout: f"the body was not complete within {limits.upload_seconds:g} seconds",
        failures.DeadlinePassed: f"there was no answer within {limits.deadline_seconds:g} seconds",
        failures.DecodeTimeout: f"decoding took longer than {limits.decode_seconds:g} seconds",
        failures.UnsupportedMedia: UNSUPPORTED[modality],
        failures.BrokenMedia: (
            f"the {BROKEN[modality]} is truncated or corrupt and cannot be decoded"
        ),
        failures.MediaTooLarge: TOO_LARGE[modality],
    }
