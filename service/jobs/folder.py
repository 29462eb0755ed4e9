"""The folder of jobs as one process takes it: the only one that works on them meanwhile."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from service.jobs.database import StoreError
from service.jobs.spool import InUse, NoJobs, Spool
from service.jobs.store import Job, Store
from service.settings import GIB, Settings, SettingsError


class Folder(NamedTuple):
    """What lies in it.

    Attributes:
        spool: the files of jobs, without those that no job needs any more.
        store: jobs and their lines.
        open: the jobs that have not ended.
    """

    spool: Spool
    store: Store
    open: list[Job]


def take_folder(settings: Settings) -> Folder:
    """Take the folder of the settings; SettingsError where it cannot be used."""
    folder = settings.jobs
    assert folder is not None
    try:
        spool = Spool(folder, int(settings.jobs_max_gib * GIB))
        store = Store(folder)  # before anything is removed: it tells whose folder this is
        jobs = store.open()
        spool.keep({job.id for job in jobs}, store.database.size)
        store.database.reserve.take()
    except NoJobs:
        raise SettingsError(
            f"jobs: expected an empty folder, or one that holds jobs; {folder} holds something else"
        ) from None
    except InUse:
        raise SettingsError(f"jobs: another process works on those of {folder}") from None
    except (OSError, sqlite3.Error, StoreError) as error:
        raise SettingsError(f"jobs: {folder} cannot be used: {error}") from error
    return Folder(spool, store, jobs)
