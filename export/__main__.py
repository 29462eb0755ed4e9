"""python -m export RUN --grid 8x8 --out bundles, and python -m export verify BUNDLE."""

from __future__ import annotations

import sys

from export import verify


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 (a proof failed) or 2 (bad input)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["verify"]:
        return verify.main(arguments[1:])
    from export import command  # noqa: PLC0415 - brings torch, which verify needs nothing of

    return command.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
