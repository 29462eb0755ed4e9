"""hf://OWNER/NAME[@REVISION]: what huggingface_hub fetches, or has fetched before."""

from __future__ import annotations

import re
from pathlib import Path

from media.spec import SpecError
from models.pretrained.source import CONFIG, INDEX, PREPROCESSOR, SAFE, WEIGHTS

SCHEME = "hf://"
NAMED = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
#: What is asked for: words and tensors, and a pickle only where there is nothing better.
WORDS = (CONFIG, PREPROCESSOR)
BETTER = (f"*{SAFE[0]}", f"*{SAFE[0]}{INDEX}")


def fetch(address: str) -> Path:
    """The folder of a repository of the hub, from its cache where there is no network.

    Raises:
        SpecError: the address is none, huggingface_hub is not installed, or it cannot be fetched;
            the message has the library's reason.
    """
    named = NAMED.fullmatch(address.removeprefix(SCHEME))
    if named is None:
        raise SpecError(f"expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION, got {address}")
    try:  # an extra of its own
        from huggingface_hub import snapshot_download  # noqa: PLC0415
        from huggingface_hub.errors import (  # noqa: PLC0415
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise SpecError(
            f"{address}: huggingface_hub is not installed; pip install '.[hub]'"
        ) from error

    def folder(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                named["id"], revision=named["revision"], allow_patterns=[*WORDS, *patterns]
            )
        )

    try:
        found = folder(*BETTER)
        if not any(found.glob(BETTER[0])):
            found = folder(WEIGHTS[1])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpecError(f"{address}: cannot be fetched: {reason}") from error
    return found
