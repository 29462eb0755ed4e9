"""--workers: threads that decode what an export, or a proof, measures on."""

from __future__ import annotations

import argparse
import os

#: The CPUs that this process may use; ``benchmarks.export_decoding`` measures other numbers.
DEFAULT = len(os.sched_getaffinity(0))


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command."""
    parser.add_argument(
        "--workers",
        type=_threads,
        default=DEFAULT,
        metavar="N",
        help=f"threads that decode the labelled data (default: the usable CPUs, here {DEFAULT})",
    )


def _threads(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"expected 1 to 1024 threads, got {text[:40]!r}")
    return int(text)
