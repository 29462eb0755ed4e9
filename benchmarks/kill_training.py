"""Does a training run that is killed, or asked to stop, lose anything?

    python -m benchmarks.kill_training [--kills 50] [--stops 10] [--seed 0] [--workers 2]
                                       [--processes 2]

One small run, with everything that holds state or draws, is left in peace. Every trial starts the
same run in a new process and ends its process group with SIGKILL, goes on with ``--resume``, may
be killed again, and must end with the same files by SHA-256 and the same metrics. Of five trials,
three are killed at an instant that is uniform over the life of a process, from its start on; one
while a checkpoint is being written; one just after a checkpoint got its name, when the links
are still to follow. Where there is no checkpoint yet, ``--resume`` must be refused and a plain
start must work in the same folder.

With ``--workers`` items are read in each step by so many processes, and SIGKILL is for the run
alone: none of its workers may outlive it by much.

With ``--processes`` torchrun starts so many, and SIGKILL is for one of them or for torchrun itself,
as it is drawn; while a checkpoint is written, for the one that writes it. All others have to end.

A stop is a SIGTERM at a uniform instant: status 143 and, resumed, again the same end.

Lives are counted in processor time, so that a machine that is busy otherwise does not make them
longer. ``--seed S --kills 1`` repeats the trial of seed S, but for milliseconds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from media.files import sha256_file
from models.checkpoint import WEIGHTS, CheckpointError, load_checkpoint, load_tensors
from training.run import TRAINING_STATE

ROOT = Path(__file__).resolve().parent.parent
#: Training pictures per class: balanced sampling has something to do.
CLASSES = {"blue": 18, "green": 10, "red": 6}
#: Four steps an epoch, three epochs, checkpoints at the steps 0 3 4 6 8 9 12; nothing is square.
SETTINGS = (
    "batch=8", "epochs=3", "save_every=3", "warmup_steps=3", "accumulate=2", "clip_norm=0.5",
    "learning_rate=0.003", "ema=0.9", "sampling=balanced", "choose=loss", "precision=fp32",
    "device=cpu", "model.grid=[3,4]", "model.width=32", "model.mlp_dim=32", "model.dropout=0.1",
    "model.drop_path=0.2", "augment.crop_scale=[0.4,1.0]", "augment.oversize=1.25",
    "augment.operations=2", "augment.colour=0.3", "augment.erase=0.5", "augment.flip=true",
    "augment.mixup=0.4", "augment.cutmix=1.0",
)  # fmt: skip
CHECKPOINTS = 7
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
MODES = ("any", "checkpoint", "any", "links", "any")
#: How a process ends that gets the signal; before Python listens a SIGTERM ends it by itself.
INTERRUPTED = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (128 + signal.SIGTERM, -signal.SIGTERM),
}
#: Longest time from the instant, from the first sight of a checkpoint, or of its name, to the
#: kill; seconds.
DELAY = {"any": 0.01, "checkpoint": 0.015, "links": 0.001}
#: Probability that a resumed process is killed too.
AGAIN = 0.3
FIRST, INSIDE, UNLINKED, UNSETTLED, ELSEWHERE = (
    "before the first checkpoint",
    "inside a checkpoint",
    "between its name and last",
    "between last and the clearing up",
    "between checkpoints",
)


@dataclasses.dataclass(frozen=True)
class Ground:
    """What trials have in common.

    Attributes:
        calm: outcome of the run that was left in peace.
        life: seconds of processor time that its process took.
        more: settings beside ``SETTINGS``.
        processes: that take its steps together.
    """

    folder: Path
    data: Path
    calm: dict[str, Any]
    life: float
    more: tuple[str, ...] = ()
    processes: int = 1


@dataclasses.dataclass
class Trial:
    """What became of one trial.

    Attributes:
        places: where the process was at every signal that met it.
        wrong: what must not be, in words; empty if all went well.
        unreadable: signals after which ``last`` could not be read.
        waited: most seconds from a signal to the end of the process.
    """

    seed: int
    places: list[str] = dataclasses.field(default_factory=list)
    wrong: list[str] = dataclasses.field(default_factory=list)
    unreadable: int = 0
    waited: float = 0.0


def make_ground(folder: Path, more: tuple[str, ...] = (), processes: int = 1) -> Ground:
    """Pictures, and the run that is left in peace."""
    data, out = folder / "data", folder / "calm"
    make_data(data)
    process = start(data, out, more=more, processes=processes)
    life = watch(process, math.inf, processes > 1)
    if process.returncode:
        raise SystemExit(f"the run left in peace ended so: {process.returncode}\n{log_of(out)}")
    return Ground(folder, data, outcome(out), life, more, processes)


def make_data(root: Path) -> None:
    """SPLIT/CLASS/file; four pictures a class to measure on."""
    for place, (name, train) in enumerate(CLASSES.items()):
        for split, count in (("train", train), ("val", 4)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                seed = 1000 * place + 500 * (split == "val") + index
                colour = (200, 60, 40)[place:] + (200, 60, 40)[:place]
                (root / split / name / f"{index}.png").write_bytes(picture(colour, seed))


def picture(colour: tuple[int, ...], seed: int) -> bytes:
    """A noisy PNG of one colour, 21 pixels high and 29 wide."""
    noise = np.random.default_rng(seed).normal(0, 60, (21, 29, 3))
    stream = io.BytesIO()
    Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def start(
    data: Path, out: Path, resume: bool = False, more: tuple[str, ...] = (), processes: int = 1
) -> subprocess.Popen[bytes]:
    """A training process, the head of its own process group; what it says is in ``log_of``."""
    launcher = [*TORCHRUN, f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "training", "smoke", "--data", str(data)]
    command += ["--out", str(out)]
    command += [part for setting in (*SETTINGS, *more) for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command + ["--resume"] * resume,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def log_of(out: Path) -> str:
    return out.with_suffix(".log").read_text(encoding="utf-8", errors="replace")


def outcome(out: Path) -> dict[str, Any]:
    """What two runs have in common if they are the same run."""
    files = [f"last/{WEIGHTS}", f"best/{WEIGHTS}", f"last/{TRAINING_STATE}"]
    return {
        "hashes": {name: sha256_file(out / name) for name in files},
        "metrics": lines_of(out),
        "figures": figures_of(out),
        "names": sorted(path.name for path in out.iterdir()),
        "checkpoints": sorted(path.name for path in (out / "checkpoints").iterdir()),
        "left half written": [path.name for path in out.rglob(".*")],
    }


def lines_of(out: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the times of day."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def figures_of(out: Path) -> dict[str, Any]:
    """The report's figures, without its name and the time of day."""
    path = out / "report" / "report.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    return {key: value for key, value in report.items() if key not in ("run", "made")}


# --- one trial -------------------------------------------------------------------------------


def run_trial(
    ground: Ground, seed: int, number: signal.Signals = signal.SIGKILL
) -> Trial:
    """A run that gets the signal at least once, resumed to its end; anew if it ended before."""
    trial, draws = Trial(seed), random.Random(f"{number.name} {seed}")
    mode = MODES[seed % len(MODES)] if number == signal.SIGKILL else "any"
    starts, several = 0, ground.processes > 1
    expected = (*INTERRUPTED[number], *[1] * several)  # torchrun's own, whatever ended it
    while not trial.places:
        out = ground.folder / f"{number.name}-{seed}-{starts}"
        starts += 1
        while True:
            resume = may_resume(ground, out, trial)
            process = start(ground.data, out, resume, ground.more, ground.processes)
            sent, family = False, [process.pid]
            if not trial.places or draws.random() < AGAIN:
                wait_for_the_moment(process, out, draws, mode, ground)
                family += below(process.pid)
                if process.poll() is None:
                    sent = True
                    send(number, family, draws, mode, ground)
            began = time.monotonic()
            if process.wait() not in expected or not sent:
                break
            trial.waited = max(trial.waited, time.monotonic() - began)
            if not ended_with(family):
                trial.wrong.append(f"processes outlived the run: {living(family)}")
            trial.places.append(place_of(out))
            trial.unreadable += not is_readable(out)
        check_end(ground, out, process.returncode, trial)
    return trial


def send(
    number: signal.Signals, family: list[int], draws: random.Random, mode: str, ground: Ground
) -> None:
    """The signal to whom it is for: the run, its group, or one of several processes."""
    if ground.processes > 1 and number == signal.SIGKILL:
        several = family[: 1 + ground.processes]  # torchrun, then by rank
        place = draws.randrange(len(several)) if mode == "any" else 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(several[min(place, len(several) - 1)], number)
    elif ground.more and number == signal.SIGKILL:
        os.kill(family[0], number)
    else:
        os.killpg(family[0], number)


def ended_with(family: list[int], most: float = 60) -> bool:
    """Whether all processes of a family end within seconds."""
    deadline = time.monotonic() + most
    while living(family) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not living(family)


def living(family: list[int]) -> list[int]:
    """Those of a family's processes that live, and all of the session that its first began."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, _, _, session = path.read_text().rpartition(") ")[2].split()[:4]
            ours = int(session) == family[0] or int(path.parent.name) in family
            if ours and state != "Z":
                found.append(int(path.parent.name))
    return found


def below(process: int) -> list[int]:
    """All processes that one has started, and those that they have; its own first, by age."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parents[int(path.parent.name)] = int(path.read_text().rpartition(") ")[2].split()[1])
    found, new = [], [process]
    while new:
        new = sorted(child for child, parent in parents.items() if parent in new)
        found += new
    return found


def wait_for_the_moment(
    process: subprocess.Popen[bytes], out: Path, draws: random.Random, mode: str, ground: Ground
) -> None:
    """Until the instant that is drawn for the kill, or the process ends."""
    if mode == "any":
        watch(process, draws.uniform(0, ground.life), ground.processes > 1)
        time.sleep(draws.uniform(0, DELAY["any"]))  # it may be waiting for a disk
        return
    seen: set[str] = set()
    number = draws.randint(1, CHECKPOINTS)
    while process.poll() is None and len(seen) < number:
        seen |= temporaries(out)
        time.sleep(0.0002)
    while mode == "links" and process.poll() is None and temporaries(out):
        pass
    time.sleep(draws.uniform(0, DELAY[mode]))


def watch(process: subprocess.Popen[bytes], until: float, family: bool = False) -> float:
    """Wait until the process took so much processor time, or ended; the seconds that it took.

    Args:
        family: count what it has started too.
    """
    taken = 0.0
    while process.poll() is None and taken < until:
        everyone = [process.pid, *(below(process.pid) if family else ())]
        taken = max(taken, sum(map(processor_time, everyone)))
        time.sleep(0.02 if family else 0.002)
    return taken


def processor_time(process: int) -> float:
    """Seconds; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def temporaries(out: Path) -> set[str]:
    """Checkpoints that are being written: their folders have no name yet."""
    return {path.name for path in (out / "checkpoints").glob(".step-*")}


def place_of(out: Path) -> str:
    """Where a killed process was, by what it left."""
    if temporaries(out):
        return INSIDE
    folders = sorted((out / "checkpoints").glob("step-*")) if out.exists() else []
    known = ("last", "best", "previous")
    links = {name: (out / name).resolve() for name in known if (out / name).exists()}
    if not folders:
        return FIRST
    if folders[-1] != links.get("last"):
        return UNLINKED
    return UNSETTLED if set(folders) - set(links.values()) else ELSEWHERE


def is_readable(out: Path) -> bool:
    """Whether ``last`` is whole, if there is one."""
    if not (out / "last").is_symlink():
        return True
    try:
        _, description = load_checkpoint(out / "last")
        load_tensors(out / "last" / TRAINING_STATE)
    except CheckpointError:
        return False
    return sha256_file(out / "last" / TRAINING_STATE) == description.notes["training_sha256"]


def may_resume(ground: Ground, out: Path, trial: Trial) -> bool:
    """Whether there is a checkpoint; where a start left none, asking for it must be refused."""
    if (out / "last").is_symlink():
        return True
    if out.with_suffix(".log").exists():
        refusal = start(ground.data, out, True, ground.more, ground.processes).wait()
        expected = 2 if ground.processes == 1 else 1  # torchrun's own, whatever it was
        if refusal != expected or "holds no checkpoint to resume from" not in log_of(out):
            trial.wrong.append(f"--resume without a checkpoint ended with {refusal}")
    return False


def check_end(ground: Ground, out: Path, status: int, trial: Trial) -> None:
    """The run must have ended well, and as the one left in peace."""
    if status:
        trial.wrong.append(f"ended with status {status}: {log_of(out)[-2000:]}")
        return
    ended = outcome(out)
    trial.wrong += [name for name in ended if ended[name] != ground.calm[name]]


# --- all trials ------------------------------------------------------------------------------


def main() -> int:
    """Try, tell, and end with a JSON line; the status is 1 if anything was lost."""
    options = parse()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reading = ("read=each-step", f"workers={options.workers}") if options.workers else ()
        ground = make_ground(Path(folder), reading, options.processes)
        print(f"in peace: {ground.life:.1f} processor seconds, {ground.calm['hashes']}", flush=True)
        first = options.seed
        kills = [tell(run_trial(ground, first + n)) for n in range(options.kills)]
        stops = [tell(run_trial(ground, first + n, signal.SIGTERM)) for n in range(options.stops)]
    trials = kills + stops
    places = collections.Counter(place for trial in kills for place in trial.places)
    result = {
        "benchmark": "kill_training",
        "runs": len(kills),
        "kills": places.total(),
        "kills_during_a_checkpoint": places[INSIDE] + places[UNLINKED] + places[UNSETTLED],
        "places": dict(places),
        "stops": len(stops),
        "slowest_stop_seconds": round(max((trial.waited for trial in stops), default=0.0), 2),
        "unequal": sum(bool(trial.wrong) for trial in trials),
        "unreadable": sum(trial.unreadable for trial in trials),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result))
    return int(bool(result["unequal"] or result["unreadable"]))


def parse() -> argparse.Namespace:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--kills", type=int, default=50, help="runs that are killed, at least once")
    parser.add_argument("--stops", type=int, default=10, help="runs that get a SIGTERM")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; then 1 more each")
    parser.add_argument("--workers", type=int, default=0, help="processes that read the batches")
    parser.add_argument("--processes", type=int, default=1, help="that take the steps together")
    return parser.parse_args()


def tell(trial: Trial) -> Trial:
    ended = f"NOT THE SAME: {', '.join(trial.wrong)}" if trial.wrong else "the same end"
    if trial.unreadable:
        ended += f"; last UNREADABLE {trial.unreadable} times"
    print(f"seed {trial.seed}: signal {', then '.join(trial.places)}; {ended}", flush=True)
    return trial


if __name__ == "__main__":
    sys.exit(main())
