"""The dashboard as code: ``python -m deploy.dashboard`` writes what Grafana is given.

Every panel is a row of ``ROWS``: its title, its unit, and a query for each legend. Panels are laid
out from left to right, three in a line. ``$instance`` is the server that is looked at, or all.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)

PATH = Path(__file__).parent / "grafana" / "dashboards" / "liere.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
#: Of Grafana's 24 columns, and in its rows.
WIDTH, HEIGHT = 8, 8
OURS = 'job="liere", instance=~"$instance"'


def rate(series: str, by: str = "", where: str = "") -> str:
    """A second, over what Grafana thinks fit for the span that is looked at."""
    return f"sum by ({by}) (rate({series}{{{OURS}{where}}}[$__rate_interval]))"


def quantile(part: float, series: str, by: str, where: str = "") -> str:
    """Of a histogram."""
    together = f"le, {by}" if by else "le"
    return f"histogram_quantile({part}, {rate(f'{series}_bucket', together, where)})"


def gauge(series: str, where: str = "") -> str:
    """As it stands."""
    return f"{series}{{{OURS}{where}}}"


class Chart(NamedTuple):
    """One panel."""

    title: str
    unit: str  # as Grafana names it
    queries: dict[str, str]  # legend -> PromQL
    meaning: str = ""


ROWS = {
    "Is it well": [
        Chart("Ready", "none", {"{{instance}}": gauge("liere_ready")}),
        Chart(
            "Availability: how fast the month's failures are used up",
            "none",
            {window: f"job:liere_availability:burn{window}" for window in ("1h", "6h", "3d")},
            "At 1 they last for the 30 days of the SLO; pages at 14.4 over an hour.",
        ),
        Chart(
            "Latency: how fast the month's slow answers are used up",
            "none",
            {window: f"job:liere_latency:burn{window}" for window in ("1h", "6h", "3d")},
            "At 1 they last for the 30 days of the SLO; pages at 14.4 over an hour.",
        ),
        Chart(
            "Alerts",
            "none",
            {"{{alertname}} {{alertstate}}": "sum by (alertname, alertstate) (ALERTS)"},
        ),
        Chart(
            "Bundles",
            "none",
            {"{{bundle}}@{{version}} {{state}}": gauge("liere_bundle_info")},
        ),
        Chart("GPU that is not used", "none", {"{{instance}}": gauge("liere_device_fallback")}),
        Chart("Devices left out", "none", {"{{instance}}": gauge("liere_devices_left_out")}),
    ],
    "Requests": [
        Chart("Answers by status", "reqps", {"{{code}}": rate("liere_requests_total", "code")}),
        Chart(
            "Answers by outcome",
            "reqps",
            {"{{modality}} {{outcome}}": rate("liere_request_seconds_count", "modality, outcome")},
        ),
        Chart(
            "Time of an answer",
            "s",
            {
                f"{{{{modality}}}} p{part}": quantile(
                    part / 100, "liere_request_seconds", "modality", ', outcome="ok"'
                )
                for part in (50, 95, 99)
            },
        ),
        Chart(
            "p99 by outcome",
            "s",
            {"{{outcome}}": quantile(0.99, "liere_request_seconds", "outcome")},
        ),
        Chart(
            "Time in a stage, p99",
            "s",
            {"{{modality}} {{stage}}": quantile(0.99, "liere_stage_seconds", "modality, stage")},
        ),
        Chart(
            "Time in a stage, median",
            "s",
            {"{{modality}} {{stage}}": quantile(0.5, "liere_stage_seconds", "modality, stage")},
        ),
    ],
    "Load": [
        Chart(
            "Predicted wait",
            "s",
            {"{{modality}}": gauge("liere_predicted_wait_seconds")},
            "What a newcomer would wait; near --max-wait for long: more machines.",
        ),
        Chart(
            "Refused",
            "reqps",
            {"{{modality}} {{reason}}": rate("liere_refused_total", "modality, reason")},
            "wait and deadline are work, bytes and requests are memory.",
        ),
        Chart("Work inside", "s", {"{{resource}}": gauge("liere_backlog_seconds")}),
        Chart(
            "Requests inside",
            "none",
            {
                "inside {{instance}}": gauge("liere_in_flight"),
                "bound {{instance}}": gauge("liere_limit", ', name="max_in_flight"'),
            },
        ),
        Chart(
            "Bytes inside",
            "bytes",
            {
                "inside {{instance}}": gauge("liere_in_flight_bytes"),
                "bound {{instance}}": gauge("liere_limit", ', name="max_in_flight_mib"')
                + " * 2^20",
            },
        ),
        Chart("Items that wait", "none", {"{{queue}}": gauge("liere_queue_depth")}),
        Chart(
            "Items that ended without an answer",
            "ops",
            {"{{stage}} {{reason}}": rate("liere_dropped_total", "stage, reason")},
        ),
        Chart(
            "Predicted over actual",
            "none",
            {
                "{{modality}} {{part}}": rate("liere_predicted_seconds_total", "modality, part")
                + " / "
                + rate("liere_actual_seconds_total", "modality, part")
            },
            "How well costs are known; near 1.",
        ),
        Chart("Without a key", "reqps", {"": rate("liere_unauthorized_total")}),
    ],
    "Drift": [
        Chart(
            "Probability of the first label, mean of six hours",
            "percentunit",
            {
                "{{bundle}}@{{version}} {{grid}}": "grid:liere_confidence:mean6h",
                "{{bundle}}@{{version}} {{grid}} as measured": gauge("liere_measured_confidence"),
            },
            "Calibrated: as often as it says an answer should be right.",
        ),
        Chart(
            "Distance of the mix of labels from the measured one",
            "percentunit",
            {"{{bundle}}@{{version}} {{grid}}": "grid:liere_mix:distance6h"},
            "Share of the answers of six hours that would have to have another label.",
        ),
        Chart(
            "Answers that drift is told by, of six hours",
            "none",
            {"{{bundle}}@{{version}} {{grid}}": "grid:liere_answers:increase6h"},
            "Fewer than 500 set off no alert.",
        ),
        Chart(
            "First labels of six hours",
            "percentunit",
            {"{{bundle}}@{{version}} {{grid}} {{label}}": "grid:liere_first_label:share6h"},
        ),
        Chart(
            "First labels of the measured split",
            "percentunit",
            {"{{bundle}}@{{version}} {{grid}} {{label}}": gauge("liere_measured_mix")},
        ),
        Chart(
            "Answers by first label",
            "reqps",
            {
                "{{bundle}}@{{version}} {{grid}} {{label}}": rate(
                    "liere_first_label_total", "bundle, version, grid, label"
                )
            },
            "Labels beyond 20 that are rare in the measured split are other.",
        ),
    ],
    "Shadow": [
        Chart(
            "First labels that agree",
            "percentunit",
            {
                "{{bundle}} {{version}}": rate(
                    "liere_shadow_items_total", "bundle, version", ', outcome="agreed"'
                )
                + " / "
                + rate(
                    "liere_shadow_items_total", "bundle, version", ', outcome=~"agreed|differed"'
                )
            },
            "Of a candidate version and the one that answers.",
        ),
        Chart(
            "Difference of probabilities",
            "percentunit",
            {
                "{{bundle}} {{version}} mean": rate(
                    "liere_shadow_difference_sum", "bundle, version"
                )
                + " / "
                + rate("liere_shadow_difference_count", "bundle, version"),
                "{{bundle}} {{version}} largest": gauge("liere_shadow_largest_difference"),
            },
            "Of each copy that of the label for which it is largest; the largest since it began.",
        ),
        Chart(
            "Copies",
            "ops",
            {
                "{{bundle}} {{version}} {{outcome}}": rate(
                    "liere_shadow_items_total", "bundle, version, outcome"
                )
            },
            "Shed where requests wait or memory is full; failed where it cannot answer.",
        ),
        Chart(
            "Share that is copied",
            "percentunit",
            {"{{bundle}} {{version}} {{instance}}": gauge("liere_shadow_share")},
        ),
        Chart("Held by copies", "bytes", {"{{instance}}": gauge("liere_shadow_bytes")}),
    ],
    "Batches": [
        Chart(
            "Rows in a run, mean",
            "none",
            {
                "{{modality}}": rate("liere_batch_size_sum", "modality")
                + " / "
                + rate("liere_batch_size_count", "modality")
            },
        ),
        Chart(
            "Rows in a run, 9 of 10 below",
            "none",
            {"{{modality}}": quantile(0.9, "liere_batch_size", "modality")},
        ),
        Chart("Runs", "ops", {"{{modality}}": rate("liere_batch_size_count", "modality")}),
        Chart("Lanes", "none", {"{{instance}}": gauge("liere_device_lanes")}),
        Chart("Grids", "none", {"{{bundle}}@{{version}} {{grid}}": gauge("liere_grid_info")}),
    ],
    "Jobs": [
        Chart("Jobs", "none", {"{{state}}": gauge("liere_jobs")}),
        Chart("Files that wait", "none", {"{{instance}}": gauge("liere_job_items_waiting")}),
        Chart("Lines", "ops", {"{{outcome}}": rate("liere_job_items_total", "outcome")}),
        Chart(
            "Age of the oldest that is queued",
            "s",
            {"{{instance}}": gauge("liere_job_oldest_seconds")},
            "It waits for a turn, or for a version: its document says why.",
        ),
        Chart("On the disk", "bytes", {"{{instance}}": gauge("liere_job_bytes")}),
    ],
    "The process": [
        Chart(
            "Memory",
            "bytes",
            {
                "all of it {{instance}}": gauge("liere_memory_bytes"),
                "bound {{instance}}": gauge("liere_memory_limit_bytes"),
                "server {{instance}}": gauge("process_resident_memory_bytes"),
            },
            "All is server and decode workers; server is its process alone.",
        ),
        Chart("CPUs of the server's process", "none", {"": rate("process_cpu_seconds_total")}),
        Chart("Open files", "none", {"{{instance}}": gauge("process_open_fds")}),
        Chart(
            "Starts of the server",
            "none",
            {"{{instance}}": f"changes(process_start_time_seconds{{{OURS}}}[$__rate_interval])"},
        ),
        Chart(
            "Decode workers that were replaced",
            "ops",
            {"": rate("liere_decode_worker_restarts_total")},
        ),
        Chart("Decode workers", "none", {"{{instance}}": gauge("liere_decode_workers")}),
        Chart(
            "How late the event loop is, p99",
            "s",
            {"{{instance}}": quantile(0.99, "liere_loop_lag_seconds", "instance")},
            "A tenth of a second is felt by every request.",
        ),
    ],
}


def panel(chart: Chart, number: int) -> Panel:
    """What Grafana draws of a chart."""
    made = Panel().id(number).title(chart.title).description(chart.meaning).unit(chart.unit).min(0)
    for name, (legend, query) in zip("ABCDEF", chart.queries.items(), strict=False):
        made.with_target(Dataquery().expr(query).legend_format(legend).ref_id(name))
    return made.datasource(SOURCE).span(WIDTH).height(HEIGHT)


def dashboard() -> Dashboard:
    """All of it."""
    instance = (
        QueryVariable("instance")
        .label("Server")
        .query('label_values(up{job="liere"}, instance)')
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )
    made = (
        Dashboard("LieRE")
        .uid("liere")
        .tags(["liere"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(instance)
    )
    numbers = itertools.count(1)
    for title, charts in ROWS.items():
        made.with_row(Row(title).id(next(numbers)))
        for chart in charts:
            made.with_panel(panel(chart, next(numbers)))
    return made


def encoded() -> str:
    """The file that Grafana reads."""
    plain = json.loads(JSONEncoder().encode(dashboard().build()))
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


def write() -> None:
    """The file, anew."""
    PATH.write_text(encoded(), encoding="utf-8")


if __name__ == "__main__":
    write()
