"""What a command asks of every file, as its flags say it: the parameters of a request."""

from __future__ import annotations

import argparse

from service.engine.explain.explanation import METHODS

#: Flags that are parameters of a request by the same name.
NAMES = (
    "bundle", "grid", "top_k", "views", "want", "encoding_format", "raw", "abstain",
    "explain_label",
)  # fmt: skip


def add_bundle(parser: argparse.ArgumentParser, flag: str, otherwise: str = "") -> None:
    """Who answers; ``otherwise`` says who does where nobody is named."""
    parser.add_argument(
        flag,
        dest="bundle",
        metavar="NAME",
        required=not otherwise,
        help=f"who answers, NAME@VERSION to insist on its version{otherwise}",
    )


def add_question(parser: argparse.ArgumentParser) -> None:
    """How the answer is found, and what of it is told."""
    add = parser.add_argument
    add(
        "--grid",
        help="one of the bundle's grids, like 8x8, or auto, the one that fits the size of each "
        "file; the first when not given",
    )
    add("--views", metavar="V", help="of clips: sampled so often; else as the bundle says")
    add("--top-k", metavar="K", help="number of labels; 5 (or all, if fewer) when not given")
    add(
        "--raw",
        action="store_const",
        const="true",
        help="the network's own probabilities, not calibrated",
    )
    add(
        "--abstain",
        metavar="P",
        help="calibrated probability of the first label, 0 to 1, under which the model is not "
        "sure; 0 is never; else as the bundle says",
    )


def parameters_of(options: argparse.Namespace) -> dict[str, str]:
    """What a request would say; of flags that a command does not have, nothing."""
    named = {name: getattr(options, name, None) for name in NAMES}
    if getattr(options, "explain", None):
        named["explain"] = options.explain_by or METHODS[0]
    return {name: text for name, text in named.items() if text is not None}
