"""Every row of the serving engine at its full length, one after another, and what each must reach.

    python -m benchmarks.serving.soak                        hours
    python -m benchmarks.serving.soak --only sigterm memory  of ROWS below, by module
    python -m benchmarks.serving.soak --quick                shows that the rows run

Each row is a process of its own, ``python -m benchmarks.serving.MODULE``, whose last line is JSON;
what it says is shown as it comes. At the end is a table: every figure, its bound, whether it was
reached; and, of each row with a server, how late its event loop was. The exit status is 1 if a
bound was missed or a row did not end well; with --quick only the latter counts, since short figures
mean little.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.running import ROOT

LAG = re.compile(r"^event loop: .* at most (\S+) ms late, of .* (\S+) ms$", re.MULTILINE)
MOST_LAG_MS = 25.0


@dataclass(frozen=True)
class Bound:
    """A figure of a row's JSON, and the least or the most that it may be."""

    figure: str
    find: Callable[[dict[str, Any]], float | None]
    least: float | None = None
    most: float | None = None

    @property
    def told(self) -> str:
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"

    def holds(self, value: float | None) -> bool:
        """A figure that the row could not tell is missed."""
        if value is None:
            return False
        return value >= self.least if self.least is not None else value <= (self.most or 0.0)


@dataclass(frozen=True)
class Row:
    """A module of this folder with arguments, what must be true of it, and how it is cut short."""

    module: str
    arguments: Sequence[str]
    bounds: Sequence[Bound]
    quick: Sequence[str] = ("--quick",)

    @property
    def command(self) -> str:
        return " ".join((self.module, *self.arguments))


def least(figure: str, find: Callable[[dict[str, Any]], float | None], bound: float) -> Bound:
    return Bound(figure, find, least=bound)


def most(figure: str, find: Callable[[dict[str, Any]], float | None], bound: float) -> Bound:
    return Bound(figure, find, most=bound)


def overloaded(goodput: float, recovery: float) -> Sequence[Bound]:
    """What holds at 3 and at 10 times the capacity."""
    return (
        least("goodput at 3 times", lambda it: it["rows"][0]["goodput"], goodput),
        least("goodput at 10 times", lambda it: it["rows"][1]["goodput"], recovery),
        most("10 times: p99, ms", lambda it: it["rows"][1]["p99_ms"], 1000),
        most("10 times: refusals' p99, ms", lambda it: it["rows"][1]["refusal_p99_ms"], 50),
        most("10 times: as before after, s", lambda it: it["rows"][1]["recovery_s"], 2),
    )


#: What `make soak` runs; another row is another entry.
ROWS = (
    Row("goodput", ("--model", "tiny-absolute"), overloaded(0.90, 0.70)),
    Row("goodput", ("--model", "vit_s-absolute"), overloaded(0.95, 0.95)),
    Row("refusal", (), [most("processor time, ms", lambda it: it["cpu_ms"], 0.2)]),
    Row("abandoned", (), [
        most("all leave: of what was left", lambda it: it["all_leave"], 0.05),
        most("a third leaves: not for answers",
             lambda it: it["third_leaves"]["not_for_answers"], 0.12),
    ]),
    Row("per_request", (), [most("processor time over bare", lambda it: it["ratio"], 0.82)]),
    Row("beside_scans", (), [most("an image's p99, ms", lambda it: it["beside"]["p99_ms"], 50)]),
    Row("slow_clients", (), [least("honest goodput", lambda it: it["beside"]["share"], 0.95)]),
    Row("lanes", (), [
        least("batch 1: rows a second over one lane", lambda it: it["rows"][0]["station"][0], 1.4),
        least("batch 8: rows a second over one lane", lambda it: it["rows"][1]["station"][0], 1.1),
    ], ("--rounds", "1", "--seconds", "0.2")),
    Row("mixed_grids", (), [least("rates over alone", lambda it: it["rates"][0], 0.90)]),
    Row("fuzz", (), [
        most("faults", lambda it: it["faults"], 0),
        most("decode workers that died", lambda it: it["worker_deaths"], 0),
    ], ("--files", "20")),
    Row("beside_broken", (), [
        most("good requests lost", lambda it: it["lost"], 0),
        most("ended as they may not", lambda it: sum(it["bad"].values()), 0),
        most("share of 429", lambda it: it["refused"] / it["good"], 0.01),
    ]),
    Row("sigterm", (), [
        most("lost", lambda it: sum(one["lost"] for one in it["ways"].values()), 0),
        most("processes left", lambda it: sum(one["left"] for one in it["ways"].values()), 0),
        most("bad ends", lambda it: sum(one["bad_ends"] for one in it["ways"].values()), 0),
    ]),
    Row("killed_workers", (), [
        most("requests lost", lambda it: it["lost"], 0),
        most("share of 429", lambda it: it["refused"] / it["good"], 0.01),
    ]),
    Row("prepared", (), [least("images a second over bare", lambda it: it["ratio"][0], 0.95)],
        ("--rounds", "1", "--seconds", "0.5")),
    Row("page", (), [
        most("first paint, ms", lambda it: it["paint_ms"], 100),
        most("bytes", lambda it: it["bytes"], 60_000),
    ]),
    Row("v2_tensors", (), [least("images a second over bare", lambda it: it["ratio"][0], 0.90)],
        ("--rounds", "1", "--quick")),
    Row("jobs_throughput", (), [
        least("images a second over classify", lambda it: it["ratio"][0], 0.90),
    ], ("--rounds", "1", "--quick")),
    Row("jobs_beside", (), [
        most("added to an image's p99, ms", lambda it: it["added_ms"], 20),
    ], ("--rounds", "1", "--quick")),
    Row("shadow", (), [
        most("added to an image's p99, ms", lambda it: it["added_ms"], 20),
        least("of the copies compared", lambda it: it["compared"] / it["copies"], 0.9),
    ], ("--rounds", "1", "--quick")),
    Row("jobs_killed", (), [
        most("items lost", lambda it: it["lost"], 0),
        most("items answered twice", lambda it: it["twice"], 0),
    ], ("--kills", "2", "--items", "50")),
    Row("explain", (), [
        most("an explanation, ms", lambda it: it["explanations"]["p50_ms"], 2500),
        most("added to an image's p99, ms", lambda it: it["added_p99_ms"], 20),
    ]),
    Row("swaps", (), [
        most("requests without their answer", lambda it: it["lost"], 0),
        most("swaps that failed", lambda it: it["failed"], 0),
        most("bad candidates let in", lambda it: it["let_in"], 0),
    ]),
    Row("memory", (), [
        most("bytes a request", lambda it: it["slope"], 64),
        most("good requests lost", lambda it: it["lost"], 0),
    ]),
    Row("memory", ("--leak", "256", "--requests", "50000"), [
        least("256 bytes a request: found", lambda it: it["caught"], 1),
    ]),
)  # fmt: skip


def main() -> int:
    """Run the rows, print the table, then one JSON line; the exit status."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    names = sorted({row.module for row in ROWS})
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these rows alone")
    parser.add_argument("--list", action="store_true", help="print the rows and run none")
    parser.add_argument("--quick", action="store_true", help="as short as a row can be")
    options = parser.parse_args()
    rows = [row for row in ROWS if row.module in options.only]
    if options.list:
        print("\n".join(f"{row.command}: {bound.figure}, {bound.told}" for row in rows
                        for bound in row.bounds))  # fmt: skip
        return 0
    lines = [line for row in rows for line in run(row, row.quick if options.quick else ())]
    width = max(len(line["row"]) + len(line["figure"]) for line in lines) + 2
    for line in lines:
        named, mark = f"{line['row']}: {line['figure']}", "  " if line["reached"] else "! "
        print(f"{mark}{named:{width}} {line['value']}  ({line['bound']})")
    print(json.dumps({"benchmark": "serving.soak", "quick": options.quick, "lines": lines}))
    failed = [line for line in lines if not line["reached"]]
    return int(any(line["value"] is None for line in failed) if options.quick else bool(failed))


def run(row: Row, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """One row to its end, shown as it comes; a line of the table for each of its figures."""
    print(f"== {row.command}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.serving.{row.module}", *row.arguments, *arguments]
    said = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    result = json.loads(said[-1]) if process.returncode == 0 else None
    lines = [table_line(row, bound, result) for bound in row.bounds]
    for late, idle in LAG.findall("".join(said)):
        figure = f"event loop late, p99.9, ms; an idle process {idle}"
        ms = None if late == "None" else float(late)
        lines.append(table_line(row, most(figure, lambda it: it["ms"], MOST_LAG_MS), {"ms": ms}))
    return lines


def table_line(row: Row, bound: Bound, result: dict[str, Any] | None) -> dict[str, Any]:
    """A figure and its bound; without a value where the row failed or had none."""
    try:
        value = None if result is None else bound.find(result)
    except (LookupError, TypeError) as error:
        raise SystemExit(f"{row.command} does not tell {bound.figure}: {error!r}") from error
    return {
        "row": row.command,
        "figure": bound.figure,
        "value": value,
        "bound": bound.told,
        "reached": bound.holds(value),
    }


if __name__ == "__main__":
    sys.exit(main())
