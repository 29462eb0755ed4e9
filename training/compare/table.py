"""The table of a comparison: Markdown for people, CSV and JSON for programs, pictures.

An interval is Student's t over the seeds, 95 %: what another set of seeds would do, on the same
items. Differences to the first encoding are taken seed by seed before they are averaged: with one
seed all encodings see the same batches. What is not there yet is said to be missing; what
cannot be there is said to have failed, and why.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from media.files import write_atomic
from media.spec import Grid
from media.strict_json import to_json
from training.compare.comparison import Comparison, held, write_json
from training.compare.pictures import TITLES, draw
from training.compare.rows import Row, SeedMean, rows_of
from training.compare.step_times import step_times

MISSING = "missing"


def write(comparison: Comparison) -> Path:
    """Write table and pictures of what is finished; returns the Markdown file."""
    root = comparison.root
    with held(root, "table"):  # whoever comes last has seen the most
        rows = rows_of(comparison)
        for name, picture in draw(rows).items():
            write_atomic(root / name, picture)
        write_json(root / "results.json", as_json(comparison, rows))
        write_atomic(root / "compare.csv", as_csv(rows).encode())
        write_atomic(root / "compare.md", as_markdown(comparison, rows).encode())
    return root / "compare.md"


# --- Markdown ---------------------------------------------------------------------------------


def as_markdown(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The table, what its columns mean, the recipe, and the pictures."""
    first, seeds = comparison.encodings[0], len(comparison.seeds)
    others = [scale for scale in comparison.recipe.scales if scale != 1]
    head = ["encoding", "seeds", "top-1", "deviation", f"minus {first}"]
    head += [f"at {scale:g}x" for scale in others]
    head += ["shuffled", "parameters", "of encoding", "step time"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells = [row.encoding, f"{row.finished} of {seeds}", percent(row.accuracy[1.0])]
        cells += [_deviation(row.accuracy[1.0])]
        cells += ["" if row.encoding == first else percent(row.difference, "+")]
        cells += [percent(row.accuracy[scale]) for scale in others]
        cells += [percent(row.shuffled), _number(row.parameters, ",")]
        cells += [_number(row.encoding_parameters, ","), _number(row.step_ratio, ".3f")]
        lines.append([row.lacking if cell == MISSING else cell for cell in cells])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    pictures = "\n".join(f"![{title}]({name})" for name, title in TITLES.items())
    told = f"{_meaning(comparison)}\n\n{_recipe(comparison)}"
    return f"{table}\n{_failures(rows)}\n{told}\n\n{pictures}\n"


def _failures(rows: Sequence[Row]) -> str:
    """Why runs failed, as a list; nothing where none did."""
    lines = [
        f"* {row.encoding}, seed {seed}, failed: {reason}"
        for row in rows
        for seed, reason in row.failed.items()
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def percent(figure: SeedMean | None, sign: str = "") -> str:
    """``61.23 ± 0.85``; the half of the interval is left out where there is one seed."""
    if figure is None:
        return MISSING
    half = "" if figure.half is None else f" ± {100 * figure.half:.2f}"
    return f"{round(100 * figure.mean, 2) + 0.0:{sign}.2f}{half}"  # + 0.0: no minus before 0.00


def _deviation(figure: SeedMean | None) -> str:
    if figure is None:
        return MISSING
    return "one seed" if figure.deviation is None else f"{100 * figure.deviation:.2f}"


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else f"{value:{form}}"


def _meaning(comparison: Comparison) -> str:
    """What the columns are."""
    recipe, first = comparison.recipe, comparison.encodings[0]
    measured = next(iter(comparison.finished().values()), None)
    items = f"{measured['items']} items" if measured else "items"
    times = step_times(comparison)
    steps = "not measured yet"
    if times:
        own = times["seconds"].get(first)
        steps = (
            f"medians of {times['rounds']} training steps, encodings in turn, over {first}'s "
            f"({f'{1000 * own:.0f} ms' if own else 'which failed'}; {times['device']}, threads: "
            f"{times['threads']})"
        )
    return (
        f"Top-1 in % on {items} of split {recipe.split}: mean over the seeds ± half of the 95 % "
        "interval (Student's t over the seeds), and the seeds' standard deviation. Minus "
        f"{first}: difference seed by seed. At other multiples of the training grid the pictures "
        "are that much larger; shuffled: the patches of every item out of order, at the training "
        f"grid. Step time: {steps}."
    )


def _recipe(comparison: Comparison) -> str:
    """What all runs share, in a line."""
    config, model = comparison.recipe.config, comparison.recipe.config.model
    patch = "x".join(map(str, model.patch))
    items = f"{config.items} training items" if config.items else "all training items"
    return (
        f"Every model: width {model.width}, depth {model.depth}, {model.heads} heads, MLP "
        f"{model.mlp_dim}, patch {patch}, grid {Grid(model.grid)}, pool {model.pool}; {items}, "
        f"epochs: {config.epochs}, batch {config.batch}, peak rate "
        f"{config.learning_rate:g}, {config.precision}, checkpoint by {config.choose}."
    )


# --- for programs -----------------------------------------------------------------------------


def as_json(comparison: Comparison, rows: Sequence[Row]) -> dict[str, Any]:
    """results.json: the recipe, the table, and what was measured of every run, null if missing."""
    recipe = to_json(comparison.recipe)
    del recipe["config"]["data"]  # a path of this machine
    return {
        "recipe": recipe,
        "rows": [json.loads(json.dumps(dataclasses.asdict(row))) for row in rows],
        "runs": [
            {
                "encoding": e.encoding,
                "seed": e.seed,
                "measured": e.measured(),
                "failed": e.failed(),
            }
            for e in comparison.entries()
        ],
        "steps": step_times(comparison),
    }


def as_csv(rows: Sequence[Row]) -> str:
    """One line an encoding, accuracies 0 to 1; a missing figure is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_cells(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(row) for row in rows)
    return text.getvalue()


def _cells(row: Row) -> dict[str, Any]:
    figures = {f"top1_at_{scale:g}x": figure for scale, figure in row.accuracy.items()}
    figures |= {"difference": row.difference, "shuffled": row.shuffled}
    cells: dict[str, Any] = {"encoding": row.encoding, "seeds": row.finished}
    cells["failed"] = "; ".join(f"seed {seed}: {why}" for seed, why in row.failed.items())
    for name, figure in figures.items():
        for field in ("mean", "deviation", "half"):
            cells[f"{name}_{field}"] = getattr(figure, field, None)
    rest = ("parameters", "encoding_parameters", "step_seconds", "step_ratio")
    return cells | {name: getattr(row, name) for name in rest}
