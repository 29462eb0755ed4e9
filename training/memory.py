"""Running out of memory, said in words: what for, and which settings ask for less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from training.config import TrainConfig

#: How torch, its libraries and Python say it where they raise a plain RuntimeError.
WORDS = (
    "can't allocate memory", "not enough memory", "out of memory", "alloc_failed",
    "can't start new thread",
)  # fmt: skip

#: What the reason of every ``OutOfMemory`` begins with.
OUT_OF_MEMORY = "out of memory"


class OutOfMemory(MemoryError):
    """There was not enough memory.

    Attributes:
        reason: the error without the settings.
        settings: what a run may go on with to need less, as ``--set`` takes it; the best first.
    """

    def __init__(self, what: str, settings: Sequence[str] = ()) -> None:
        lower = f"; to need less: {', '.join(f'--set {one}' for one in settings)}"
        self.reason, self.settings = f"{OUT_OF_MEMORY} {what}", tuple(settings)
        super().__init__(self.reason + lower if settings else self.reason)


@contextlib.contextmanager
def told(what: str, settings: Sequence[str] = ()) -> Iterator[None]:
    """Whatever says that memory ran out within this block says it as one error.

    Args:
        what: the work, e.g. ``while decoding``.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(what, settings) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU or of this machine; torch has a type of its own for the first one alone."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in WORDS)


def smaller_passes(config: TrainConfig, processes: int = 1) -> list[str]:
    """What makes a pass through the network smaller and keeps the batch."""
    own = config.batch // processes
    divisors = (n for n in range(config.accumulate + 1, own + 1) if not own % n)
    settings = [f"accumulate={n}" for n in divisors if n >= 2 * config.accumulate][:1]
    return settings + ["precision=bf16"] * (config.precision in ("fp32", "tf32"))


def smaller_steps(config: TrainConfig, processes: int = 1) -> list[str]:
    """What makes a step need less: smaller passes, or fewer tensors kept for the gradient."""
    return smaller_passes(config, processes) + ["recompute=true"] * (not config.recompute)


def smaller_decoding(config: TrainConfig) -> list[str]:
    """What makes decoding need less; a cache is mapped and need not fit into memory."""
    settings = [] if config.cache else ["cache=.cache"]
    return settings + ["workers=1"] * (config.workers > 1)
