"""Ask a LieRE server: files in, ranked labels out.

    from client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify("photo.jpg").predictions[0].label)

``AsyncClient`` is the same for asyncio. Of this project it imports nothing but itself.
"""

from __future__ import annotations

from client.answers import (
    Bundle,
    BundleGrid,
    Bundles,
    Explanation,
    Pixels,
    Prediction,
    Prepared,
    Result,
    Seen,
    TimingMs,
)
from client.asking import AsyncClient
from client.blocking import Client
from client.calls import File, Options, PrepareOptions
from client.errors import BadAnswer, ClientError, NoAnswer, Problem, UnknownModality
from client.figures import Calibration, Coverage, Figures
from client.jobs import Job, JobLine, JobOptions

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Bundle",
    "BundleGrid",
    "Bundles",
    "Calibration",
    "Client",
    "ClientError",
    "Coverage",
    "Explanation",
    "Figures",
    "File",
    "Job",
    "JobLine",
    "JobOptions",
    "NoAnswer",
    "Options",
    "Pixels",
    "Prediction",
    "PrepareOptions",
    "Prepared",
    "Problem",
    "Result",
    "Seen",
    "TimingMs",
    "UnknownModality",
]
