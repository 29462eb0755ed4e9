"""What can go wrong with a job as a whole; of its items every one has its own line."""

from __future__ import annotations

from service.engine.failures import Failure


class UnknownJob(Failure):
    """There is no such job, or it is another's, or it has expired."""


class EmptyJob(Failure):
    """There is nothing to answer in it."""


class BrokenArchive(Failure):
    """A zip or a tar that cannot be read as one, or is made to deceive."""


class PathRefused(Failure):
    """A path leads to nothing that jobs may read."""


class JobTooLarge(Failure):
    """It has more items, or would unpack to more bytes, than a job may."""


class JobsFull(Failure):
    """There is no room for the files of another job."""


class TooManyJobs(Failure):
    """Its owner has all the jobs that one may have."""


class KeyReused(Failure):
    """The idempotency key was used for a job of other files or parameters."""
