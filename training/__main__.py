"""python -m training PRESET --data PATH --out RUN, ... compare, split, report, predict."""

from __future__ import annotations

import sys

from training.stopping import end_quietly


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    from training import command  # noqa: PLC0415 - torch takes seconds, and signals come any time

    return command.main(arguments)


if __name__ == "__main__":
    end_quietly()
    sys.exit(main())
