"""``python -m deploy.ray.label SOURCE``: labels for a million files, as Parquet, by many workers.

The list of files is cut into parts. Ray gives them to a pool of actors, each of which holds an
engine (``labeller``) and writes what it answers as a file of its own (``partitions``): what Ray
carries are numbers of parts. A worker that is killed is started again and answers its parts again;
a command that is killed goes on when it is given again.

Why not Ray Data (2.60): its blocks and formats would carry those numbers alone, and what a part
needs is its file. It starts actors again without end, and the ways to bound that leave it with
2.64; every start of its pool is logged as an error of Ray's core; and it ends with its actors at
work, whose decode workers then die under them.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

from deploy.ray.labeller import Labeller, Work
from deploy.ray.partitions import SHARDS, Output, OutputError, Run, list_fingerprint
from media.files import sha256_file
from media.index import Dataset, open_media
from media.sources import SourceError, summary
from media.sources.stores import Held
from models.bundle import BundleError
from models.manifest import MANIFEST
from service.cli.exit_status import DEVICE_DIED, FAILED, OK, WRONG_COMMAND, complain
from service.cli.progress import Progress
from service.cli.question import add_bundle, add_question, parameters_of
from service.cpus import usable_cpus
from service.engine.folders import NoBundles, bundle_folders, name_bundles, read_answering
from service.settings import MIB, Settings, SettingsError, make_offline_settings

PROGRAM = "deploy.ray.label"
PER_PART = 500
#: Parts that a worker has in hand: while one ends, the next one has begun.
AT_A_TIME = 2
#: Nothing but numbers of parts goes through Ray's store; it takes no less.
STORE_BYTES = 80 * MIB
#: Ray gives its processes 30 seconds to come up, which are too few on a busy machine.
STARTS = 3
#: In which a cluster says that it is there.
ANSWER_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Label every file: 0 if all were answered, 1 if some were not, 2 for a wrong command."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        options.settings = _settings(options)
        with Output.opened(options.out) as output:
            files = _files(options.source, options.out / SHARDS)
            run = _run(options, files)
            output.begin(run, files)
            if files.left_out:
                print(f"left out: {summary(files.left_out)}")
            return _label(output, run, options)
    except (SettingsError, NoBundles, BundleError, SourceError, OutputError) as error:
        return complain(error, WRONG_COMMAND, PROGRAM)
    except KeyboardInterrupt:
        return complain("stopped; the same command goes on", 128 + signal.SIGINT, PROGRAM)


def _files(source: Path, cache: Path) -> Dataset:
    """What shall be labelled, in order; SourceError for what is none, or damaged."""
    try:
        files = open_media(source, cache=cache)
    except OSError as error:
        raise SourceError(f"{source} cannot be read: {error.strerror}") from error
    if isinstance(files.store, Held):
        raise SourceError(f"{source}: expected files, and an npz holds arrays; see --help")
    return files


def _run(options: argparse.Namespace, files: Dataset) -> Run:
    """What is asked, of the bundle as it lies there now.

    Raises:
        BundleError, NoBundles, SettingsError: it cannot answer.
    """
    said, _, version = options.bundle.partition("@")
    named = name_bundles(bundle_folders(options.bundles))
    if said not in named:
        raise SettingsError(f"unknown bundle {said[:64]!a}; known: {', '.join(sorted(named))}")
    bundle, _ = read_answering(named[said])
    if version not in ("", bundle.manifest.version):
        raise SettingsError(
            f"bundle {said} answers with version {bundle.manifest.version}, not {version[:64]!a}"
        )
    parameters = parameters_of(options)
    del parameters["bundle"]
    return Run(
        str(options.source.absolute()),
        len(files),
        list_fingerprint(files),
        options.per_part,
        said,
        bundle.manifest.version,
        sha256_file(bundle.root / MANIFEST),
        parameters,
        options.embedding,
    )


def _label(output: Output, run: Run, options: argparse.Namespace) -> int:
    """Have the parts answered that are not there yet, and say what became of all files."""
    there, began = output.finished(), time.monotonic()
    problems = Counter[str]()
    for part in there:  # before hours of work, which a damaged one would end for nothing
        problems += output.problems(part, run)
    progress = Progress(run.files, "files")
    progress.step(sum(len(run.places(part)) for part in there))
    if missing := [part for part in range(run.parts) if part not in there]:
        work = Work(output.folder.absolute(), run, options.settings)
        status, reason = _through_ray(work, missing, options, progress)
        progress.clear()
        if status != OK:
            return complain(reason, status, PROGRAM)
    for part in missing:
        problems += output.problems(part, run)
    failed, took = problems.total(), time.monotonic() - began
    print(
        f"{run.files} files by {run.model}@{run.version}: {run.files - failed} answered, "
        f"{failed} with a problem"
    )
    for problem, count in problems.most_common():
        print(f"  {count} {problem}")
    print(
        f"{len(missing)} of {run.parts} parts in {took:.1f} s by {options.workers} workers; "
        f"{len(there)} were there before"
    )
    return FAILED if failed else OK


def _through_ray(
    work: Work, parts: list[int], options: argparse.Namespace, progress: Progress
) -> tuple[int, str]:
    """Give the parts to the workers; the first status that is not OK and its reason, or OK."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is sent anywhere
    if not options.address:
        # A token that is kept nowhere: who reaches Ray may have it do anything.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray.util  # noqa: PLC0415  # after that, and not for --help: it takes a second

    gpus = float(options.device == "cuda")
    if options.address:
        host, _, port = options.address.rpartition(":")
        try:  # Ray itself would go on asking for minutes
            socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
            ray.init(options.address, logging_level=logging.ERROR)
        except Exception as error:  # of Ray's, such as for a token, nothing narrower is common
            ray.shutdown()
            told = f"expected HOST:PORT of Ray: {' '.join(str(error).split())}"
            return WRONG_COMMAND, f"--address {options.address}: {told}"
    elif reason := _start_ray(options.workers * options.cores, options.workers * gpus):
        return FAILED, f"Ray did not start; the same command tries again. It says: {reason}"
    try:
        for resource, each in (("CPU", options.cores), ("GPU", gpus)):
            found, needed = ray.cluster_resources().get(resource, 0), options.workers * each
            if found < needed:
                return WRONG_COMMAND, (
                    f"--workers {options.workers}: they need {needed:g} {resource}, and Ray has "
                    f"{found:g}"
                )
        start = ray.remote(Labeller).options(
            num_cpus=options.cores,
            num_gpus=gpus,
            max_restarts=-1,  # ``TRIES`` ends what ends every worker
            max_task_retries=-1,
            max_concurrency=AT_A_TIME,
        )
        workers = [start.remote(work) for _ in range(options.workers)]
        pool = ray.util.ActorPool(workers * AT_A_TIME)
        answers = pool.map_unordered(lambda worker, part: worker.label.remote(part), parts)
        for part, status, reason in answers:
            if status != OK:
                return status, reason
            progress.step(len(work.run.places(part)))
        ray.get([worker.close.remote() for worker in workers])
    except ray.exceptions.RayActorError as error:
        return DEVICE_DIED, f"no worker can be kept; the same command goes on. Ray says: {error}"
    finally:
        ray.shutdown()
    return OK, ""


def _start_ray(cpus: int, gpus: float) -> str:
    """Ray on this machine alone; why it did not start, or nothing."""
    import ray  # noqa: PLC0415  # as above

    reason = ""
    for _ in range(STARTS):
        try:
            ray.init(
                "local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",  # nobody else has business here
            )
        except Exception as error:  # it raises nothing narrower
            reason = str(error)
            ray.shutdown()
        else:
            return ""
    return reason


# --- the command line ------------------------------------------------------------------------


def _settings(options: argparse.Namespace) -> Settings:
    """Of every worker's engine: those of the server, for the cores that a worker has."""
    given = {"bundles": options.bundles.absolute(), "device": options.device, "default_bundle": ()}
    settings = make_offline_settings(**given)
    shares = {"threads": options.cores, "decode_workers": options.cores + 1}
    own = {name: value for name, value in shares.items() if not getattr(settings, name)}
    return settings.model_copy(update=own | {"jobs": None})


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of a command; it ends the process for ``--help`` and for a wrong one."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Label many images, clips or scans with one bundle, by several workers, into Parquet files.

  python -m deploy.ray.label photos --model cifar10-liere8 --out labels
  python -m deploy.ray.label 'shards/train-{000..146}.tar' --model NAME --out labels --workers 8
  python -m deploy.ray.label list.txt --model NAME --out labels --embedding

SOURCE is a folder (all media in it, by their endings), tar shards (a folder of them, or a pattern),
a zip or a tar, a CSV with a column path, a text with a path a line, or one file. Paths of a list
are relative to it.

The files, in the order of the source, are cut into parts; each part becomes part-00000.parquet and
so on, with a row a file: id, source, labels and probabilities, abstained, grid, model, version and
digest of the bundle, and problem and detail of a file that could not be answered. A part is
written whole or not at all. The same command goes on after whatever end, with what is missing; a
list, a bundle or a question that has changed since is refused.
""",
        epilog="Exit status: 0 all answered, 1 some file failed (the others are answered), or a "
        "part could not\nbe written, 2 wrong command, another run's folder, a source or bundle "
        "that is not there or\ndamaged, 3 the workers ended again and again. The settings of the "
        "server count here too, as\nenvironment variables: see python -m service --help.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="what shall be labelled")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the rows are written")
    add_bundle(parser, "--model")
    add_question(parser)
    add("--embedding", action="store_true", help="the features before the head too, in each row")
    add(
        "--bundles", type=Path, default=Path("bundles"), metavar="DIR",
        help="folder of bundles (default: bundles)",
    )  # fmt: skip
    add(
        "--per-part", type=_at_least_one, default=PER_PART, metavar="N",
        help=f"files of a part: what is done again after a kill (default: {PER_PART})",
    )  # fmt: skip
    add(
        "--cores", type=_at_least_one, default=1, metavar="N",
        help="cores of a worker (default: 1)",
    )  # fmt: skip
    add(
        "--workers", type=_at_least_one, metavar="N",
        help="how many (default: as many as this machine's cores are enough for)",
    )  # fmt: skip
    add(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="cuda: a GPU for each worker (default: cpu)",
    )  # fmt: skip
    add(
        "--address", metavar="HOST:PORT",
        help="of a Ray cluster, whose machines find checkout, environment, bundles, SOURCE and "
        "FOLDER by the same paths; else Ray is started here and ended again",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    options.workers = options.workers or max(1, usable_cpus() // options.cores)
    return options


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray is ended too
    sys.exit(main())
