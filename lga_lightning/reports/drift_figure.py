"""The picture of edits one after the other: all scores, what became of early facts, speed and memory, by number of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lga_lightning.evaluation.prompts import FAMILIES, PERPLEXITY
from lga_lightning.reports.tables import cohort_label
from lga_lightning.results.retention import Cohort, GrowthPoint
from lga_lightning.results.validation import ValidationResult
from lga_lightning.utils.io import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRIFT_FILE = "drift.png"
LINES = ("-", "--", "-.", ":")
SHOWN = tuple(family for family in FAMILIES if family != "portability")
EDITS = "edits in place"
INSIDE = 4  # curves whose names have room among them


def draw_drift(result: ValidationResult, path: Path) -> None:
    """Draw what a run of edits one after the other did, by number of edits.

    Above, the teacher-forced means over the facts edited so far, of every metric that lies between -1 and 1, and their speed and
    memory; below, a panel for each family of prompts with a curve for each cohort of early facts.

    Args:
        result: A result of the mode ``sequential``.
        path: Where the PNG is to appear.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    panels = figure.subplots(2, 3)
    drift = result.drift or []
    points = {point.edits: point.scores for point in drift}
    _draw_scores(panels[0, 0], points, [name for name in _names(points) if "." not in name], "facts edited so far")
    _draw_scores(
        panels[0, 1], points, [name for name in _names(points) if "." in name], "their parts, and CounterFact's scores"
    )
    _draw_growth(panels[0, 2], result.growth or [])
    cohorts = [cohort for cohort in result.cohorts or [] if cohort.points]
    for axes, family in zip(panels[1], SHOWN, strict=True):
        _draw_cohorts(axes, cohorts, family)
    write_whole(path, lambda scratch: figure.savefig(scratch, dpi=130))


def _names(points: Mapping[int, Mapping[str, float]]) -> list[str]:
    return [name for name in dict.fromkeys(name for scores in points.values() for name in scores) if name != PERPLEXITY]


def _draw_scores(axes: Axes, points: Mapping[int, Mapping[str, float]], names: Sequence[str], title: str) -> None:
    for place, name in enumerate(names):
        values = [scores.get(name, float("nan")) for scores in points.values()]
        axes.plot(list(points), values, marker="o", markersize=3, linestyle=LINES[place % len(LINES)], label=name)
    _finish(axes, title, "mean, teacher-forced", bool(names))


def _draw_cohorts(axes: Axes, cohorts: Sequence[Cohort], family: str) -> None:
    for place, cohort in enumerate(cohorts):
        values = [point.scores.get(family, float("nan")) for point in cohort.points]
        edits = [point.edits for point in cohort.points]
        line = LINES[place % len(LINES)]
        axes.plot(edits, values, marker="o", markersize=3, linestyle=line, label=f"facts {cohort_label(cohort)}")
    _finish(axes, f"{family} of early facts", "token accuracy", bool(cohorts))
    axes.set_ylim(-0.03, 1.03)


def _draw_growth(axes: Axes, growth: Sequence[GrowthPoint]) -> None:
    edits = [point.edits for point in growth]
    axes.plot(edits, [point.edits_per_minute for point in growth], marker="o", markersize=3, label="edits a minute")
    axes.plot(edits, [point.memory_mb for point in growth], linestyle="--", label="memory, MB")
    peaks = [point.device_peak_mb or 0.0 for point in growth]
    if any(peaks):
        axes.plot(edits, peaks, linestyle=":", label="accelerator's peak, MB")
    axes.set_yscale("log")
    _finish(axes, "speed and memory", "", bool(growth))


def _finish(axes: Axes, title: str, y_name: str, drawn: bool) -> None:
    axes.set_xscale("log")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(EDITS)
    axes.set_ylabel(y_name)
    axes.grid(axis="y", color="lightgrey", linewidth=0.6)
    if drawn:
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "ncols": 3}
        axes.legend(fontsize=7, frameon=False, **(below if len(axes.lines) > INSIDE else {}))
