"""How long does a linear probe take once its features are there?

10,000 features of 384 numbers of 100 classes, and 2,000 to choose by, made of noise around a centre
of each class, so that the fits are neither done at once nor without end. Processor time of all
threads is told beside the seconds: on a loaded machine the two differ.

    python -m benchmarks.linear_probe
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from training.features import Features
from training.probe import PENALTIES, chosen, fitted
from training.progress import Progress


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--apart", type=float, default=0.15, help="of the classes' centres")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = options.apart * rng.normal(size=(options.classes, options.features))
    training, validation = (
        features(rng, centres, items) for items in (options.items, options.items // 5)
    )
    labels = tuple(f"class {label}" for label in range(options.classes))
    began, spent = time.perf_counter(), time.process_time()
    heads = fitted(training, validation, labels, Progress(shown=False))
    seconds, processor = time.perf_counter() - began, time.process_time() - spent
    best = chosen(heads, "top1", len(validation.labels))
    for head in heads:
        print(f"{head}, {head.steps} steps")
    result = {
        "benchmark": "linear_probe",
        "penalties": len(PENALTIES),
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor, 2),
        "val_top1": round(best.record["top1"], 4),
    }
    print(json.dumps(result))


def features(rng: np.random.Generator, centres: np.ndarray, items: int) -> Features:
    labels = np.arange(items) % len(centres)
    rows = centres[labels] + rng.normal(size=(items, centres.shape[1]))
    return Features(rows.astype(np.float32), labels, tuple(map(str, range(items))), ())


if __name__ == "__main__":
    main()
